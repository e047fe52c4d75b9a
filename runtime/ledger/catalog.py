"""The public prices of models, from a snapshot that is kept in the repository; nothing is fetched.

Finds the model that a name means, as genai-prices finds it, and its prices at a moment. Knows nothing
of settings. How the snapshot is made and what stands in it: :mod:`~admiralty.runtime.ledger.snapshot`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from admiralty.core.money import from_dollars

FILE = Path(__file__).parent / "genai_prices.json"

DAY = 86_400

ALIASES = {"azure_openai": "azure", "azure_ai": "azure"}
"""LangChain's names of providers for which genai-prices' own rules find none, or another."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Prices of a model, in nano-dollars for a million tokens."""

    input: int
    output: int
    cached: int
    cache_write: int
    cache_write_1h: int
    audio_input: int
    audio_output: int
    reasoning: int
    request: int = 0
    """Nano-dollars for each request."""


@dataclass(frozen=True, slots=True)
class Band:
    """Prices for inputs of more than ``above`` tokens."""

    above: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices by the size of the input: the last band that is reached counts, for all tokens."""

    bands: Sequence[Band]

    def at(self, input_tokens: int) -> Rates:
        """Return the prices of a call with so much input."""
        bands = self.bands
        for band in reversed(bands):
            if input_tokens > band.above:
                return band.rates
        return bands[0].rates


def tariff(prices: Mapping[str, Any]) -> Tariff:
    """Return the tariff of dollars per million tokens by name, each a price or a list with its tiers.

    A price that is missing is that of what the tokens are a part of.
    """
    starts = {int(tier[0]) for price in prices.values() if isinstance(price, list) for tier in price[1:]}
    return Tariff([Band(above, _rates(prices, above)) for above in [-1, *sorted(starts)]])


def _rates(prices: Mapping[str, Any], above: int) -> Rates:
    def nanos(name: str, other: int = 0) -> int:
        price = prices.get(name)
        if price is None:
            return other
        if isinstance(price, list):
            base, *tiers = price
            price = next((tier[1] for tier in reversed(tiers) if above >= tier[0]), base)
        return from_dollars(price)

    into, out = nanos("input"), nanos("output")
    write = nanos("cache_write", into)
    return Rates(
        input=into,
        output=out,
        cached=nanos("cached", into),
        cache_write=write,
        cache_write_1h=nanos("cache_write_1h", write),
        audio_input=nanos("audio_input", into),
        audio_output=nanos("audio_output", out),
        reasoning=nanos("reasoning", out),
        request=nanos("request"),
    )


@dataclass(frozen=True, slots=True)
class _Dated:
    """A tariff and when it holds: from a moment, or between two seconds of the day; UTC."""

    since: float | None
    daily: tuple[float, float] | None
    tariff: Tariff | None

    def holds(self, now: float) -> bool:
        if self.since is not None:
            return now >= self.since
        if self.daily is None:
            return True
        start, end = self.daily
        second = now % DAY
        return start <= second < end if start <= end else second >= start or second < end

    def changes(self, now: float) -> list[float]:
        if self.since is not None:
            return [self.since]
        if self.daily is None:
            return []
        today = now - now % DAY
        return [day + second for day in (today, today + DAY) for second in self.daily]


@dataclass(frozen=True, slots=True)
class Listing:
    """A model in the catalog."""

    id: str
    _prices: Sequence[_Dated]

    def tariff(self, now: float) -> tuple[Tariff | None, float]:
        """Return the prices at ``now`` (``None``: not known), and until when they hold at least."""
        changes = (at for dated in self._prices for at in dated.changes(now))
        until = min((at for at in changes if at > now), default=math.inf)
        holding = next((dated for dated in reversed(self._prices) if dated.holds(now)), self._prices[0])
        return holding.tariff, until


class Catalog:
    """Every model of a snapshot."""

    def __init__(self, path: Path = FILE) -> None:
        text = path.read_bytes()
        document = json.loads(text)
        head = document["head"]
        self.digest = hashlib.sha256(text).hexdigest()
        self.name = f"{head['source']} {head['version']} ({head['date']})"
        self._providers: dict[str, Any] = {provider["id"]: provider for provider in document["providers"]}

    def find(self, provider: str, name: str) -> Listing | None:
        """Return the model that ``name`` means at ``provider``, dated names and aliases understood."""
        chosen = self._provider(provider.lower().strip())
        if chosen is None:
            return None
        name = name.lower()
        dashed = _COMPACT_DATE.sub(_dashed, name)
        for spelling in dict.fromkeys((name, dashed)):
            for source in (chosen, *(self._providers.get(other) for other in chosen["about"]["fallback"])):
                for identity, rule, prices in source["models"] if source else ():
                    if matches(rule, spelling):
                        return Listing(identity, [_dated(*dated) for dated in prices])
        return None

    def _provider(self, name: str) -> Any:
        name = ALIASES.get(name, name)
        if name in self._providers:
            return self._providers[name]
        for provider in self._providers.values():
            rule = provider["about"]["match"]
            if rule is not None and matches(rule, name):
                return provider
        return None


def matches(rule: Any, text: str) -> bool:
    """Return whether ``text`` (in lower case) fits a rule of the snapshot."""
    if isinstance(rule, str):
        return text == rule
    ((kind, operand),) = rule.items()
    if kind == "or":
        return any(matches(part, text) for part in operand)
    if kind == "and":
        return all(matches(part, text) for part in operand)
    if kind == "regex":
        return re.search(operand, text) is not None
    if kind == "starts_with":
        return text.startswith(operand)
    if kind == "ends_with":
        return text.endswith(operand)
    return operand in text


def _dashed(found: re.Match[str]) -> str:
    """Return ``-20251211`` as ``-2025-12-11``, if there is such a day."""
    year, month, day = (int(part) for part in found.groups())
    try:
        return f"-{date(year, month, day):%Y-%m-%d}"
    except ValueError:
        return found.group()


def _dated(when: Any, prices: Mapping[str, Any] | None) -> _Dated:
    known = None if prices is None else tariff(prices)
    if when is None:
        return _Dated(None, None, known)
    if isinstance(when, str):
        return _Dated(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp(), None, known)
    start, end = (time.fromisoformat(moment) for moment in when)
    return _Dated(None, (_second(start), _second(end)), known)


def _second(moment: time) -> float:
    return moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6
