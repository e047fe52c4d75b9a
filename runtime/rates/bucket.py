"""The arithmetic of a limit: a bucket that holds a minute's worth and fills continuously.

That is how the providers count (Anthropic says so, OpenAI's reset headers show it): after a pause the whole
limit may go at once, then ``limit / 60`` each second. Pure; times are seconds of any clock that does not go
back. ``take.lua`` has the same formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MINUTE = 60.0

ROUNDING = 1e-9
"""Share of a limit that may be missing: a wait that was slept to its end must suffice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an account allows in a minute; ``None``: as much as one likes."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to keep."""
        return self.requests_per_minute is None and self.tokens_per_minute is None

    def share(self, part: float) -> Limits:
        """Return the limits of someone who has ``part`` of the whole, 0 to 1."""
        requests, tokens = self.requests_per_minute, self.tokens_per_minute
        return Limits(
            requests_per_minute=None if requests is None else requests * part,
            tokens_per_minute=None if tokens is None else tokens * part,
        )

    def seconds(self, tokens: int) -> float:
        """Return how long it takes to earn one call of ``tokens``."""
        by_requests = MINUTE / self.requests_per_minute if self.requests_per_minute else 0.0
        by_tokens = MINUTE * tokens / self.tokens_per_minute if self.tokens_per_minute else 0.0
        return max(by_requests, by_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """What an account has left at a time. Below 0: more was used than was expected."""

    requests: float = 0.0
    tokens: float = 0.0
    at: float


def full(limits: Limits, now: float) -> Bucket:
    """Return the bucket of an account that has rested."""
    return Bucket(requests=limits.requests_per_minute or 0.0, tokens=limits.tokens_per_minute or 0.0, at=now)


def refilled(bucket: Bucket, limits: Limits, now: float) -> Bucket:
    """Return the bucket as it is at ``now``."""
    seconds = now - bucket.at
    if seconds <= 0:
        return bucket
    return replace(
        bucket,
        requests=_fill(bucket.requests, limits.requests_per_minute, seconds),
        tokens=_fill(bucket.tokens, limits.tokens_per_minute, seconds),
        at=now,
    )


def wait(bucket: Bucket, limits: Limits, tokens: int, now: float) -> float:
    """Return the seconds until a call of ``tokens`` may go; 0 means now. ``bucket`` is refilled to ``now``.

    A call larger than a whole minute's limit goes when the bucket is full, and leaves it in debt.
    """
    later = max(0.0, bucket.at - now)  # a bucket may begin to fill in the future
    return max(
        _missing(bucket.requests, limits.requests_per_minute, 1, later),
        _missing(bucket.tokens, limits.tokens_per_minute, tokens, later),
    )


def room(bucket: Bucket, limits: Limits) -> float:
    """Return the share of the limit that is left, at most 1; below 0 in debt."""
    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    return min(bucket.requests / requests if requests else 1.0, bucket.tokens / tokens if tokens else 1.0)


def changed(bucket: Bucket, limits: Limits, *, requests: float = 0.0, tokens: float = 0.0) -> Bucket:
    """Return the bucket with so much more in it, or less, but never more than the limit."""
    return replace(
        bucket,
        requests=min(limits.requests_per_minute or 0.0, bucket.requests + requests),
        tokens=min(limits.tokens_per_minute or 0.0, bucket.tokens + tokens),
    )


def _fill(level: float, limit: float | None, seconds: float) -> float:
    return 0.0 if limit is None else min(limit, level + seconds * limit / MINUTE)


def _missing(level: float, limit: float | None, needed: float, later: float) -> float:
    if limit is None:
        return 0.0
    missing = min(needed, limit) - level
    return 0.0 if missing <= limit * ROUNDING else later + missing * MINUTE / limit
