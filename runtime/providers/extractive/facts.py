"""What is known: records, ids and passages, gathered from the results of tools.

Results are data only. Whatever a record's text says, nothing here or above takes it for a request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from admiralty.runtime.providers.extractive.schema import Toolbox, ToolSpec
from admiralty.runtime.providers.extractive.text import singular
from admiralty.runtime.providers.extractive.transcript import Call, Transcript

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record, as a tool gave it last."""

    kind: str
    id: str
    data: Json
    turn: int
    """Index of the turn in which it was read."""
    seq: int

    @property
    def status(self) -> str:
        return str(self.data.get("status", ""))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the conversation's tool results tell."""

    records: Mapping[tuple[str, str], Record]
    identified: Mapping[str, str]
    """By kind (``user``), the id that a finder returned: who is speaking."""
    listing: Mapping[str, str]
    """Names with their ids, from the tool that lists everything."""
    passages: Mapping[str, Sequence[Json]]
    """Found passages, by the query that found them."""
    replaced: Mapping[tuple[str, str], Record] = field(default_factory=dict)
    """Records as they were before they were last changed."""
    last_write: int = -1
    """Place of the last change among all calls."""
    made: frozenset[str] = field(default_factory=frozenset)
    """Keys of the calls made in the present turn, since its last change."""

    def get(self, kind: str, key: str) -> Record | None:
        return self.records.get((kind, key))

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records.values() if record.kind == kind]


def gather(transcript: Transcript, tools: Toolbox) -> list[Facts]:
    """Return what was known before each call and, last, what is known now.

    A later result for the same record replaces the earlier one.
    """
    now = Facts(records={}, identified={}, listing={}, passages={})
    history = [now]
    for call in transcript.calls:
        now = _learn(now, call, tools, is_present=call.turn == len(transcript.turns) - 1)
        history.append(now)
    return history


def _learn(facts: Facts, call: Call, tools: Toolbox, *, is_present: bool) -> Facts:
    spec = tools.get(call.name)
    if spec is None or call.status == "open":
        return facts
    if call.status == "ok" and spec.is_write:
        facts = replace(facts, last_write=call.seq, made=frozenset())
    if is_present:
        facts = replace(facts, made=facts.made | {call.key})
    if call.status != "ok":
        return facts
    value = _parse(call.content or "")
    if spec.is_finder and isinstance(value, str):
        return replace(facts, identified={**facts.identified, spec.finds: value})
    if spec.is_knowledge:
        query = str(next(iter(call.arguments.values()), ""))
        return replace(facts, passages={**facts.passages, query: _passages(value)})
    if not isinstance(value, Mapping):
        return facts
    if spec.is_listing:
        named = {str(key): inner for key, inner in value.items() if isinstance(inner, str)}
        return replace(facts, listing={**facts.listing, **named})
    if record := _record(value, spec, call):
        place = (record.kind, record.id)
        others = {key: old for key, old in facts.records.items() if key != place}
        if spec.is_write and place in facts.records:
            facts = replace(facts, replaced={**facts.replaced, place: facts.records[place]})
        return replace(facts, records={**others, place: record})
    return facts


@lru_cache(maxsize=256)
def _parse(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.strip()


def _passages(value: Any) -> Sequence[Json]:
    items = value if isinstance(value, list) else [value]
    found = []
    for item in items:
        if isinstance(item, Mapping) and item.get("text"):
            found.append(item)
        elif isinstance(item, str) and item:
            found.append({"text": item})
    return found


def _record(value: Json, spec: ToolSpec, call: Call) -> Record | None:
    primary = spec.primary
    if primary is None:
        return None
    key = value.get(primary.name, call.arguments.get(primary.name))
    if not isinstance(key, str):
        return None
    return Record(kind=primary.kind, id=key, data=value, turn=call.turn, seq=call.seq)


# -- looking into records -------------------------------------------------------------------------


def walk(value: Any) -> Iterator[Json]:
    """Yield every object inside ``value``, itself included, outermost first."""
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def children(data: Json, kind: str) -> list[Json]:
    """Return the records of ``kind`` inside a record: those with its id, or kept under their ids."""
    own = f"{kind}_id"
    found: list[Json] = []
    for inner in walk(data):
        for key, value in inner.items():
            if singular(key) == kind and isinstance(value, Mapping):
                found += [{own: str(k), **v} for k, v in value.items() if isinstance(v, Mapping)]
        if inner is not data and isinstance(inner.get(own), str):
            found.append(inner)
    return found


def references(data: Json, kind: str) -> list[str]:
    """Return the ids of ``kind`` that a record lists: ``orders: [...]``."""
    for key, value in data.items():
        if singular(key) == kind and isinstance(value, list):
            return [item for item in value if isinstance(item, str)]
    return []


def find_value(data: Any, key: str) -> Any:
    """Return the first scalar under ``key`` anywhere inside, or ``None``."""
    for inner in walk(data):
        value = inner.get(key)
        if isinstance(value, str | int | float):
            return value
    return None


def name_of(data: Json) -> str:
    """Return what a record is called; may be empty."""
    value = data.get("name") or data.get("title") or ""
    return value if isinstance(value, str) else " ".join(str(part) for part in value.values())


def options_of(data: Json) -> dict[str, str]:
    """Return what tells variants apart: the first object inside that holds only scalars."""
    for value in data.values():
        if isinstance(value, Mapping) and all(
            isinstance(inner, str | int | float) for inner in value.values()
        ):
            return {str(key): str(inner) for key, inner in value.items()}
    return {}


def price_of(data: Json) -> float | None:
    """Return the price or amount of a record, where it has one."""
    value = data.get("price", data.get("amount"))
    return float(value) if isinstance(value, int | float) else None


def is_available(data: Json) -> bool:
    """Return whether a variant can be had; without a word on it, it can."""
    return bool(data.get("available", True))


def parent_kinds(data: Json, kind: str) -> list[str]:
    """Return the kinds of the other records that one belongs to: ``product`` for an item's ``product_id``."""
    return [
        key.removesuffix("_id")
        for key, value in data.items()
        if key.endswith("_id") and key != f"{kind}_id" and isinstance(value, str)
    ]
