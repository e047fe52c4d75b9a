"""How the systems of the durability benchmark are asked: the load, and what each prints.

Imports the standard library only: DBOS's worker uses it too, in an environment without Admiralty.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

MESSAGE = "Please book 3 dollars on order W1001."
ARGUMENTS = {"order_id": "W1001", "amount": 3}
RESULT = "Booked."
ANSWER = "It is booked: 3 dollars on order W1001."
TURNS = 10
"""Of a conversation."""


class Caller(Protocol):
    """Makes one turn after the other."""

    async def prepare(self) -> None:
        """Get ready for a turn; not measured."""
        ...

    async def turn(self) -> None:
        """Make a turn."""
        ...


Run = Callable[[int, float], Awaitable[tuple[list[float], float]]]
"""Runs so many callers for so many seconds; returns the turns' latencies and how long it took."""


async def obey(make: Callable[[], Caller]) -> None:
    """Take orders until the input ends: ``{"callers": 1, "seconds": 2.0}`` a line."""

    async def run(callers: int, seconds: float) -> tuple[list[float], float]:
        latencies: list[float] = []
        begin = time.perf_counter()

        async def work(caller: Caller) -> None:
            while time.perf_counter() < begin + seconds:
                await caller.prepare()
                started = time.perf_counter()
                await caller.turn()
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(work(make()) for _ in range(callers)))
        return latencies, time.perf_counter() - begin

    await obey_with(run)


async def obey_with(run: Run) -> None:
    """Take orders until the input ends, and answer each with what ``run`` measures."""
    loop = asyncio.get_running_loop()
    _say(ready=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        cpu = _cpu()
        latencies, seconds = await run(order["callers"], order["seconds"])
        _say(latencies=latencies, seconds=seconds, cpu_seconds=_cpu() - cpu)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)
