"""What model calls cost: at most, before they are made, and really, after.

Integers of nano-dollars, rounded up. Prices come from settings, else from the catalog that is kept in
the repository; a model of unknown price is refused, or charged at a ceiling. Knows nothing of budgets.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from admiralty.core.errors import UnknownPrice
from admiralty.core.money import Nanos, from_dollars
from admiralty.core.ports import Clock
from admiralty.core.prices import PriceOverride
from admiralty.core.settings import Settings
from admiralty.core.values import Model, Usage
from admiralty.runtime.ledger.catalog import Catalog, Rates, Tariff, tariff
from admiralty.runtime.ledger.values import Quote

MAX_KNOWN = 4096
"""How many models' prices are kept at hand."""

MILLION = 1_000_000

FREE = "extractive"
"""The provider that asks no model: nothing is paid for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extras:
    """What a call asks for that costs more than plain text: see ``estimate.extras``."""

    caching: Literal["5m", "1h"] | None = None
    """Whether it marks parts of its input to be cached, and for how long at most."""
    audio: bool = False


PLAIN = Extras()


@dataclass(frozen=True, slots=True)
class _Hourly:
    """A model that is paid for by time."""

    nanos: int
    """For an hour."""
    max_seconds: float

    def cost(self, seconds: float) -> Nanos:
        return Nanos(math.ceil(self.nanos * Fraction(seconds) / 3600))


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a model until a moment."""

    price: Tariff | _Hourly | None
    until: float
    max_output: int | None = None


