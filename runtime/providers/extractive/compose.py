"""Composes answers about requests: what is to be confirmed, what was done, what could not be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from admiralty.runtime.providers.extractive.facts import (
    Facts,
    Json,
    Record,
    children,
    find_value,
    price_of,
    walk,
)
from admiralty.runtime.providers.extractive.passages import rule_about
from admiralty.runtime.providers.extractive.phrases import about, acted_on, was_done
from admiralty.runtime.providers.extractive.render import (
    describe,
    describe_address,
    describe_short,
    find_part,
)
from admiralty.runtime.providers.extractive.schema import Param, ToolSpec
from admiralty.runtime.providers.extractive.text import clean, has_phrase, humanize, listed, money
from admiralty.runtime.providers.extractive.transcript import Call

CENT = 0.01


def policy_query(spec: ToolSpec) -> str:
    """Return what to look up before the user is asked to confirm ``spec``."""
    return humanize(spec.name)


def confirmation(spec: ToolSpec, call: Call, facts: Facts) -> tuple[str, tuple[str, ...]]:
    """Return the question that lists all details of ``call``, and the citations in it."""
    lines = _details(spec, call.arguments, facts)
    note, citation = rule_about(policy_query(spec), facts, spec)
    text = f"Please confirm: {about(spec, call, facts)}.\n" + "\n".join(f"- {line}" for line in lines)
    if note:
        text += f"\n{note} {citation}".rstrip()
    return f"{text}\nShall I go ahead? Please answer yes or no.", (citation,) if citation else ()


def _details(spec: ToolSpec, arguments: Mapping[str, Any], facts: Facts) -> list[str]:
    lines, amount = _items(spec, arguments, facts)
    for param in spec.params:
        value = arguments.get(param.name)
        if value in (None, "", []) or param in spec.address or param.array or param is spec.primary:
            continue
        lines.append(_detail(spec, param, arguments, amount, facts))
    if spec.address:
        given = {param.name: arguments.get(param.name, "") for param in spec.address}
        lines.append(f"new address: {describe_address(given)}")
    if not any(param.array for param in spec.params):
        lines += _contents(spec, arguments, facts)
    return lines


def _items(spec: ToolSpec, arguments: Mapping[str, Any], facts: Facts) -> tuple[list[str], float | None]:
    """Return a line for each item that a call is about, and what they come to, or differ by."""
    new = {param.kind: param for param in spec.params if param.is_new and param.array}
    lines: list[str] = []
    amount: float | None = None
    for param in spec.params:
        if not param.array or param.is_new:
            continue
        value = arguments.get(param.name) or []
        if param.kind in new:
            more, amount = _swaps(param, value, arguments.get(new[param.kind].name) or [], facts)
            lines += more
        else:
            parts = [_part(param.kind, str(key), facts) for key in value]
            lines += [describe(part) for part in parts]
            amount = round(sum(price_of(part) or 0.0 for part in parts), 2)
    return lines, amount


def _detail(
    spec: ToolSpec, param: Param, arguments: Mapping[str, Any], amount: float | None, facts: Facts
) -> str:
    """Return one argument in words; of what pays or is paid back to, with the amount."""
    value = str(arguments.get(param.name))
    said = _value(param, value, facts)
    role = param.description.lower()
    if amount is not None and "difference" in role:
        return f"{_difference(amount)}{_by(said, amount)}"
    if amount is not None and "refund" in role:
        return f"refund: {money(amount)} to {said}"
    text = f"{humanize(param.name.removesuffix('_id'))}: {said}"
    if param.is_entity and not any(other.array for other in spec.params):
        record = acted_on(spec, arguments, facts)
        before = find_value(record.data, f"{param.kind}_id") if record else None
        if before and before != value:
            text += f", instead of {_value(param, str(before), facts)}"
    return text


def _by(said: str, amount: float) -> str:
    return "" if abs(amount) < CENT / 2 else f", {'by' if amount > 0 else 'to'} {said}"


def _contents(spec: ToolSpec, arguments: Mapping[str, Any], facts: Facts) -> list[str]:
    """Return what is in the record acted on, where the call is about the whole of it."""
    if spec.primary is None or spec.address:
        return []
    record = facts.get(spec.primary.kind, str(arguments.get(spec.primary.name)))
    parts = [part for part in _named_parts(record.data) if price_of(part) is not None] if record else []
    lines = [describe(part) for part in parts]
    if parts:
        lines.append(f"total {money(sum(price_of(part) or 0.0 for part in parts))}")
    if record and has_phrase(spec.description, ("refund it",)):
        lines += [f"refund: {line}" for line in _payments(record.data, None, facts)]
    return lines


def _payments(data: Json, only: str | None, facts: Facts, *, since: int = 0) -> list[str]:
    """Return ``$5.00 to credit card, visa`` for each payment in a record, of one type or of all."""
    entries = [inner for inner in walk(data) if isinstance(inner.get("amount"), int | float)][since:]
    lines = []
    for entry in entries:
        if only in (None, entry.get("transaction_type")):
            key = next((k for k in entry if k.endswith("_id")), "")
            method = _method(key.removesuffix("_id"), str(entry.get(key, "")), facts)
            lines.append(f"{money(float(entry['amount']))} to {method}")
    return lines


def _method(kind: str, key: str, facts: Facts) -> str:
    identified = [facts.get(kind, key) for kind, key in facts.identified.items()]
    part = find_part([record for record in identified if record], kind, key)
    return describe_short(part, kind) if part else clean(humanize(key))


def _named_parts(data: Json) -> list[Json]:
    return [
        part
        for value in data.values()
        if isinstance(value, list)
        for part in value
        if isinstance(part, Mapping) and part.get("name")
    ]


def _swaps(param: Param, old: Sequence[str], new: Sequence[str], facts: Facts) -> tuple[list[str], float]:
    lines, amount = [], 0.0
    for before, after in zip(old, new, strict=False):
        left, right = _part(param.kind, str(before), facts), _part(param.kind, str(after), facts)
        lines.append(f"{describe(left)} → {describe(right)}")
        amount += (price_of(right) or 0.0) - (price_of(left) or 0.0)
    return lines, round(amount, 2)


def _difference(amount: float) -> str:
    if abs(amount) < CENT / 2:
        return "no price difference"
    return f"price difference: {money(abs(amount))} {'to pay' if amount > 0 else 'back to you'}"


def _part(kind: str, key: str, facts: Facts) -> Json:
    return find_part(list(facts.records.values()), kind, key) or {"name": f"{humanize(kind)} {key}"}


def _value(param: Param, value: str, facts: Facts) -> str:
    if not param.is_entity or facts.get(param.kind, value):
        return clean(humanize(value) if param.enum else value)
    identified = [facts.get(kind, key) for kind, key in facts.identified.items()]
    part = find_part([record for record in identified if record], param.kind, value)
    return describe_short(part, param.kind) if part else clean(value)


# -- what came of it ------------------------------------------------------------------------------------


def done(spec: ToolSpec, call: Call, facts: Facts) -> str:
    """Return what was done, the state that the tool reported, and where money goes."""
    record = acted_on(spec, call.arguments, facts)
    lines = [f"Done: {was_done(spec, call, facts)}"]
    items, amount = _items(spec, call.arguments, facts)
    moved = _moved(record, facts) if record and record.seq == call.seq else []
    if items:
        lines[0] += f" ({listed(items)})"
    if items and amount is not None:
        pays = next((p for p in spec.params if p.is_entity and not p.array and p is not spec.primary), None)
        lines += [_detail(spec, pays, call.arguments, amount, facts)] if pays else []
    elif spec.address:
        given = {param.name: call.arguments.get(param.name, "") for param in spec.address}
        lines.append(f"it is now {describe_address(given)}")
    else:
        lines += moved
    return f"{'; '.join(lines)}."


def _moved(record: Record, facts: Facts) -> list[str]:
    """Return the payments that a change made."""
    earlier = facts.replaced.get((record.kind, record.id))
    if earlier is None:
        return []
    since = len([inner for inner in walk(earlier.data) if isinstance(inner.get("amount"), int | float)])
    paid = [
        line.replace(" to ", " is paid by ", 1)
        for line in _payments(record.data, "payment", facts, since=since)
    ]
    back = [
        line.replace(" to ", " goes back to ", 1)
        for line in _payments(record.data, "refund", facts, since=since)
    ]
    return paid + back


def failed(spec: ToolSpec, call: Call, facts: Facts) -> str:
    """Return why it was not done, as the tool said it, and what else could be used."""
    text = f"I could not {about(spec, call, facts)}: {clean(call.error.rstrip('.'), 300)}."
    return f"{text} Nothing was changed by it.{_alternatives(spec, call, facts)}"


def _alternatives(spec: ToolSpec, call: Call, facts: Facts) -> str:
    """Name the other choices for the argument that an error speaks of, such as another payment method."""
    for param in spec.params:
        if not param.is_entity or param.array or param is spec.primary:
            continue
        for kind, key in facts.identified.items():
            record = facts.get(kind, key)
            choices = children(record.data, param.kind) if record else []
            used = call.arguments.get(param.name)
            now = next((part for part in choices if part.get(f"{param.kind}_id") == used), {})
            spoken = [humanize(param.kind), *(humanize(v) for v in now.values() if isinstance(v, str))]
            others = [part for part in choices if part.get(f"{param.kind}_id") != used]
            if others and any(said.lower() in call.error.lower() for said in spoken):
                return f" You also have: {'; '.join(describe_short(part, param.kind) for part in others)}."
    return ""


def plain_result(content: str | None) -> str:
    """Return a tool's short text result as it may be shown, or nothing."""
    try:
        value = json.loads(content or "")
    except ValueError:
        return clean(content or "", 200)
    return clean(value, 200) if isinstance(value, str | int | float) else ""
