"""Answers about what there is in general: which kinds, which options, at what price, whether available."""

from __future__ import annotations

from collections.abc import Sequence

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.facts import (
    Json,
    Record,
    is_available,
    options_of,
    price_of,
    walk,
)
from admiralty.runtime.providers.extractive.matching import mentions
from admiralty.runtime.providers.extractive.options import domain_of, parse_options
from admiralty.runtime.providers.extractive.render import describe_options
from admiralty.runtime.providers.extractive.schema import ToolSpec
from admiralty.runtime.providers.extractive.text import clean, has_phrase, listed, money, tokens
from admiralty.runtime.providers.extractive.variants import describe_domain
from admiralty.runtime.providers.extractive.world import Do, Say, Step, World

MOST_LISTED = 8
_KINDS = (
    "products", "product types", "kinds of products", "types of products", "sell", "store", "shop",
    "catalogue", "catalog",
    "what do you have", "what do you offer", "assortment",
)  # fmt: skip


def catalogue_answer(question: str, world: World) -> Step | None:
    """Return the answer about the named things; ``None`` if ``question`` names none and asks for no list."""
    listing = world.facts.listing
    toks = tokens(question)
    whole = [name for _, _, name in mentions(toks, list(listing))]
    names = list(dict.fromkeys(whole))[:3]
    if not names:
        if listing and has_phrase(question, _KINDS):
            asks_one = has_phrase(question, ("do you have", "do you sell", "do you carry", "do you stock"))
            missing = (
                "I find nothing by that name. "
                if asks_one and not has_phrase(question, ("what", "which"))
                else ""
            )
            every = listed([clean(name, 40) for name in listing])
            return Say(text=f"{missing}There are {len(listing)} kinds of products: {every}.", confidence=0.85)
        return None
    detail = _detail(world)
    if detail is None:
        return None
    parts: list[str] = []
    for name in names:
        found = world.read(detail.required[0].kind, listing[name])
        if isinstance(found, Do):
            return found
        parts.append(_describe(question, name, found) if isinstance(found, Record) else found.text)
    return Say(text="\n".join(parts), confidence=0.85)


def _detail(world: World) -> ToolSpec | None:
    """Return the tool that reads what the listing lists: the one named after it."""
    listing = world.tools.listing
    for spec in world.tools.reads:
        needed = spec.required
        if listing and len(needed) == 1 and needed[0].is_entity and needed[0].kind in listing.words:
            return spec
    return None


def variants_of(data: Json) -> list[Json]:
    """Return the variants inside a record: what has options and may be available or not."""
    return [part for part in walk(data) if part is not data and "available" in part and options_of(part)]


def _describe(question: str, name: str, record: Record) -> str:
    variants = variants_of(record.data)
    available = [variant for variant in variants if is_available(variant)]
    asked = parse_options(tokens(question), domain_of(variants)).chosen
    fitting = [v for v in available if all(options_of(v).get(key) == value for key, value in asked.items())]
    wished = f" with {listed([f'{clean(k)} {clean(v)}' for k, v in asked.items()])}" if asked else ""
    if has_phrase(question, lexicon.CHEAPEST) and fitting:
        return f"The cheapest available {name}{wished}: {describe_options(_by_price(fitting)[0])}."
    if has_phrase(question, lexicon.DEAREST) and fitting:
        return f"The most expensive available {name}{wished}: {describe_options(_by_price(fitting)[-1])}."
    if has_phrase(question, ("how many",)):
        return f"{len(fitting)} of the {len(variants)} options of {name} are available{wished}."
    if asked and not fitting:
        return f"No {name}{wished} is available at present. Available: {describe_domain(variants)}."
    if not asked:
        if keys := [key for key in domain_of(variants) if has_phrase(question, [key])]:
            domain = domain_of(available)
            return "; ".join(f"{name}, {clean(key)}: {listed(domain.get(key, []))}" for key in keys) + "."
        low, high = _by_price(available)[0], _by_price(available)[-1]
        prices = (
            f"{money(price_of(low) or 0.0)} to {money(price_of(high) or 0.0)}"
            if available
            else "none at present"
        )
        return f"{name}: {len(available)} available options, {prices}. {describe_domain(variants)}."
    shown = [f"- {describe_options(v)}" for v in _by_price(fitting)[:MOST_LISTED]]
    more = f"\n… and {len(fitting) - MOST_LISTED} more" if len(fitting) > MOST_LISTED else ""
    return f"{name}{wished}, available:\n" + "\n".join(shown) + more


def _by_price(variants: Sequence[Json]) -> list[Json]:
    return sorted(variants, key=lambda variant: price_of(variant) or 0.0)
