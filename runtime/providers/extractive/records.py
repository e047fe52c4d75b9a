"""Tells about the user's own records what was asked: status, parcels, items, prices, addresses, payments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.arguments import address_in
from admiralty.runtime.providers.extractive.facts import Json, Record, children, name_of, price_of, walk
from admiralty.runtime.providers.extractive.matching import mentions
from admiralty.runtime.providers.extractive.render import (
    describe,
    describe_address,
    describe_short,
    find_part,
    parts_of,
    summary,
)
from admiralty.runtime.providers.extractive.schema import ADDRESS_PARTS
from admiralty.runtime.providers.extractive.text import (
    clean,
    has_phrase,
    humanize,
    listed,
    money,
    singular,
    tokens,
)


def describe_records(
    question: str, me: Record, records: Sequence[Record], named: Sequence[tuple[str, str]]
) -> str:
    """Return the answer to ``question`` from ``records``, or from the profile where none are needed."""
    topics = [topic for topic, said in lexicon.TOPICS.items() if has_phrase(question, said)]
    if not records:
        return "" if named else _profile(topics, me)
    chosen = records if named else _narrow(question, records)
    if has_phrase(question, ("how many orders", "how many purchases")):
        ids = listed([clean(record.id) for record in chosen])
        return f"You have {len(chosen)} order{'s' if len(chosen) != 1 else ''}: {ids}."
    if len(chosen) > 3 and not set(topics) - {"status", "items", "orders"}:
        return "\n".join(f"- {summary(record)}" for record in chosen)
    return "\n".join(_record(question, topics, record, me) for record in chosen)


def _narrow(question: str, records: Sequence[Record]) -> list[Record]:
    """Return the records that the question means: by state, by what is in them, else all."""
    chosen = list(records)
    states = {record.status for record in records if record.status}
    wanted = [
        state
        for state in states
        if has_phrase(question, [f"{state} order", f"{state} orders", f"{state} ones"])
    ]
    if wanted:
        chosen = [record for record in chosen if record.status in wanted]
    toks = tokens(question)
    holding = [r for r in chosen if mentions(toks, [name_of(part) for part in parts_of(r.data)])]
    return holding or chosen


def _record(question: str, topics: Sequence[str], record: Record, me: Record) -> str:
    label = f"{humanize(record.kind).capitalize()} {clean(record.id)}"
    lines: list[str] = []
    parts = parts_of(record.data)
    toks = tokens(question)
    asked = {name for _, _, name in mentions(toks, [name_of(part) for part in parts])}
    if "tracking" in topics or ("status" in topics and _tracking(record.data)):
        lines.append(_tracking_line(record.data))
    if "items" in topics or asked:
        shown = [part for part in parts if not asked or name_of(part) in asked]
        lines.append(f"It contains {listed([describe(part) for part in shown])}." if shown else "")
    if "price" in topics and not asked:
        lines.append(_total(parts))
    if "address" in topics and (address := address_in(record.data, ADDRESS_PARTS)):
        lines.append(f"It goes to {describe_address(address)}.")
    if {"payment", "balance"} & set(topics) or has_phrase(question, ("refund",)):
        lines += _payments(record, me)
    lines = [line for line in lines if line]
    if not lines:
        lines = (
            [f"It contains {listed([describe(part) for part in parts])}. {_total(parts)}"] if parts else []
        )
        if tracking := _tracking(record.data):
            lines.append(f"Tracking: {listed(tracking)}.")
    status = f"{label} is {clean(record.status)}." if record.status else f"{label}:"
    return " ".join([status, *lines])


def _tracking(data: Json) -> list[str]:
    found: list[str] = []
    for inner in walk(data):
        for key, value in inner.items():
            if "tracking" in key:
                found += [clean(item) for item in value] if isinstance(value, list) else [clean(value)]
    return found


def _tracking_line(data: Json) -> str:
    found = _tracking(data)
    return f"Its tracking number is {listed(found)}." if found else "It has no tracking number yet."


def _total(parts: Sequence[Json]) -> str:
    if not parts:
        return ""
    return f"The items come to {money(sum(price_of(part) or 0.0 for part in parts))} together."


def _payments(record: Record, me: Record) -> list[str]:
    lines = []
    for entry in _entries(record.data):
        by = ""
        for kind in _child_kinds(me.data):
            if key := str(entry.get(f"{kind}_id") or ""):
                method = find_part([me], kind, key)
                by = describe_short(method, kind) if method else clean(key)
        what = humanize(str(entry.get("transaction_type", "payment"))).capitalize()
        lines.append(f"{what} of {money(float(entry['amount']))}" + (f": {by}." if by else "."))
    return lines


def _entries(data: Json) -> list[Json]:
    """Return the payments in a record: objects with an amount."""
    return [inner for inner in walk(data) if isinstance(inner.get("amount"), int | float)]


def _profile(topics: Sequence[str], me: Record) -> str:
    data = me.data
    lines: list[str] = []
    lists = _lists(data)
    if "balance" in topics or "payment" in topics:
        methods = [(part, kind) for kind in _child_kinds(data) for part in children(data, kind)]
        if "balance" in topics:
            methods = [item for item in methods if "balance" in item[0]] or methods
        shown = [describe_short(part, kind) for part, kind in methods]
        lines.append(
            "On your profile: " + "; ".join(shown) + "."
            if shown
            else "There is nothing of the kind on your profile."
        )
    if "address" in topics and (address := address_in(data, ADDRESS_PARTS)):
        lines.append(f"Your address is {describe_address(address)}.")
    if "email" in topics and data.get("email"):
        lines.append(f"Your email is {clean(data['email'])}.")
    if "orders" in topics:
        lines += [f"Your {humanize(key)}: {listed(values)}." for key, values in lists.items()]
    if "name" in topics:
        lines.append(f"Your name is {clean(name_of(data))}.")
    if lines:
        return " ".join(lines)
    address = address_in(data, ADDRESS_PARTS)
    facts = [clean(name_of(data)), clean(data.get("email", "")), describe_address(address) if address else ""]
    about = ", ".join(fact for fact in facts if fact)
    more = " ".join(f"Your {humanize(key)}: {listed(values)}." for key, values in lists.items())
    return f"Your profile: {about}. {more}".strip()


def _lists(data: Json) -> dict[str, list[str]]:
    return {
        key: [clean(item) for item in value]
        for key, value in data.items()
        if isinstance(value, list) and all(isinstance(item, str) for item in value)
    }


def _child_kinds(data: Json) -> list[str]:
    """Return the kinds of what is kept under its ids: ``payment_method`` for ``payment_methods``."""
    found: list[Any] = []
    for key, value in data.items():
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            found.append(singular(key))
    return [str(kind) for kind in found]
