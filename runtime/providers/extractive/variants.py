"""Chooses what an item shall be replaced by: an available variant with the options wished for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.facts import (
    Json,
    Record,
    children,
    is_available,
    name_of,
    options_of,
    parent_kinds,
    price_of,
)
from admiralty.runtime.providers.extractive.matching import Picked, mentions, wants_same
from admiralty.runtime.providers.extractive.options import (
    Options,
    beyond,
    domain_of,
    ordered_option,
    parse_options,
)
from admiralty.runtime.providers.extractive.render import describe, describe_options
from admiralty.runtime.providers.extractive.requests import Goal
from admiralty.runtime.providers.extractive.text import has_phrase, listed, tokens
from admiralty.runtime.providers.extractive.world import Say, Step, World

MOST_LISTED = 6


def replacements(goal: Goal, picked: Sequence[Picked], kind: str, world: World) -> list[str] | Step:
    """Return the ids of the variants that take the places of ``picked``, in order."""
    result: list[str] = []
    names = [name_of(item.record) for item in picked]
    for item in picked:
        family = family_of(item.record, kind, world)
        if not isinstance(family, Record):
            return family
        extras = [text for text in goal.texts[1:] if not mentions(tokens(text), names) or len(picked) == 1]
        chosen = _choose(item, children(family.data, kind), extras, goal, alone=len(picked) == 1)
        if isinstance(chosen, Say):
            return chosen
        result.append(str(chosen[f"{kind}_id"]))
    return result


def family_of(item: Json, kind: str, world: World) -> Record | Step:
    """Return the record that holds all variants of ``item``."""
    for parent in parent_kinds(item, kind):
        if world.tools.detail_of(parent):
            return world.read(parent, str(item[f"{parent}_id"]))
    return Say(text=f"I cannot look up what else there is of {describe(item)}.", confidence=0.5)


def _choose(
    item: Picked, variants: Sequence[Json], extras: Sequence[str], goal: Goal, *, alone: bool
) -> Json | Say:
    own = options_of(item.record)
    domain = domain_of(variants)
    said = _wishes(item, domain, own)
    if alone or not _matching(said, own, variants):
        for text in extras:
            near = _near(said, variants)
            if (place := _ordinal(text)) is not None and place < len(near):
                return near[place]
            added = parse_options(tokens(text), domain)
            said = Options(chosen={**said.chosen, **added.chosen}, unclear=added.unclear or said.unclear)
    text = goal.text
    target = item.segment.target if item.segment else None
    is_same = (target is not None and not target) or wants_same(text)
    if has_phrase(text, lexicon.CHEAPEST) or has_phrase(text, lexicon.DEAREST):
        return _extreme(item, said, variants, dearest=has_phrase(text, lexicon.DEAREST))
    if not said.chosen and not said.unclear:
        if compared := _compared(item, text, variants):
            return compared
        if is_same:
            return item.record
        return Say(
            text=f"What shall {describe(item.record)} be replaced by? "
            f"Available options: {describe_domain(variants)}."
        )
    matching = _matching(said, own, variants)
    if len(matching) == 1:
        return matching[0]
    near = _near(said, variants)
    if extras and len(near) == 1 and _fit(near[0], said) == len(said.chosen):
        return near[0]  # the user was told that it is the only one, and answered
    return _none_fits(item, said, variants)


def _wishes(item: Picked, domain: Mapping[str, Sequence[str]], own: Mapping[str, str]) -> Options:
    if item.segment is None:
        return Options(chosen={})
    if item.segment.target is not None:
        return parse_options(item.segment.target, domain)
    named = parse_options(item.segment.source, domain).chosen
    return Options(chosen={key: value for key, value in named.items() if own.get(key) != value})


def _matching(said: Options, own: Mapping[str, str], variants: Sequence[Json]) -> list[Json]:
    """Return the available variants with the options wished for and everything else as it was."""
    wanted = [{**own, **said.chosen}]
    for value, keys in said.unclear:
        wanted = [{**options, key: value} for options in wanted for key in keys]
    if not said.chosen and not said.unclear:
        return []
    found = [v for v in variants if is_available(v) and options_of(v) in wanted]
    changed = [v for v in found if options_of(v) != dict(own)]
    return changed or found


def _extreme(item: Picked, said: Options, variants: Sequence[Json], *, dearest: bool) -> Json | Say:
    fitting = [
        v for v in variants
        if is_available(v) and all(options_of(v).get(key) == value for key, value in said.chosen.items())
    ]  # fmt: skip
    if not fitting:
        return _none_fits(item, said, variants)
    found = sorted(fitting, key=lambda v: price_of(v) or 0.0, reverse=dearest)[0]
    if options_of(found) == options_of(item.record):
        return Say(
            text=f"{describe(item.record)} is already the {'dearest' if dearest else 'cheapest'} one. "
            "Which other would you like?"
        )
    return found


def _compared(item: Picked, text: str, variants: Sequence[Json]) -> Json | Say | None:
    """Return the variant that is ``cheaper`` or ``bigger`` than the item, or ask which of several."""
    own, price = options_of(item.record), price_of(item.record) or 0.0
    found: list[Json]
    if has_phrase(text, lexicon.CHEAPER):
        wish = "cheaper"
        found = [v for v in variants if is_available(v) and (price_of(v) or 0.0) < price]
    elif has_phrase(text, lexicon.MORE) or has_phrase(text, lexicon.LESS):
        wish = "bigger" if has_phrase(text, lexicon.MORE) else "smaller"
        key = ordered_option(domain_of(variants), own)
        values = domain_of(variants).get(key, [])
        better = beyond(own.get(key, ""), values, up=wish == "bigger")
        wanted = [{**own, key: value} for value in better]
        found = [v for options in wanted for v in variants if is_available(v) and options_of(v) == options]
        if has_phrase(text, ("one size", "next size", "size up", "size down")):
            found = found[:1]
    else:
        return None
    if len(found) == 1:
        return found[0]
    if not found:
        return Say(
            text=f"There is no {wish} available {name_of(item.record)} than yours. "
            f"Available options: {describe_domain(variants)}. Which would you like?"
        )
    lines = "\n".join(f"- {describe_options(v)}" for v in found[:MOST_LISTED])
    return Say(text=f"These are {wish} than {describe(item.record)}:\n{lines}\nWhich one would you like?")


def _none_fits(item: Picked, said: Options, variants: Sequence[Json]) -> Say:
    wished = listed([f"{key} {value}" for key, value in said.chosen.items()])
    wished = wished or listed([f"“{value}” ({' or '.join(keys)})" for value, keys in said.unclear])
    near = _near(said, variants)
    name = name_of(item.record)
    lines = "\n".join(f"- {describe_options(v)}" for v in near)
    if not near:
        return Say(text=f"No other {name} is available at present.", confidence=0.9)
    return Say(
        text=f"There is no available {name} with {wished} and everything else as it is. "
        f"Available near that:\n{lines}\nWhich one would you like?",
        confidence=0.85,
    )


def _near(said: Options, variants: Sequence[Json]) -> list[Json]:
    """Return the available variants with as many of the wished options as any has."""
    available = [v for v in variants if is_available(v)]
    best = max((_fit(v, said) for v in available), default=0)
    return [v for v in available if _fit(v, said) == best][:MOST_LISTED]


def _fit(variant: Json, said: Options) -> int:
    return sum(options_of(variant).get(key) == value for key, value in said.chosen.items())


def _ordinal(text: str) -> int | None:
    """Return the place in a list that a text names, from 0: ``the second one``."""
    for place, word in enumerate(("first", "second", "third", "fourth", "fifth", "sixth")):
        if has_phrase(text, [f"{word} one", f"the {word}", f"{word} option"]):
            return place
    return None


def describe_domain(variants: Sequence[Json]) -> str:
    """Return the options that available variants have: ``color: black, red; size: M``."""
    domain = domain_of([v for v in variants if is_available(v)])
    return "; ".join(f"{key}: {', '.join(values)}" for key, values in domain.items())
