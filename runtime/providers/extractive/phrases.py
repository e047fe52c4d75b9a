"""How actions are spoken of: ``cancel order #W1``, not ``cancel_pending_order``.

Read off a tool's name and parameters alone, so it fits any trade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from admiralty.runtime.providers.extractive.facts import Facts, Record
from admiralty.runtime.providers.extractive.schema import Toolbox, ToolSpec
from admiralty.runtime.providers.extractive.text import clean, humanize, listed, words
from admiralty.runtime.providers.extractive.transcript import Call
from admiralty.runtime.providers.extractive.world import World

_PLAIN_VERBS = {"modify": "change", "update": "change", "create": "open"}
_PARTICIPLES = {"cancel": "cancelled", "send": "sent", "set": "set", "modify": "changed", "book": "booked"}


def state_of(spec: ToolSpec) -> str:
    """Return the state that a tool's name demands: ``pending`` in ``cancel_pending_order``; may be empty."""
    kind = spec.primary.kind.split("_")[0] if spec.primary else ""
    return " ".join(spec.words[: spec.words.index(kind)]) if kind in spec.words else ""


def part_of(spec: ToolSpec) -> str:
    """Return which part of the record a tool changes: ``address``; empty where it is the whole."""
    kind = spec.primary.kind if spec.primary else ""
    without = {*state_of(spec).split(), *kind.split("_")}
    return " ".join(word for word in spec.words if word not in without)


def _is_several(spec: ToolSpec) -> bool:
    return any(param.array for param in spec.params)


def verb_of(spec: ToolSpec) -> str:
    """Return the plain verb of what a tool does."""
    said = words(humanize(spec.name))[0]
    return _PLAIN_VERBS.get(said, said)


def phrase(spec: ToolSpec, of: str) -> str:
    """Return what a tool does to ``of``: ``change the address of order #W1``."""
    part = part_of(spec)
    if not of:
        return f"{verb_of(spec)} {'' if _is_several(spec) or not part else 'the '}{part}".strip()
    if not part:
        return f"{verb_of(spec)} {of}"
    if of in ("it", "your"):
        return f"{verb_of(spec)} {'its' if of == 'it' else of} {part}"
    return f"{verb_of(spec)} {'' if _is_several(spec) else 'the '}{part} of {of}"


def about(spec: ToolSpec, call: Call, facts: Facts) -> str:
    """Return what a call does: ``cancel order #W1``, ``change your address``."""
    return phrase(spec, _target(spec, call, facts))


def _target(spec: ToolSpec, call: Call, facts: Facts) -> str:
    if spec.primary is None:
        return ""
    if spec.primary.kind in facts.identified:
        return "your"
    return f"{humanize(spec.primary.kind)} {clean(call.arguments.get(spec.primary.name, ''))}"


def acted_on(spec: ToolSpec, arguments: Mapping[str, Any], facts: Facts) -> Record | None:
    """Return the record that a call is about, as it is known."""
    return facts.get(spec.primary.kind, str(arguments.get(spec.primary.name))) if spec.primary else None


def was_done(spec: ToolSpec, call: Call, facts: Facts) -> str:
    """Return that a call was made: ``order #W1 is cancelled``, or the state that it reached."""
    target = _target(spec, call, facts)
    part = part_of(spec)
    record = acted_on(spec, call.arguments, facts)
    status = clean(record.status) if record and record.seq == call.seq else ""
    earlier = facts.replaced.get((record.kind, record.id)) if record else None
    participle = _PARTICIPLES.get(spec.verb, f"{spec.verb.removesuffix('e')}ed")
    if status and status == participle and not part:
        return f"{target} is {status}"
    if status and not (earlier and earlier.status == status):
        return f"{target} is now “{status}”"
    if target == "your":
        return f"your {part or 'profile'} is {participle}"
    subject = f"the {part} of {target}" if part and target else target or part
    return f"{subject} {'are' if _is_several(spec) else 'is'} {participle}"


def possible(specs: Sequence[ToolSpec], tools: Toolbox, of: str = "") -> str:
    """Return in words what the given tools can do: in general, or to ``it``."""
    own = {spec.finds for spec in tools.finders}
    said = []
    for spec in specs:
        kind = spec.primary.kind if spec.primary else ""
        article = "an" if kind[:1] in tuple("aeiou") else "a"
        general = "your" if kind in own else f"{article} {humanize(kind)}" if kind else ""
        said.append(phrase(spec, of or general))
    return listed(list(dict.fromkeys(said)), "or")


def otherwise(text: str, world: World) -> str:
    """Return ``text``; where the user was just told the same, with what was not understood and a way out."""
    turns = world.transcript.turns
    before = 0
    for turn in reversed(turns[:-1]):
        if not any(text in said for _, said in turn.answers):
            break
        before += 1
    if not before:
        return text
    said = clean(turns[-1].text, 80)
    human = "ask for a human, and I hand you over" if world.tools.human else "ask for something else"
    start = f"I could not make out what “{said}” means here"
    if text.endswith("yes or no."):
        start = f"I take “{said}” neither for a yes nor for a no"
    elif before % 2 == 0:
        start = f"I am sorry, “{said}” does not help me on, either"
    return f"{start}. You can also say “never mind”, or {human}.\n{text}"
