"""Moments and lengths of time as people write them: ``7d``, ``2026-11-22``, ``2026-11-22T10:00Z``. Pure."""

from __future__ import annotations

import datetime as dt
import math
import re

from admiralty.core.errors import InvalidRequest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LENGTH = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw])")
_LATEST = 253_402_300_799.0  # the last second of the year 9999


def parse_length(text: str) -> float | None:
    """Return the seconds of a length as ``90m``, ``24h``, ``7d``, ``2w``; ``None`` if it is none."""
    found = _LENGTH.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


def parse_moment(text: str, now: float, param: str) -> float:
    """Return a moment in seconds since the epoch.

    A length counts back from ``now``; a number is seconds since the epoch; a date or time without an
    offset is UTC. Raises InvalidRequest, naming ``param``.
    """
    text = text.strip()
    moment = None
    if (length := parse_length(text)) is not None:
        moment = now - length
    else:
        try:
            moment = float(text)
        except ValueError:
            try:
                given = dt.datetime.fromisoformat(text)
                moment = (given if given.tzinfo else given.replace(tzinfo=dt.UTC)).timestamp()
            except (ValueError, OverflowError):
                pass
    if moment is None or not math.isfinite(moment) or abs(moment) > _LATEST:
        raise InvalidRequest(
            f"{param} = {text[:40]!r}: write a length as 24h or 7d, a date as 2026-11-22, a time as "
            "2026-11-22T10:00Z, or seconds since the epoch.",
            param=param,
        )
    return moment


def iso(moment: float) -> str:
    """Return a moment in UTC, to the microsecond."""
    return dt.datetime.fromtimestamp(moment, dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
