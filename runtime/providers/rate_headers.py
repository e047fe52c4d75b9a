"""What a provider's response headers say about its limits: how long to wait, how much is left. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_REMAINING = {
    "requests_remaining": ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"),
    "tokens_remaining": (
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-output-tokens-remaining",
    ),
}
_RESET = {
    "requests_reset_seconds": ("x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset"),
    "tokens_reset_seconds": (
        "x-ratelimit-reset-tokens",
        "anthropic-ratelimit-tokens-reset",
        "anthropic-ratelimit-input-tokens-reset",
        "anthropic-ratelimit-output-tokens-reset",
    ),
}
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (86_400, 3_600, 60, 1, 0.001)

MAX_SECONDS = 366 * 86_400.0
"""Longer waits are taken for nonsense."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that ``retry-after-ms`` or ``retry-after`` tells; ``None`` without either.

    ``retry-after`` may be seconds or an HTTP date; a date is taken relative to the server's own ``date``,
    else to ``now`` (seconds since the epoch).
    """
    if (millis := _number(headers.get("retry-after-ms"))) is not None:
        return _sane(millis / 1000)
    told = headers.get("retry-after")
    if (seconds := _number(told)) is not None:
        return _sane(seconds)
    until = _date(told)
    if until is None:
        return None
    return _sane(until - (_date(headers.get("date")) or now))


def rate_limits(headers: Mapping[str, str], now: float) -> dict[str, float]:
    """Return what is left of the limits, as far as headers tell it, by these names:

    ``requests_remaining``, ``tokens_remaining`` (the least of several kinds), and seconds until they
    are full again: ``requests_reset_seconds``, ``tokens_reset_seconds`` (the longest). Understands
    OpenAI's form, which many servers share, and Anthropic's.
    """
    # One pass: a look into aiohttp's headers by name costs a microsecond.
    found = {name: value for key, value in headers.items() if "ratelimit" in (name := key.lower())}
    if not found:
        return {}
    told: dict[str, float] = {}
    for key, names in _REMAINING.items():
        left = [number for name in names if (number := _number(found.get(name))) is not None]
        if left:
            told[key] = min(left)
    for key, names in _RESET.items():
        resets = [seconds for name in names if (seconds := _reset(found.get(name), now)) is not None]
        if resets:
            told[key] = max(resets)
    return told


def _reset(told: str | None, now: float) -> float | None:
    """Return seconds from ``6m0s``, ``20ms``, a number of seconds, or a moment as RFC 3339 has it."""
    if not told:
        return None
    if (number := _number(told)) is not None:
        return _sane(number)
    span = _SPAN.fullmatch(told.strip())
    if span is not None and any(span.groups()):
        return _sane(
            sum(float(part) * unit for part, unit in zip(span.groups(), _UNITS, strict=True) if part)
        )
    try:
        moment = datetime.fromisoformat(told.strip())
    except ValueError:
        return None
    return _sane((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)


def _number(told: str | None) -> float | None:
    try:
        number = float(told) if told else math.nan
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _date(told: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(told) if told else None
    except (ValueError, TypeError, OverflowError):
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _sane(seconds: float) -> float | None:
    return max(0.0, seconds) if seconds <= MAX_SECONDS else None
