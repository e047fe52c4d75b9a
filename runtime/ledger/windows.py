"""The windows of budgets: which counter a moment falls into, and when it begins anew. Pure.

Calendar windows follow the budget's IANA time zone, changes of summer time included. A rolling window
is split into buckets of a sixtieth of its length; a bucket counts until all of it is older than the
window, so the limit holds over any stretch of that length, at the price of up to a sixtieth more. Knows
nothing of what was spent.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from admiralty.core.errors import InvalidRequest
from admiralty.runtime.ledger.values import Budget

HELD = "held"
"""The window of the one row that keeps what is held of a rolling budget; buckets hold what is spent."""

TOTAL = "total"

BUCKETS = 60
"""Parts of a rolling window. One more counts at any time: the oldest, as long as a part of it is young."""

_DIGITS = 14  # of milliseconds since the epoch: keys sort as text until the year 5138


def window_key(budget: Budget, now: float) -> str:
    """Return the key of the window of ``budget`` that holds ``now``: where money spent now is counted.

    ``total``; ``2026-11-22``, ``2026-W47``, ``2026-11`` on the calendar of the budget's time zone; for a
    rolling window the key of its bucket. Raises InvalidRequest for an unknown time zone.
    """
    if budget.window == "total":
        return TOTAL
    if budget.window == "rolling":
        return rolling_bucket(budget, now)
    local = dt.datetime.fromtimestamp(now, zone(budget.timezone))
    if budget.window == "day":
        return f"{local.year:04d}-{local.month:02d}-{local.day:02d}"
    if budget.window == "month":
        return f"{local.year:04d}-{local.month:02d}"
    year, week, _ = local.isocalendar()
    return f"{year:04d}-W{week:02d}"


def resets_at(budget: Budget, now: float) -> float | None:
    """Return the moment from which nothing spent until ``now`` counts any more; ``None``: never.

    For a rolling window a part comes free before: see :func:`frees_at`.
    """
    if budget.window == "total":
        return None
    if budget.window == "rolling":
        return frees_at(budget, rolling_bucket(budget, now))
    place = zone(budget.timezone)
    today = dt.datetime.fromtimestamp(now, place).date()
    # Where clocks skip midnight, this is the moment of the change: the day's first, as it should be.
    return dt.datetime.combine(_next(budget, today), dt.time.min, place).timestamp()


def rolling_bucket(budget: Budget, now: float) -> str:
    """Return the key of the bucket that ``now`` falls into; keys sort as text in order of time."""
    return _key(_millis(now), _width(budget))


def oldest_bucket(budget: Budget, now: float) -> str:
    """Return the key of the first bucket that still counts at ``now``: those before it do not."""
    return _key(_millis(now) - _length(budget), _width(budget))


def frees_at(budget: Budget, bucket: str) -> float:
    """Return when a bucket of a rolling budget stops to count."""
    return (int(bucket) + _width(budget) + _length(budget)) / 1000


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """Return the time zone of this IANA name. Raises InvalidRequest."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder, an absolute path, an empty name
        raise InvalidRequest(
            f"timezone = {name[:80]!r}: unknown. Use an IANA name, as Europe/Berlin or UTC.",
            param="timezone",
        ) from None


def _next(budget: Budget, day: dt.date) -> dt.date:
    """Return the first day of the window after the one that ``day`` is in."""
    if budget.window == "day":
        return day + dt.timedelta(days=1)
    if budget.window == "week":
        return day + dt.timedelta(days=7 - day.weekday())
    return (day.replace(day=28) + dt.timedelta(days=4)).replace(day=1)


def _millis(moment: float) -> int:
    return int(moment * 1000)


def _length(budget: Budget) -> int:
    return _millis(budget.seconds or 0.0)


def _width(budget: Budget) -> int:
    """Return a bucket's length in milliseconds."""
    return max(1, _length(budget) // BUCKETS)


def _key(millis: int, width: int) -> str:
    return f"{millis // width * width:0{_DIGITS}d}"
