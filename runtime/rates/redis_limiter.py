"""The limiter of several scheduler replicas: the buckets are in Redis, and count on the server's clock.

While Redis is away each replica goes by its own share of the limits, and together they never exceed them
(see ``take.lua`` and docs/rates.md). A task of its own notices the loss, and that Redis is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.values import Permit
from admiralty.runtime.rates.bucket import Limits
from admiralty.runtime.rates.local import LocalLimiter

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""To Redis, from a replica: it does one thing at a time anyway."""

SLICES = 10
"""In which an answer is waited for."""

_FREE = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds."""

    answer: float = 0.1
    """How long Redis may take before it counts as lost."""
    lease: float = 1.0
    """How long a replica counts as present after it was heard. It is heard three times as often."""
    longest_pause: float = 2.0
    """Between two attempts to find Redis again; the first follow each other quickly."""
    look_again: float = 0.1
    """While Redis is away, those who wait ask again after this at the latest."""


class RedisLimiter:
    """Keeps the buckets of ``limits`` (by account) in Redis, under names that begin with ``namespace``.

    ``replicas``: how many schedulers share the limits. Accounts without limits never ask Redis.
    """

    def __init__(
        self,
        url: str,
        limits: Mapping[str, Limits],
        clock: Clock,
        *,
        replicas: int,
        namespace: str = "admiralty",
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing or Timing()
        self._limits = {key: limit for key, limit in limits.items() if not limit.unlimited}
        self._clock = clock
        self._replicas = replicas
        self._prefix = f"{namespace}:{{rates}}:"  # in braces what decides on a cluster's node: one for all
        self._name = new_id("replica")
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=10 * self._timing.answer,  # ours come before: see _answered
            socket_connect_timeout=10 * self._timing.answer,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        script = Path(__file__).with_name("take.lua").read_text(encoding="utf-8")
        self._script = self._redis.register_script(script)
        self._told = 0.0  # the server's time, as it was last told
        self._told_at = clock.monotonic()  # when that was, here
        self._losses = 0
        self._lost = False
        self._alone = self._on_my_own()
        self._heart: asyncio.Task[None] | None = None
        self._gate = asyncio.Semaphore(MAX_CONNECTIONS)
        self._asking: set[asyncio.Future[Any]] = set()

    @property
    def lost(self) -> bool:
        """Whether Redis is away, and this replica goes by its own share."""
        return self._lost

    async def start(self) -> None:
        if self._heart is None:
            for _ in range(2):  # the first tells us the server's time, with the second we are counted
                await self._ask("beat")
            self._heart = asyncio.create_task(self._beat())

    async def take(self, keys: Sequence[str], tokens: int) -> Permit:
        if not any(key in self._limits for key in keys):
            return await self._alone.take(keys, tokens)
        if self._heart is None:
            await self.start()
        if not self._lost:
            numbers = [number for key in keys for number in self._numbers(key)]
            answer = await self._ask("take", *keys, arguments=[tokens, *numbers])
            if answer is not None:
                index, wait = answer
                return Permit(key=keys[index - 1], book=self._book) if index else Permit(wait=wait)
        permit = await self._alone.take(keys, tokens)
        return permit if permit.key else replace(permit, wait=min(permit.wait, self._timing.look_again))

    async def give_back(self, permit: Permit, *, requests: int = 0, tokens: int = 0) -> None:
        if permit.key not in self._limits:
            return
        if self._lost:
            await self._alone.give_back(permit, requests=requests, tokens=tokens)
        elif permit.book == self._book or requests + tokens < 0:
            numbers = self._numbers(permit.key)
            await self._ask("give", permit.key, arguments=[requests, tokens, *numbers])

    async def penalize(self, key: str, seconds: float) -> None:
        await self._alone.penalize(key, seconds)
        if not self._lost:
            await self._ask("block", key, arguments=[seconds])

    async def close(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        if self._asking:
            await asyncio.wait(self._asking, timeout=2 * self._timing.answer)
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    @property
    def _book(self) -> str:
        return f"redis-{self._losses}"

    def _on_my_own(self) -> LocalLimiter:
        """Return what to go by while Redis is away: this replica's share, from when nobody counts it there.

        A request with the time that we were told last may still arrive up to a lease after it, and we are
        counted for one more.
        """
        shares = {key: limits.share(1 / self._replicas) for key, limits in self._limits.items()}
        start = self._told_at + 2 * self._timing.lease
        return LocalLimiter(shares, self._clock, empty_from=start, book=f"alone-{self._losses}")

    def _numbers(self, key: str) -> list[float]:
        limits = self._limits.get(key, _FREE)
        return [limits.requests_per_minute or 0, limits.tokens_per_minute or 0]

    async def _ask(self, what: str, *keys: str, arguments: Sequence[float] = ()) -> tuple[int, float] | None:
        """Run the script; return the account's number and the wait, or None if Redis does not answer."""
        async with self._gate:
            if self._lost and what != "beat":  # while this one waited for its place
                return None
            return await self._run(what, *keys, arguments=arguments)

    async def _run(self, what: str, *keys: str, arguments: Sequence[float]) -> tuple[int, float] | None:
        names = ["clock", "replicas", *(f"bucket:{key}" for key in keys)]
        known: list[Any] = [what, self._name, repr(self._told), self._replicas, self._timing.lease]
        # In a task of its own: the client swallows some cancellations (as wait_for of Python 3.11 does), and
        # drops its connection at others.
        task = asyncio.ensure_future(
            self._script(keys=[self._prefix + name for name in names], args=[*known, *arguments])
        )
        self._asking.add(task)
        task.add_done_callback(self._asked)
        try:
            if not await self._answered(task):
                task.cancel()
                raise TimeoutError("no answer in time")
            answer: Any = task.result()
            index, wait, told = int(answer[0]), float(answer[1]), float(answer[2])
        except (RedisError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            self._lose(error)
            return None
        self._told, self._told_at = told, self._clock.monotonic()
        if self._lost:  # what we ask now may be counted there, whether we see the answer or not
            self._be_alone()
        return index, wait if wait != inf else self._timing.lease

    async def _answered(self, task: asyncio.Future[Any]) -> bool:
        """Wait for an answer. What this process slept through by itself is not held against Redis."""
        for _ in range(SLICES):  # a pause of the event loop, however long, takes no more than one of them
            await asyncio.wait({task}, timeout=self._timing.answer / SLICES)
            if task.done():
                break
        return task.done()

    def _asked(self, task: asyncio.Future[Any]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # seen: who asked has left, or has it too

    def _lose(self, error: Exception) -> None:
        if self._lost:
            return
        self._lost = True
        self._losses += 1
        self._be_alone()
        logger.warning(
            "Redis does not answer (%s: %s). Until it does, this scheduler uses 1/%d of each limit.",
            type(error).__name__, error, self._replicas,
        )  # fmt: skip

    def _be_alone(self) -> None:
        before, self._alone = self._alone, self._on_my_own()
        self._alone.keep_penalties(before)

    async def _beat(self) -> None:
        """Be heard regularly; look for Redis while it is away."""
        pause = 0.0
        while True:
            if not self._lost:
                pause = 0.0
                await asyncio.sleep(self._timing.lease / 3)
                await self._ask("beat")
                continue
            await asyncio.sleep(pause * random.random())
            pause = min(self._timing.longest_pause, max(0.05, pause * 2))
            if await self._ask("beat") is not None and await self._ask("beat") is not None:
                self._lost = False
                logger.warning("Redis answers again: the scheduler shares the accounts' limits.")
