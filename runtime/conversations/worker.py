"""Keeps this process's runs alive, takes over what others left, and hears who is to be stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.durable.executions import ExecutionStore
from admiralty.runtime.durable.retention import Retention
from admiralty.runtime.durable.values import Run

logger = logging.getLogger(__name__)

BUSY_SECONDS, IDLE_SECONDS = 0.25, 1.0
"""Between two looks for queued runs, and for those that are to be stopped: while some are executed here,
or none."""

MOST_AT_ONCE = 32
"""Queued runs that are taken at once."""

RETENTION_SECONDS = 600.0


@dataclass(kw_only=True)
class Worker:
    """The background work of a process that executes runs of one fleet."""

    fleet: str
    store: ExecutionStore
    live: Mapping[str, LiveRun]
    """The runs that are executed here, by id."""
    begin: Callable[[Run], object]
    """Executes a claimed run."""
    capacity: int
    retention: Retention
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def start(self) -> None:
        """Begin. A second time changes nothing."""
        if not self._tasks:
            work = [
                (self._look, None),
                (self._keep, self.store.lease / 3),
                (self.retention.prune, RETENTION_SECONDS),
            ]
            self._tasks = [asyncio.create_task(self._repeat(job, pause)) for job, pause in work]

    def wake(self) -> None:
        """Something may be queued: look at once."""
        self._wake.set()

    async def take_no_more(self) -> None:
        """Claim nothing any more, once this returns; what runs is kept alive still."""
        self.capacity = 0
        async with self._looking:
            pass

    async def stop(self) -> None:
        """Renew nothing any more, look for nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, job: Callable[[], Awaitable[object]], pause: float | None) -> None:
        while True:
            try:
                await job()
            except Exception as error:  # the database is away: it comes back
                logger.warning("%s: %s", getattr(job, "__qualname__", job), error)
            if pause is not None:
                await asyncio.sleep(pause)
                continue
            try:
                async with asyncio.timeout(BUSY_SECONDS if self.live else IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _look(self) -> None:
        async with self._looking:
            await self._look_once()

    async def _look_once(self) -> None:
        if self.live:
            for run_id, how in (await self.store.stops()).items():
                if run_id in self.live:
                    self.live[run_id].stop(how)
        most = min(self.capacity - len(self.live), MOST_AT_ONCE)
        if most > 0:
            taken = await self.store.claim(self.fleet, limit=most)
            for run in taken:
                self.begin(run)
            if len(taken) == most:  # there may be more
                self.wake()

    async def _keep(self) -> None:
        """Renew first: a process that was held up, and comes back unharmed, must not reap its own runs."""
        held = dict(self.live)
        for run_id in await self.store.renew({run_id: live.run.fence for run_id, live in held.items()}):
            if self.live.get(run_id) is held[run_id]:
                logger.warning("run %s was taken over by another process", run_id)
                held[run_id].stop("lost")
        await self.store.expire_approvals()
        if await self.store.reap():
            self.wake()