class PriceBook:
    """The price of every model.

    ``prices`` are overrides by ``provider:name``, or by the beginning of one with ``*`` behind it: an
    exact name goes before the longest beginning, and both before the catalog. ``ceiling`` is what
    models of unknown price are charged at; without one, they have no price.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        prices: Mapping[str, PriceOverride] | None = None,
        ceiling: PriceOverride | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self._clock = clock
        self._catalog = catalog or Catalog()
        self._exact: dict[str, PriceOverride] = {}
        beginnings: dict[str, PriceOverride] = {}
        for name, override in (prices or {}).items():
            if name.endswith("*"):
                beginnings[name[:-1].lower()] = override
            else:
                self._exact[name.lower()] = override
        self._beginnings = sorted(beginnings.items(), key=lambda item: -len(item[0]))
        self._ceiling = ceiling
        self._known: dict[str, _Known] = {}
        told = {name: _json(override) for name, override in (prices or {}).items()}
        overrides = json.dumps([told, ceiling and _json(ceiling)], sort_keys=True)
        digest = hashlib.sha256((self._catalog.digest + overrides).encode()).hexdigest()
        self.version = f"{self._catalog.name} {digest[:12]}"
        """Of the catalog, and a digest of the catalog with the overrides: other prices, another version."""

    @classmethod
    def from_settings(cls, settings: Settings, clock: Clock) -> PriceBook:
        """Return the book as settings say it."""
        ceiling = settings.unknown_model_prices if settings.unknown_model == "ceiling" else None
        return cls(clock, prices=settings.prices, ceiling=ceiling)

    def quote(
        self, model: Model, input_tokens: int, *, seconds: float | None = None, extras: Extras = PLAIN
    ) -> Quote:
        """Return what a call with so much input costs at most.

        All input counts as uncached, or as written to a cache where the provider may charge that.
        ``seconds`` is how long the call may take; for models that are paid for by time, the quote says
        what it is good for. Raises UnknownPrice.
        """
        price = self._price(model)
        if isinstance(price, _Hourly):
            allowed = price.max_seconds if seconds is None else max(0.0, min(seconds, price.max_seconds))
            return Quote(fixed=price.cost(allowed), seconds=allowed)
        input_tokens = max(0, input_tokens)
        # The input may turn out smaller than expected, so that no dearer band below is left out.
        reached = [band.rates for band in price.bands if input_tokens > band.above]
        into = (input_tokens * _worst_input(rates, model, extras) for rates in reached)
        return Quote(
            fixed=_up(max(into)) + reached[0].request,
            per_million=max(_worst_output(rates, extras) for rates in reached),
        )

    def cost(self, model: Model, usage: Usage, seconds: float) -> Nanos:
        """Return what a call cost that used so many tokens, or took so many seconds.

        Where a server's counts contradict each other, the dearest reading of them counts: parts that
        are larger than their whole were not counted in it. Raises UnknownPrice.
        """
        price = self._price(model)
        if isinstance(price, _Hourly):
            return price.cost(max(0.0, seconds))
        return _cost(price, usage)

    def max_output(self, model: Model) -> int | None:
        """Return the most output that the model gives, where settings say it."""
        return self._look_up(model).max_output

    def _price(self, model: Model) -> Tariff | _Hourly:
        price = self._look_up(model).price
        if price is None:
            raise UnknownPrice(
                f"{model.id}: nobody knows what this model costs, so it is not asked. Set its price, as in "
                f'ADMIRALTY_PRICES=\'{{"{model.id}": {{"input": "0.50", "output": "1.50"}}}}\' (dollars per '
                "million tokens; 0 for free), or a ceiling for all such models: "
                "ADMIRALTY_UNKNOWN_MODEL=ceiling with ADMIRALTY_UNKNOWN_MODEL_PRICES.",
                model=model.id,
            )
        return price

    def _look_up(self, model: Model) -> _Known:
        name = model.id
        now = self._clock.now()
        known = self._known.get(name)
        if known is None or now >= known.until:
            known = self._find(model, name.lower(), now)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[name] = known
        return known

    def _find(self, model: Model, name: str, now: float) -> _Known:
        override = self._exact.get(name) or next(
            (override for beginning, override in self._beginnings if name.startswith(beginning)), None
        )
        if override is not None:
            return _overridden(override)
        if model.provider == FREE:
            return _Known(tariff({"input": "0", "output": "0"}), math.inf)
        listing = self._catalog.find(model.provider, model.name)
        price, until = listing.tariff(now) if listing else (None, math.inf)
        if price is None and self._ceiling is not None:
            return _overridden(self._ceiling)
        return _Known(price, until)


def _json(override: PriceOverride) -> dict[str, str]:
    return {name: str(value) for name, value in override.model_dump(exclude_none=True).items()}


def _overridden(override: PriceOverride) -> _Known:
    price: Tariff | _Hourly
    if override.dollars_per_hour is not None:
        price = _Hourly(from_dollars(override.dollars_per_hour), override.max_seconds or 0.0)
    else:
        price = tariff(override.model_dump(exclude_none=True))
    return _Known(price, math.inf, override.max_output_tokens)


def _up(nanos_millionths: int) -> int:
    return -(-nanos_millionths // MILLION)


def _worst_input(rates: Rates, model: Model, extras: Extras) -> int:
    worst = max(rates.input, rates.cached)
    # Claude's models write to a cache only what a message marks; others' do it by themselves.
    if extras.caching is not None or "claude" not in model.name.lower():
        worst = max(worst, rates.cache_write)
    if extras.caching == "1h":
        worst = max(worst, rates.cache_write_1h)
    return max(worst, rates.audio_input) if extras.audio else worst


def _worst_output(rates: Rates, extras: Extras) -> int:
    worst = max(rates.output, rates.reasoning)
    return max(worst, rates.audio_output) if extras.audio else worst


def _cost(price: Tariff, usage: Usage) -> Nanos:
    total = max(0, usage.input_tokens)
    cached = max(0, usage.cached_tokens)
    written = max(0, usage.cache_write_tokens, usage.cache_write_1h_tokens)
    written_1h = max(0, usage.cache_write_1h_tokens)
    audio = max(0, usage.audio_input_tokens)
    if cached + written > total:
        total += cached + written
    if audio > total:
        total += audio
    plain = total - cached - written - audio
    if plain < 0:  # some audio was cached; how much of it is not told, so nothing is taken off for it
        cached, plain = 0, max(0, total - written - audio)
    out = max(0, usage.output_tokens)
    reasoning = max(0, usage.reasoning_tokens)
    spoken = max(0, usage.audio_output_tokens)
    text = out - reasoning - spoken if reasoning + spoken <= out else out
    rates = price.at(total)
    millionths = (
        plain * rates.input
        + cached * rates.cached
        + (written - written_1h) * rates.cache_write
        + written_1h * rates.cache_write_1h
        + audio * rates.audio_input
        + text * rates.output
        + reasoning * rates.reasoning
        + spoken * rates.audio_output
    )
    return Nanos(_up(millionths) + rates.request)
