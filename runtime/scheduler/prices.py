"""What model calls cost, from the price book of genai-prices (bundled with it; nothing is fetched)."""

from __future__ import annotations

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from admiralty.core.money import Nanos, from_dollars
from admiralty.core.values import Usage


def price(provider: str, model: str, usage: Usage) -> Nanos | None:
    """Return what ``usage`` of a model costs, rounded up; ``None`` where the price is not known."""
    try:
        calculation = calc_price(
            PricedUsage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cached_tokens or None,
                cache_write_tokens=usage.cache_write_tokens or None,
            ),
            model_ref=model,
            provider_id=provider,
        )
    except (LookupError, ValueError):  # ValueError: a server counted more cached tokens than input
        return None
    return from_dollars(calculation.total_price)
