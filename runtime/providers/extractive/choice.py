"""Chooses the tool that serves a request: by its verb, its object, and the state of what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.arguments import fits, named_target
from admiralty.runtime.providers.extractive.entities import find_address, find_ids
from admiralty.runtime.providers.extractive.facts import Facts, Record
from admiralty.runtime.providers.extractive.phrases import part_of, phrase, state_of
from admiralty.runtime.providers.extractive.requests import Goal
from admiralty.runtime.providers.extractive.schema import Toolbox, ToolSpec
from admiralty.runtime.providers.extractive.text import has_phrase, humanize

_BY_OBJECT = ("send", "set")
"""Verbs that no tool is named by, but that ask to change something: ``ship it to``, ``pay with``."""


def candidates(goal: Goal, tools: Toolbox) -> list[ToolSpec]:
    """Return the tools with the request's verb, or else those whose object it speaks of; perhaps none."""
    by_verb = [spec for spec in tools.writes if spec.verb == goal.verb]
    if by_verb or goal.verb not in _BY_OBJECT:
        return by_verb
    text = goal.texts[0]
    moves = has_phrase(text, ("address",)) or any(_finds_address(text, spec) for spec in tools.writes)
    if moves or goal.verb == "send":
        return [spec for spec in tools.writes if spec.address]
    pays = has_phrase(text, ("pay", "paypal", "card"))
    return [spec for spec in tools.writes if spec.verb == "modify" and (pays or not spec.address)]


def choose(goal: Goal, specs: Sequence[ToolSpec], facts: Facts) -> ToolSpec:
    """Return the one of ``specs`` whose object the request speaks of; the first where nothing tells."""
    if len(specs) == 1:
        return specs[0]
    return max(specs, key=lambda spec: (_score(goal, spec, facts), -specs.index(spec)))


def _score(goal: Goal, spec: ToolSpec, facts: Facts) -> float:
    text = goal.texts[0]
    score = 0.0
    pays = _speaks_of_payment(text)
    moves = has_phrase(text, ("address", "ship to", "shipped to", "deliver to", "delivered to")) or bool(
        _finds_address(text, spec)
    )
    names_one = bool(
        spec.primary and any(find_ids(t, spec.primary.pattern) for t in (*goal.texts, goal.context))
    )
    if spec.address:
        score += 4 if moves else -3
        if "address1" in find_address(goal.text, [param.name for param in spec.address]):
            score += 1
    elif any(param.array for param in spec.params):
        score += 1 - 2 * moves - 2 * pays + _speaks_of_things(text)
    elif "payment" in spec.words:
        score += 4 if pays else -2
    is_profile = bool(spec.primary and spec.primary.kind in facts.identified) or "user" in spec.words
    if is_profile:
        score += (
            2 * has_phrase(text, lexicon.OBJECTS["user"])
            - 0.5
            - 3 * has_phrase(text, ("order", "shipping", "package"))
        )
        score -= 3 * any("#" in text for text in (*goal.texts, goal.context))
    else:
        score += names_one
    return score


def _finds_address(text: str, spec: ToolSpec) -> bool:
    return "address1" in find_address(text, [param.name for param in spec.address]) if spec.address else False


@lru_cache(maxsize=512)
def _speaks_of_payment(text: str) -> bool:
    """Return whether how to pay is what should change, not only how a difference is paid."""
    if has_phrase(text, ("payment", "pay", "paying", "billing", "charge")):
        return not has_phrase(
            text, ("pay the difference", "pay for the difference", "pay the price difference")
        )
    ways = (*lexicon.WAYS_TO_PAY, "card")
    return has_phrase(text, [f"{to} {way}" for way in ways for to in ("to", "to my", "to the")])


def _speaks_of_things(text: str) -> float:
    """Return how much a text speaks of things and their options."""
    return 1.0 * has_phrase(text, lexicon.OBJECTS["items"])


def in_state(spec: ToolSpec, record: Record, tools: Toolbox) -> ToolSpec | None:
    """Return ``spec``, or its sibling that takes the same parameters, as the record's state allows.

    An exchange of a thing that was not yet delivered is a change of the order. ``None``: neither fits.
    """
    if fits(spec, record):
        return spec
    same = [
        other for other in tools.writes if [p.name for p in other.params] == [p.name for p in spec.params]
    ]
    return next((other for other in same if other.verb != spec.verb and fits(other, record)), None)


def refusal(goal: Goal, tools: Toolbox, facts: Facts) -> tuple[str, ToolSpec] | None:
    """Return why the record's state forbids the request, with the tool meant; ``None`` if it may not."""
    if goal.status == "confirmed":
        return None
    specs = candidates(goal, tools)
    if not specs:
        return None
    spec = choose(goal, specs, facts)
    key = named_target(goal, spec)
    record = facts.get(spec.primary.kind, key) if spec.primary and key else None
    if record is None or in_state(spec, record, tools):
        return None
    kind = humanize(record.kind)
    one = f"{'of ' if part_of(spec) else ''}{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    text = (
        f"{kind.capitalize()} {record.id} is {record.status}, and I can only {phrase(spec, '')} "
        f"{one} that is {state_of(spec)}."
    )
    return text, spec


def possible_for(record: Record, tools: Toolbox) -> list[ToolSpec]:
    """Return the changes that a record's state allows."""
    return [
        spec for spec in tools.writes
        if spec.primary and spec.primary.kind == record.kind and state_of(spec) and fits(spec, record)
    ]  # fmt: skip
