"""Says in plain words what a record is. Never JSON, never more than was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from admiralty.runtime.providers.extractive.facts import (
    Json,
    Record,
    children,
    name_of,
    options_of,
    price_of,
    walk,
)
from admiralty.runtime.providers.extractive.text import clean, humanize, listed, money

_ADDRESS_LINES = ("address1", "street", "address2", "city")
_MONEY_KEYS = frozenset({"price", "amount", "total", "balance", "cost", "fee"})


def describe_options(data: Json) -> str:
    """``color black, size M, $10.00``."""
    parts = [f"{clean(key)} {clean(value)}" for key, value in options_of(data).items()]
    price = price_of(data)
    return ", ".join(parts + ([money(price)] if price is not None else []))


def describe(data: Json) -> str:
    """``Water Bottle (1000ml, glass, blue), $47.84``."""
    name = clean(name_of(data) or "item")
    values = [clean(value, 40) for value in options_of(data).values()]
    price = price_of(data)
    text = f"{name} ({', '.join(values)})" if values else name
    return f"{text}, {money(price)}" if price is not None else text


def describe_short(data: Json, kind: str) -> str:
    """One line on a record without a name, such as a payment method: ``credit card, visa … 1234``."""
    parts = []
    for key, value in data.items():
        if key in ("id", f"{kind}_id") or isinstance(value, Mapping | list):
            continue
        if isinstance(value, int | float) and key in _MONEY_KEYS:
            parts.append(f"{humanize(key)} {money(float(value))}")
        elif key == "last_four":
            parts.append(f"ending in {clean(value)}")
        else:
            parts.append(humanize(clean(value)))
    own = data.get(f"{kind}_id", data.get("id", ""))
    return f"{', '.join(parts)} ({clean(own)})" if own else ", ".join(parts)


def summary(record: Record) -> str:
    """One line on a record: id, status, names of what is in it."""
    names = part_names(record.data)
    parts = [clean(record.id)]
    if record.status:
        parts.append(clean(record.status))
    return f"{', '.join(parts)}: {listed(names)}" if names else ", ".join(parts)


def part_names(data: Json) -> list[str]:
    """Return the names of what is in a record."""
    return [
        clean(part["name"], 60)
        for part in walk(data)
        if part is not data and isinstance(part.get("name"), str)
    ]


def parts_of(data: Json) -> list[Json]:
    """Return the named, priced parts of a record, such as an order's items."""
    return [
        part
        for part in walk(data)
        if part is not data and isinstance(part.get("name"), str) and price_of(part) is not None
    ]


def describe_address(address: Mapping[str, Any]) -> str:
    """``12 Main St, Apt 4, Springfield, IL 62701, USA``."""
    lines = [clean(address[key]) for key in _ADDRESS_LINES if address.get(key)]
    state = " ".join(clean(address[key]) for key in ("state", "zip", "postal_code") if address.get(key))
    return ", ".join([*lines, state, *([clean(address["country"])] if address.get("country") else [])])


def find_part(records: Sequence[Record], kind: str, key: str) -> Json | None:
    """Return what is known of an id in ``records``: the named part, or one named by its family."""
    unnamed: Json | None = None
    for record in records:
        for part in children(record.data, kind):
            if str(part.get(f"{kind}_id")) != key:
                continue
            if name_of(part):
                return part
            named = (
                {"name": name_of(record.data), **part} if name_of(record.data) and options_of(part) else part
            )
            unnamed = unnamed or named
    return unnamed
