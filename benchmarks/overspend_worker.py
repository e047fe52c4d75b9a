"""One process of the overspend benchmark: a scheduler of its own, and clients that all call at once.

    python -m benchmarks.overspend_worker PLAN_AS_JSON

Prints `ready` once the scheduler is up, waits for a line, makes the calls, prints `done`, and lives on (its
scheduler renews and sweeps holds, as a replica's does) until its input ends. What became of each call is
written to a file at once, so that it survives kill -9.
"""

import asyncio
import dataclasses
import importlib
import json
import os
import random
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from admiralty.core.errors import AdmiraltyError, Retryable
from admiralty.core.settings import Settings
from admiralty.core.values import TokenDelta
from admiralty.runtime.scheduler import LocalScheduler
from benchmarks.governed import model_call, open_scheduler

CLIENT_RETRIES: Final = 50
"""How often a client comes back after "unavailable, retry later" that has nothing to do with a provider."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one worker does."""

    settings: dict[str, Any]
    """Of Admiralty."""
    results: str
    """File to write each call's outcome to, one JSON object a line."""
    worker: int = 0
    calls: int = 1
    """Made all at once."""
    output_tokens: int | None = None
    streaming: bool = False
    deadline_seconds: float = 60.0
    leave_early: int = 0
    """How many of the first clients go at a random time, answered or not."""
    leave_streams: int = 0
    """How many of the clients whose answers begin to stream first go after their first words."""


class Clients:
    """The clients of one worker."""

    def __init__(self, plan: Plan, scheduler: LocalScheduler) -> None:
        self._plan = plan
        self._scheduler = scheduler
        self._file = os.open(plan.results, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._streams_to_leave = plan.leave_streams
        self._random = random.Random(plan.worker)

    async def run(self) -> None:
        """Make all calls at once; return when every client has its answer or has gone."""
        await asyncio.gather(*(self._client(number) for number in range(self._plan.calls)))

    async def _client(self, number: int) -> None:
        begin = time.perf_counter()
        if number < self._plan.leave_early:
            try:
                async with asyncio.timeout(self._random.uniform(0.02, 1.0)):
                    outcome = await self._retrying(number, begin)
            except TimeoutError:
                outcome = {"status": "left"}
        else:
            outcome = await self._retrying(number, begin)
        outcome |= {"client": f"{self._plan.worker}/{number}", "caller": number}
        outcome["seconds"] = round(time.perf_counter() - begin, 4)
        os.write(self._file, json.dumps(outcome).encode() + b"\n")

    async def _retrying(self, number: int, begin: float) -> dict[str, Any]:
        for attempt in range(CLIENT_RETRIES):
            try:
                status = await self._call(number, attempt)
            except Retryable as error:
                # The service is away for a moment: a client comes back. A provider's errors are final here,
                # as the scheduler has tried again itself.
                left = self._plan.deadline_seconds - (time.perf_counter() - begin)
                if error.code == "unavailable" and left > 0:
                    await asyncio.sleep(self._random.uniform(0.1, 0.5))
                    continue
                return {"status": error.code, "error": str(error)[:300], "retries": attempt}
            except AdmiraltyError as error:
                return {"status": error.code, "error": str(error)[:300], "retries": attempt}
            except Exception as error:  # whatever it is, it must stand in the table
                return {"status": "broken", "error": f"{type(error).__name__}: {error}"[:300]}
            return {"status": status, "retries": attempt}
        return {"status": "unavailable", "retries": CLIENT_RETRIES}

    async def _call(self, number: int, attempt: int) -> str:
        plan = self._plan
        call = model_call(
            f"call_w{plan.worker}n{number:05d}r{attempt:02d}",
            number,
            max_output_tokens=plan.output_tokens,
            deadline=time.time() + plan.deadline_seconds,
            streaming=plan.streaming,
        )
        if not plan.streaming:
            await self._scheduler.complete(call)
            return "ok"
        async with aclosing(self._scheduler.stream(call)) as stream:
            async for chunk in stream:
                if isinstance(chunk, TokenDelta) and self._streams_to_leave > 0:
                    self._streams_to_leave -= 1
                    return "left"
        return "ok"


async def work(plan: Plan) -> None:
    """Live as one worker."""
    loop = asyncio.get_running_loop()
    # Seconds of imports that the first call would else wait for, alone: all processes shall call at once.
    importlib.import_module("admiralty.runtime.providers.openai_transport")
    async with open_scheduler(Settings.load(**plan.settings)) as (scheduler, _):
        print("ready", flush=True)
        if not await loop.run_in_executor(None, sys.stdin.readline):
            return
        await Clients(plan, scheduler).run()
        print("done", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    known = {field.name for field in dataclasses.fields(Plan)}
    given = json.loads(sys.argv[1])
    asyncio.run(work(Plan(**{name: value for name, value in given.items() if name in known})))


if __name__ == "__main__":
    main()
