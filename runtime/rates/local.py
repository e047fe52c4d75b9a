"""The limiter of one process: the default, and what stands in while Redis is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from admiralty.core.ports import Clock
from admiralty.core.values import Permit
from admiralty.runtime.rates import bucket as buckets
from admiralty.runtime.rates.bucket import Bucket, Limits

_FREE = Limits()


class LocalLimiter:
    """Keeps the buckets of ``limits`` (by account) in memory; accounts without limits are always free.

    ``empty_from`` (of the clock's monotonic time): nothing is there before, and buckets begin to fill then.
    Else they begin full.
    """

    def __init__(
        self, limits: Mapping[str, Limits], clock: Clock, *, empty_from: float | None = None, book: str = ""
    ) -> None:
        self._limits = {key: limit for key, limit in limits.items() if not limit.unlimited}
        self._clock = clock
        self._empty_from = empty_from
        self._book = book
        self._buckets: dict[str, Bucket] = {}
        self._blocked: dict[str, float] = {}  # also of accounts without limits

    async def start(self) -> None:
        """Nothing has to be opened."""

    async def close(self) -> None:
        """Nothing has to be closed."""

    async def take(self, keys: Sequence[str], tokens: int) -> Permit:
        now = self._clock.monotonic()
        best, most, shortest = "", -inf, inf
        for key in keys:
            limits = self._limits.get(key, _FREE)
            if limits is _FREE:
                wait, left = self._still_blocked(key, now), 1.0
            else:
                bucket = self._refill(key, limits, now)
                wait = max(self._still_blocked(key, now), buckets.wait(bucket, limits, tokens, now))
                left = buckets.room(bucket, limits)
            shortest = min(shortest, wait)
            if wait <= 0 and left > most:
                best, most = key, left
        if not best:
            return Permit(wait=shortest)
        if best in self._limits:
            self._change(best, requests=-1, tokens=-tokens)
        return Permit(key=best, book=self._book)

    async def give_back(self, permit: Permit, *, requests: int = 0, tokens: int = 0) -> None:
        if permit.book == self._book or requests + tokens < 0:
            self._change(permit.key, requests=requests, tokens=tokens)

    async def penalize(self, key: str, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        self._blocked[key] = max(until, self._blocked.get(key, -inf))

    def keep_penalties(self, other: LocalLimiter) -> None:
        """Take over what ``other`` was told of accounts' providers."""
        self._blocked.update(other._blocked)

    def _still_blocked(self, key: str, now: float) -> float:
        until = self._blocked.get(key)
        if until is None:
            return 0.0
        if until <= now:
            del self._blocked[key]
            return 0.0
        return until - now

    def _refill(self, key: str, limits: Limits, now: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            start = self._empty_from
            bucket = buckets.full(limits, now) if start is None else Bucket(at=start)
        self._buckets[key] = bucket = buckets.refilled(bucket, limits, now)
        return bucket

    def _change(self, key: str, *, requests: int, tokens: int) -> None:
        if limits := self._limits.get(key):
            bucket = self._refill(key, limits, self._clock.monotonic())
            self._buckets[key] = buckets.changed(bucket, limits, requests=requests, tokens=tokens)
