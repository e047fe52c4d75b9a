"""The worker processes of a chaos run: started, killed, stopped, and started again when they have died."""

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Final

import httpx

from benchmarks.chaos_worker import Plan, work

READY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.05
"""Between two looks whether a worker has died."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["benchmarks.chaos_worker", "benchmarks.chaos_preload"])


@dataclass(kw_only=True)
class Slot:
    """A place for one worker, which keeps its port over all lives."""

    plan: Plan
    process: BaseProcess | None = None
    stopped_until: float = 0.0
    """When a stopped worker goes on, on the monotonic clock; 0: it is not stopped."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.plan.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    def start(self) -> None:
        """Begin a life."""
        self.process = _context.Process(target=work, args=(self.plan,), daemon=True)
        self.process.start()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; return whether anybody was there to get it."""
        if self.process is None or not self.process.is_alive():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


@dataclass(kw_only=True)
class Workers:
    """All workers of a run."""

    slots: Sequence[Slot]
    restarts: bool = True
    """Whether those that die come back."""
    counts: Counter[str] = field(default_factory=Counter)
    """``killed``, ``stopped``, ``died`` (also those that a point has killed)."""
    resumed_at: float = 0.0
    """When a stopped worker was last seen to go on, on the monotonic clock."""

    @property
    def urls(self) -> list[str]:
        return [slot.url for slot in self.slots]

    @property
    def stopped(self) -> bool:
        """Whether a worker stands still now, or has just gone on: it may do what it was about to."""
        now = time.monotonic()
        return now - self.resumed_at < 1.0 or any(_stands_still(slot) for slot in self.slots)

    def kill(self, slot: Slot | None = None) -> None:
        """Kill -9 a worker, by default any."""
        if (slot or random.choice(self.slots)).send(signal.SIGKILL):
            self.counts["killed"] += 1

    def stop(self, seconds: float, slot: Slot | None = None) -> None:
        """Let a worker stand still for a while."""
        slot = slot or random.choice(self.slots)
        if not slot.stopped_until and slot.send(signal.SIGSTOP):
            slot.stopped_until = time.monotonic() + seconds
            self.counts["stopped"] += 1

    async def ready(self) -> None:
        """Wait until all of them answer. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient(timeout=5) as http:
            for slot in self.slots:
                while not await _answers(http, slot.url):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)

    async def watch(self, stop_seconds: float) -> None:
        """Start again what has died, and let go on what stands still, for ever."""
        while True:
            now = time.monotonic()
            for slot in self.slots:
                if slot.process is not None and not slot.process.is_alive():
                    slot.stopped_until = 0.0
                    self.counts["died"] += 1
                    if self.restarts:
                        slot.start()
                    else:
                        slot.process = None
                elif slot.stopped_until and now > slot.stopped_until:
                    slot.stopped_until, self.resumed_at = 0.0, now
                    slot.send(signal.SIGCONT)
                elif not slot.stopped_until and _stands_still(slot):  # a point has stopped it
                    slot.stopped_until = now + stop_seconds
                    self.counts["stopped"] += 1
            await asyncio.sleep(LOOK_SECONDS)

    def end(self) -> None:
        """Kill all of them."""
        for slot in self.slots:
            slot.send(signal.SIGKILL)
        for slot in self.slots:
            if slot.process is not None:
                slot.process.join(10)


@asynccontextmanager
async def running(plans: Sequence[Plan], *, stop_seconds: float) -> AsyncIterator[Workers]:
    """Start workers, keep them running, and kill them at the end.

    ``stop_seconds`` is how long one stands still that a point has stopped.
    """
    workers = Workers(slots=[Slot(plan=plan) for plan in plans])
    try:
        for slot in workers.slots:
            slot.start()
        await workers.ready()
        watching = asyncio.create_task(workers.watch(stop_seconds))
        try:
            yield workers
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        workers.end()


def _stands_still(slot: Slot) -> bool:
    if slot.process is None:
        return False
    try:
        with open(f"/proc/{slot.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/healthz")).status_code == 200
    except httpx.HTTPError:
        return False
