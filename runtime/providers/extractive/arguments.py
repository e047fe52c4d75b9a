"""Fills a tool's arguments from what the user said and what is known, or says what is missing.

Every function returns the value, or the step that leads to it: a read, or a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.entities import compared_ids, find_address, find_ids, target_ids
from admiralty.runtime.providers.extractive.facts import Json, Record, children, find_value, references, walk
from admiralty.runtime.providers.extractive.matching import Picked, Unclear, pick
from admiralty.runtime.providers.extractive.phrases import state_of
from admiralty.runtime.providers.extractive.render import describe, describe_short, summary
from admiralty.runtime.providers.extractive.requests import Goal
from admiralty.runtime.providers.extractive.schema import Param, ToolSpec
from admiralty.runtime.providers.extractive.text import has_phrase, humanize, listed, singular, words
from admiralty.runtime.providers.extractive.variants import replacements
from admiralty.runtime.providers.extractive.world import Do, Say, Step, World

MOST_CHOICES = 12
"""Records of the user that are looked through when a request names none."""
_ORIGINAL = (
    "original", "same payment", "same card", "same method", "same way", "i paid with", "originally",
    "i used", "used to pay",
    "paid for it", "back to the card",
)  # fmt: skip
_THAT_ADDRESS = ("that", "this", "it", "same address", "new address")
_OWN_ADDRESS = (
    "profile",
    "default",
    "home address",
    "account",
    "my address on file",
    "address on file",
    "primary address",
)


def fill(goal: Goal, spec: ToolSpec, record: Record, world: World) -> dict[str, Any] | Step:
    """Return all arguments of ``spec`` for ``goal`` on ``record``, or what has to come first."""
    arguments: dict[str, Any] = {}
    picked: list[Picked] = []
    for param in sorted(spec.params, key=_rank):
        if param is spec.primary:
            value: Any = record.id
        elif param in spec.address:
            continue
        elif param.array and param.is_entity:
            value = _items(goal, param, record) if not param.is_new else None
            if isinstance(value, list):
                picked = value
                value = [str(item.record[f"{param.kind}_id"]) for item in picked]
            elif param.is_new:
                value = replacements(goal, picked, param.kind, world)
        else:
            value = _single(goal, spec, param, record, world)
        if isinstance(value, Do | Say):
            return value
        if value is not None:
            arguments[param.name] = value
    if spec.address:
        address = _address(goal, spec, record, world)
        if isinstance(address, Do | Say):
            return address
        arguments |= address
    return {param.name: arguments[param.name] for param in spec.params if param.name in arguments}


def _rank(param: Param) -> int:
    """Items come before what replaces them; how to pay comes last."""
    return 0 if param.array and not param.is_new else 1 if param.array else 2 if param.enum else 3


# -- the record acted on ------------------------------------------------------------------------------


def named_target(goal: Goal, spec: ToolSpec) -> str | None:
    """Return the id of the record that the request itself names."""
    if goal.target:
        return goal.target
    pattern = spec.primary.pattern if spec.primary else None
    for text in (*reversed(goal.texts), goal.context):
        if ids := target_ids(text, pattern):
            return ids[0]
    return None


def target(goal: Goal, specs: Sequence[ToolSpec], me: Record | None, world: World) -> Record | Step:
    """Return the record that ``goal`` is about: named, or meant by what is in it or was spoken of before."""
    spec = specs[0]
    primary = spec.primary
    if primary is None:
        return Say(text=_not_understood(spec), confidence=0.3)
    if me and me.kind == primary.kind:
        return me
    if key := named_target(goal, spec):
        return world.read(primary.kind, key)
    candidates = references(me.data, primary.kind)[:MOST_CHOICES] if me else []
    records: list[Record] = []
    for key in candidates:
        found = world.read(primary.kind, key)
        if isinstance(found, Do):
            return found
        if isinstance(found, Record):
            records.append(found)
    if not records:
        return Say(text=f"Which {humanize(primary.kind)} do you mean? Please give me its id.", confidence=0.7)
    return _meant(goal, specs, records, world)


def _meant(goal: Goal, specs: Sequence[ToolSpec], records: Sequence[Record], world: World) -> Record | Say:
    spec = specs[0]
    kind = spec.primary.kind if spec.primary else ""
    allowed = [record for record in records if any(fits(other, record) for other in specs)] or list(records)
    wider = list(allowed)
    allowed = _containing(goal, allowed) or _containing(goal, records) or allowed
    if len(allowed) == 1:
        return allowed[0]
    if allowed == wider and (spoken := _spoken_of(goal, allowed, spec, world)):
        return spoken
    lines = "\n".join(f"- {summary(record)}" for record in allowed)
    return Say(text=f"Which {humanize(kind)} do you mean?\n{lines}", confidence=0.8)


def _containing(goal: Goal, records: Sequence[Record]) -> list[Record]:
    """Return the records that hold something which the request names."""
    text = f"{goal.text} . {goal.context}"
    found = []
    for record in records:
        parts = [part for part in walk(record.data) if part is not record.data and part.get("name")]
        names = [str(part["name"]) for part in parts]
        if names and any(_is_named(text, name) for name in names):
            found.append(record)
    return found


def _is_named(text: str, name: str) -> bool:
    return has_phrase(text, [name]) or has_phrase(
        text, [singular(word) for word in words(name)[-1:] if len(word) > 4]
    )


def _spoken_of(goal: Goal, records: Sequence[Record], spec: ToolSpec, world: World) -> Record | None:
    """Return the one of ``records`` that the user named last in an earlier turn."""
    pattern = spec.primary.pattern if spec.primary else None
    for turn in reversed(world.transcript.turns[: goal.turn + 1]):
        for key, _ in reversed(find_ids(turn.text, pattern)):
            for record in records:
                if record.id == key:
                    return record
    return None


def fits(spec: ToolSpec, record: Record) -> bool:
    """Return whether the record is in the state that the tool demands."""
    state = state_of(spec)
    return not state or not record.status or record.status.lower() == state


# -- the other arguments --------------------------------------------------------------------------------


def _items(goal: Goal, param: Param, record: Record) -> list[Picked] | Step:
    parts = children(record.data, param.kind)
    for text in (goal.text, goal.context):
        found = pick(text, parts, param.kind) if text else None
        if isinstance(found, list) and found:
            return found
        if isinstance(found, Unclear):
            lines = "\n".join(f"- {describe(part)}" for part in found.choices)
            return Say(
                text=f"There is more than one {found.name} in {humanize(record.kind)} {record.id}. "
                f"Which do you mean?\n{lines}"
            )
    lines = "\n".join(f"- {describe(part)}" for part in parts)
    return Say(
        text=f"Which {humanize(param.kind)}s of {humanize(record.kind)} {record.id} do you mean? "
        f"Please name all of them.\n{lines}"
    )


def _single(goal: Goal, spec: ToolSpec, param: Param, record: Record, world: World) -> Any:
    if param.enum:
        return _enum(goal, param)
    if param.is_entity:
        return _entity(goal, spec, param, record, world)
    if param.name in ("summary", "reason", "note", "comment", "description", "message"):
        return goal.text
    if param.pattern and (found := param.pattern.search(goal.text)):
        return found.group()
    if not param.required:
        return None
    hint = f" ({param.description.rstrip('.')})" if param.description else ""
    return Say(text=f"What is the {humanize(param.name)}{hint}?", confidence=0.6)


def _enum(goal: Goal, param: Param) -> str | Say:
    scores = {}
    for value in param.enum:
        score = 0.0
        for weight, text in ((1.0, goal.text), (0.5, goal.context)):
            if has_phrase(text, [humanize(value)]):
                score += 10 * weight
            for word in words(value):
                score += weight * sum(has_phrase(text, [hint]) for hint in lexicon.ENUM_HINTS.get(word, ()))
        scores[value] = score
    best = max(scores.values())
    chosen = [value for value, score in scores.items() if score == best]
    if best > 0 and len(chosen) == 1:
        return chosen[0]
    choices = listed([f"“{humanize(value)}”" for value in param.enum], "or")
    return Say(text=f"What is the {humanize(param.name)}: {choices}?", confidence=0.9)


def _entity(goal: Goal, spec: ToolSpec, param: Param, record: Record, world: World) -> str | Step | None:
    for text in (*reversed(goal.texts[1:]), goal.texts[0], goal.context):
        if ids := find_ids(text, param.pattern):
            return ids[-1][0]
    me = world.me()
    if isinstance(me, Do | Say):
        return me
    choices = children(me.data, param.kind) if me else []
    original = find_value(record.data, f"{param.kind}_id")
    is_the_point = not any(other.array for other in spec.params)
    for text in (*reversed(goal.texts[1:]), goal.texts[0], goal.context):
        if original and not is_the_point and has_phrase(text, _ORIGINAL):
            return str(original)
        named = _named(text, choices, param.kind)
        if len(named) == 1:
            return named[0]
        if len(named) > 1 or _names_other(text, param):
            return _ask_entity(param, [c for c in choices if str(c[f"{param.kind}_id"]) in named] or choices)
    if original and not is_the_point:
        return str(original)
    others = [choice for choice in choices if choice.get(f"{param.kind}_id") != original]
    return _ask_entity(param, others or choices)


def _names_other(text: str, param: Param) -> bool:
    """Return whether a text speaks of a kind of choice that none of the choices is, such as a card."""
    return "payment" in param.kind and has_phrase(text, lexicon.WAYS_TO_PAY)


def _named(text: str, choices: Sequence[Json], kind: str) -> list[str]:
    """Return the ids of the choices that ``text`` describes best."""
    scores: dict[str, int] = {}
    for choice in choices:
        score = 0
        for key, value in choice.items():
            if key not in (f"{kind}_id", "id") and isinstance(value, str):
                score += 2 * has_phrase(text, [humanize(value)])
        last = humanize(str(choice.get("source", ""))).split()[-1:]
        if (
            not score
            and last == ["card"]
            and not has_phrase(text, ("gift card", "credit card", "debit card"))
        ):
            score = int(has_phrase(text, ["my card", "the card", "card"]))
        scores[str(choice.get(f"{kind}_id"))] = score
    best = max(scores.values(), default=0)
    return [key for key, score in scores.items() if score == best and best > 0]


def _ask_entity(param: Param, choices: Sequence[Json]) -> Say:
    if not choices:
        return Say(
            text=f"I do not know of any {humanize(param.kind)} for this. Which one do you mean?",
            confidence=0.5,
        )
    lines = "\n".join(f"- {describe_short(choice, param.kind)}" for choice in choices)
    return Say(text=f"Which {humanize(param.kind)} shall I use?\n{lines}", confidence=0.9)


# -- addresses --------------------------------------------------------------------------------------------


def _address(goal: Goal, spec: ToolSpec, record: Record, world: World) -> dict[str, str] | Step:
    names = [param.name for param in spec.address]
    current = address_in(record.data, names)
    given: dict[str, str] = {}
    for text in (goal.context, *goal.texts):
        given |= find_address(text, names)
    if "address1" not in given:
        copied = _copied(goal, record, names, world)
        if isinstance(copied, Do | Say):
            return copied
        if copied:
            return {**dict.fromkeys(names, ""), **copied, **given}
    if set(given) == {"address2"}:
        return {**current, **given}
    missing = [name for name in names if name not in given and name not in ("address2", "country")]
    if missing:
        if not given:
            return Say(
                text="What is the new address? Please give street, city, state and zip code.", confidence=0.9
            )
        asked = listed(["street and number" if name == "address1" else humanize(name) for name in missing])
        return Say(text=f"To complete the address, I still need its {asked}.", confidence=0.9)
    filled = {"address2": "", "country": current.get("country", "USA")} | given
    return {name: filled[name] for name in names}


def address_in(data: Json, names: Sequence[str]) -> dict[str, str]:
    """Return the first address inside a record, by the given names."""
    for inner in walk(data):
        if sum(isinstance(inner.get(name), str) for name in names) >= 3:
            return {name: str(inner.get(name, "")) for name in names}
    return {}


def _copied(goal: Goal, record: Record, names: Sequence[str], world: World) -> Mapping[str, str] | Step:
    """Return the address of the record that the user refers to: another order's, or their profile's."""
    for text in reversed(goal.texts):
        for kind, pattern in world.tools.patterns.items():
            for key in compared_ids(text, pattern):
                found = world.read(kind, key)
                return address_in(found.data, names) if isinstance(found, Record) else found
        if record.kind not in world.facts.identified and has_phrase(text, _OWN_ADDRESS):
            me = world.me()
            if isinstance(me, Do | Say):
                return me
            return address_in(me.data, names) if me else {}
        if has_phrase(text, _THAT_ADDRESS) and (spoken := _spoken_address(names, world)):
            return spoken
    return {}


def _spoken_address(names: Sequence[str], world: World) -> dict[str, str]:
    """Return the address of the last change that had one."""
    for call in reversed(world.transcript.calls):
        if sum(isinstance(call.arguments.get(name), str) for name in names) >= 3:
            return {name: str(call.arguments.get(name, "")) for name in names}
    return {}


def _not_understood(spec: ToolSpec) -> str:
    return f"I cannot tell what to {humanize(spec.name)}."
