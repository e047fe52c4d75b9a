"""Composes answers about requests: what is to be confirmed, what was done, what could not be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from admiralty.runtime.providers.extractive.facts import Facts, Json, children, price_of
from admiralty.runtime.providers.extractive.render import (
    describe,
    describe_address,
    describe_short,
    find_part,
)
from admiralty.runtime.providers.extractive.schema import Param, ToolSpec
from admiralty.runtime.providers.extractive.text import (
    clean,
    humanize,
    listed,
    money,
    sentences,
    singular,
    words,
)
from admiralty.runtime.providers.extractive.transcript import Call

_COMMON = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "and",
        "or",
        "is",
        "in",
        "on",
        "for",
        "be",
        "will",
        "it",
        "this",
        "that",
        "your",
        "you",
        "i",
        "my",
        "with",
        "by",
        "at",
        "as",
        "not",
        "can",
        "do",
        "does",
        "are",
        "if",
        "how",
        "what",
        "when",
        "which",
        "any",
        "there",
        "their",
        "they",
        "user",
        "users",
    ]
)


def policy_query(spec: ToolSpec) -> str:
    """Return what to look up before the user is asked to confirm ``spec``."""
    return humanize(spec.name)


def confirmation(spec: ToolSpec, call: Call, facts: Facts) -> tuple[str, tuple[str, ...]]:
    """Return the question that lists all details of ``call``, and the citations in it."""
    lines = _details(spec, call.arguments, facts)
    note, citation = rule_about(policy_query(spec), facts, spec)
    text = f"Please confirm: {humanize(spec.name)}.\n" + "\n".join(f"- {line}" for line in lines)
    if note:
        text += f"\n{note} {citation}".rstrip()
    return f"{text}\nShall I go ahead? Please answer yes or no.", (citation,) if citation else ()


def _details(spec: ToolSpec, arguments: Mapping[str, Any], facts: Facts) -> list[str]:
    lines: list[str] = []
    new = {param.kind: param for param in spec.params if param.is_new and param.array}
    amount: float | None = None
    for param in spec.params:
        value = arguments.get(param.name)
        if value in (None, "", []) or param in spec.address or param.is_new:
            continue
        if param.array and param.kind in new:
            more, amount = _swaps(param, value, arguments.get(new[param.kind].name, []), facts)
            lines += more
        elif param.array:
            parts = [_part(param.kind, str(key), facts) for key in value]
            lines += [f"{humanize(param.kind)}: {describe(part)}" for part in parts]
            amount = sum(price_of(part) or 0.0 for part in parts)
            lines.append(f"together {money(amount)}")
            amount = None
        else:
            lines.append(f"{humanize(param.name.removesuffix('_id'))}: {_value(param, str(value), facts)}")
    if amount is not None:
        lines.append(_difference(amount))
    if spec.address:
        lines.append(
            f"new address: {describe_address({p.name: arguments.get(p.name, '') for p in spec.address})}"
        )
    if not any(param.array for param in spec.params):
        lines += _contents(spec, arguments, facts)
    return lines


def _contents(spec: ToolSpec, arguments: Mapping[str, Any], facts: Facts) -> list[str]:
    """Return what is in the record acted on, where the call is about the whole of it."""
    if spec.primary is None or spec.address:
        return []
    record = facts.get(spec.primary.kind, str(arguments.get(spec.primary.name)))
    parts = [part for part in _named_parts(record.data) if price_of(part) is not None] if record else []
    lines = [f"contains {describe(part)}" for part in parts]
    if parts:
        lines.append(f"total {money(sum(price_of(part) or 0.0 for part in parts))}")
    return lines


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
    if abs(amount) < 0.005:
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
    """Return what was done, with the state that the tool reported."""
    target = spec.primary and call.arguments.get(spec.primary.name)
    record = facts.get(spec.primary.kind, str(target)) if spec.primary else None
    what = f"Done: {humanize(spec.name)}" + (f" ({clean(target)})" if target else "")
    if record and record.status and record.seq == call.seq:
        what += f"; its status is now “{clean(record.status)}”"
    return f"{what}."


def failed(spec: ToolSpec, call: Call, facts: Facts) -> str:
    """Return why it was not done, as the tool said it, and what else could be used."""
    target = spec.primary and call.arguments.get(spec.primary.name)
    of = f" ({clean(target)})" if target else ""
    text = f"I could not {humanize(spec.name)}{of}: {clean(call.error.rstrip('.'), 300)}."
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


# -- passages --------------------------------------------------------------------------------------------


def rule_about(query: str, facts: Facts, spec: ToolSpec | None = None) -> tuple[str, str]:
    """Return the sentences of the found passages that say most on ``query``, and their citation."""
    passages = facts.passages.get(query, ())
    state = spec.words if spec else ()
    best: tuple[float, str, str] = (0.0, "", "")
    for rank, passage in enumerate(passages):
        heading = words(str(passage.get("heading", "")))
        for sentence in passage_sentences(str(passage.get("text", ""))):
            found = set(_stems(sentence))
            score = len(found & set(_stems(query))) + 0.5 * len(
                set(_stems(" ".join(heading))) & set(_stems(query))
            )
            score += 1.5 * ("confirmation" in words(sentence) or "refund" in words(sentence)) if spec else 0
            score += 0.1 * len(found & set(state)) - 0.3 * rank
            if score > best[0]:
                best = (score, sentence, citation_of(passage))
    return clean(best[1], 400), best[2]


def passage_sentences(text: str) -> list[str]:
    """Return a passage's sentences without list marks and headings."""
    lines = [re.sub(r"^\s*(?:[-*+]|\d+[.)])\s+", "", line) for line in text.splitlines()]
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [sentence for sentence in sentences("\n".join(kept)) if len(words(sentence)) > 3]


def citation_of(passage: Json) -> str:
    """Return how to cite a passage; may be empty."""
    if passage.get("citation"):
        return clean(passage["citation"])
    source = passage.get("source")
    return f"[{clean(source)}]" if source else ""


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in words(text) if word not in _COMMON]


def _stem(word: str) -> str:
    word = singular(word)
    for ending in ("ation", "ing", "led", "ed", "ment", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def overlap(question: str, text: str) -> float:
    """Return the share of the question's telling words that ``text`` has too, 0 to 1."""
    asked = set(_stems(question))
    return len(asked & set(_stems(text))) / len(asked) if asked else 0.0


def possible(specs: Sequence[ToolSpec]) -> str:
    """Return in words what the given tools can do."""
    return listed([humanize(spec.name) for spec in specs], "or")
