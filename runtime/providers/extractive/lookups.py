"""Plain lookups: a reading tool whose arguments the question names.

For fleets whose tools are no desk of records: nobody is identified, and an argument is one of a few
values, or something that looks like an id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from admiralty.runtime.providers.extractive.compose import plain_result
from admiralty.runtime.providers.extractive.entities import find_argument
from admiralty.runtime.providers.extractive.schema import Param, ToolSpec
from admiralty.runtime.providers.extractive.text import clean, has_phrase, humanize, listed, singular, words
from admiralty.runtime.providers.extractive.transcript import call_key
from admiralty.runtime.providers.extractive.world import Do, Say, Step, World

_ID_LIKE = re.compile(r"#?\b[\w-]*\d[\w-]*")
MOST_VALUES = 12


def lookup(question: str, world: World) -> Step | None:
    """Return the call that answers, or the answer once it was made; ``None`` if no tool fits."""
    asked: Say | None = None
    for spec in sorted(_fitting(question, world), key=lambda spec: -len(spec.required)):
        found = {param.name: _value(param, question) for param in spec.required}
        if None not in found.values():
            step = Do(name=spec.name, arguments=found)
            return step if world.can_call(step) else _told(step, world)
        missing = next(param for param in spec.required if found[param.name] is None)
        asked = asked or _which(missing)
    return asked


def _fitting(question: str, world: World) -> list[ToolSpec]:
    said = {singular(word) for word in words(question)}
    return [
        spec
        for spec in world.tools.reads
        if spec.required and not spec.is_finder and said & {singular(word) for word in _subject(spec)}
    ]


def _subject(spec: ToolSpec) -> set[str]:
    names = {word for param in spec.required for word in words(humanize(param.kind or param.name))}
    return set(spec.words) | names


def _value(param: Param, question: str) -> str | None:
    if param.enum:
        return next((value for value in param.enum if has_phrase(question, (value,))), None)
    if found := find_argument(param, [question]):
        return found
    if param.is_entity and param.pattern is None and (match := _ID_LIKE.search(question)):
        return match.group()
    return None


def _which(param: Param) -> Say:
    name = humanize(param.kind or param.name)
    if param.enum:
        return Say(text=f"Which {name}: {listed(param.enum[:MOST_VALUES], 'or')}?", confidence=0.7)
    return Say(text=f"Which {name} do you mean?", confidence=0.6)


def _told(step: Do, world: World) -> Say | None:
    wanted = call_key(step.name, step.arguments)
    calls = [call for call in world.transcript.current.calls if call.key == wanted]
    if not calls:
        return None
    if calls[-1].status == "error":
        return Say(text=f"I could not look that up: {clean(calls[-1].error, 200)}", confidence=0.8)
    text = plain_result(calls[-1].content) or _spoken(calls[-1].content)
    return Say(text=text, confidence=0.8) if text else None


def _spoken(content: str | None) -> str:
    """Return a flat JSON object as ``key value; key: value``."""
    try:
        result = json.loads(content or "")
    except ValueError:
        return ""
    if not isinstance(result, Mapping):
        return ""
    flat: dict[str, Any] = {
        str(key): value for key, value in result.items() if isinstance(value, str | int | float)
    }
    parts = [f"{humanize(key)}: {clean(value, 200)}" for key, value in flat.items()]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
