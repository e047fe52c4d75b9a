"""Finds what users name in free text: ids, people, contact data, postal addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from admiralty.runtime.providers.extractive.lexicon import STATES
from admiralty.runtime.providers.extractive.schema import Param
from admiralty.runtime.providers.extractive.text import words

_NAME = r"([A-Za-z][\w'’-]*)\s+(?:[A-Z]\.\s+)?([A-Za-z][\w'’-]+)"
_CAPITAL_NAME = r"([A-Z][\w'’-]*)\s+(?:[A-Z]\.\s+)?([A-Z][\w'’-]+)"
_PEOPLE = (
    re.compile(r"(?:my (?:full )?name is|my name's|\bname is|\bname:)\s+" + _NAME, re.IGNORECASE),
    re.compile(
        r"\b(?:[Ii] am|[Ii]'m|[Ii]’m|[Tt]his is|[Ii]t is|[Ii]t's|[Uu]nder the name(?: of)?|[Nn]ame)\s+"
        + _CAPITAL_NAME
    ),
    re.compile(
        r"^\s*(?:(?:[Ss]ure|[Yy]es|[Hh]i|[Hh]ello|[Oo]k(?:ay)?)[,.!:]?\s+)*"
        + _CAPITAL_NAME
        + r"(?=\s*(?:[,;.]|and|zip|my|from|\d|$))"
    ),
)
_NOT_NAMES = frozenset(
    [
        "looking",
        "calling",
        "writing",
        "interested",
        "happy",
        "sorry",
        "trying",
        "not",
        "just",
        "going",
        "hoping",
        "wondering",
        "here",
        "and",
        "my",
        "the",
        "order",
        "return",
        "cancel",
        "want",
        "please",
        "where",
        "what",
        "how",
        "hello",
        "hi",
        "thanks",
        "change",
        "exchange",
        "zip",
        "yes",
        "no",
        "i",
    ]
)
_ZIP = re.compile(r"\bzip(?:\s*code)?\s*(?:is|:|of|-)?\s*(\d{5})\b", re.IGNORECASE)
_SAME_AS = re.compile(
    r"(?:\b(?:same|like|one|address)\s+(?:address\s+)?(?:as|in|on|from|of|used\s+(?:for|in|on)|for)|\blike)\s+"
    r"(?:in\s+|for\s+|on\s+|my\s+|the\s+|other\s+|order\s+)*\(?$",
    re.IGNORECASE,
)
_UNIT = r"(?:apt|apartment|suite|ste|unit|floor|room|#)\.?\s*#?\s*[\w-]+"
_TRAILING_UNIT = re.compile(rf"[\s,]+({_UNIT})$", re.IGNORECASE)
_ONLY_UNIT = re.compile(rf"^{_UNIT}$", re.IGNORECASE)
_ADDRESS_END = re.compile(
    rf"(?:\b(?P<code>{'|'.join(STATES.values())})|\b(?P<state>(?i:{'|'.join(STATES)})))\b,?\s+(?P<zip>\d{{5}})\b"
    r"(?:\s*,?\s*(?P<country>USA|US|United States)\b)?"
)
_STREET = re.compile(r"\b\d{1,6}[A-Za-z]?\s+[A-Za-z]")


_ENTITY = re.compile(r"\S*@\S+|#?\b\w*\d\w*\b|\b\w+_\w+\b")
_WHO = re.compile(
    r"\b(?:my (?:full )?name is|i am|i'm|this is|my e-?mail(?: address)? is|my zip(?: code)? is|e-?mail|"
    r"zip(?: code)?|name|you|are|and|is|it|it's|the|my|order|id|number|sure|here)\b",
    re.IGNORECASE,
)
_MOST_LEFT = 4


def says_only_who(text: str) -> bool:
    """Return whether a text only names: a person, contact data, an id; nothing is asked or told by it."""
    rest = _ENTITY.sub(" ", text)
    if person := find_person([text]):
        for part in person:
            rest = re.sub(re.escape(part), " ", rest, flags=re.IGNORECASE)
    named = rest != text
    left = words(_WHO.sub(" ", rest))
    return len(left) <= (_MOST_LEFT if named else 1)


def find_ids(text: str, pattern: re.Pattern[str] | None) -> list[tuple[str, int]]:
    """Return the ids in ``text`` with their places, each once, in order.

    An id that begins with ``#`` is also found without it.
    """
    if pattern is None:
        return []
    found = {match.group(): match.start() for match in reversed(list(pattern.finditer(text)))}
    if "(?:#" in pattern.pattern:
        bare = re.compile(pattern.pattern.replace("(?:#", "(?:", 1), re.IGNORECASE)
        for match in bare.finditer(text):
            found.setdefault(f"#{match.group().upper()}", match.start())
    return sorted(found.items(), key=lambda item: item[1])


def target_ids(text: str, pattern: re.Pattern[str] | None) -> list[str]:
    """Return the ids that a request is about, without those that it only compares with."""
    return [key for key, at in find_ids(text, pattern) if not _SAME_AS.search(text[:at])]


def compared_ids(text: str, pattern: re.Pattern[str] | None) -> list[str]:
    """Return the ids after ``same as``: where something is to be copied from."""
    return [key for key, at in find_ids(text, pattern) if _SAME_AS.search(text[:at])]


def find_person(texts: Sequence[str]) -> tuple[str, str] | None:
    """Return first and last name of the speaker, from the latest text that tells them."""
    for text in reversed(texts):
        for pattern in _PEOPLE:
            for match in pattern.finditer(text):
                first, last = match.group(1), match.group(2)
                if first.lower() not in _NOT_NAMES and last.lower() not in _NOT_NAMES:
                    return _name_case(first), _name_case(last)
    return None


def _name_case(name: str) -> str:
    return name if name != name.lower() else name.capitalize()


def find_argument(param: Param, texts: Sequence[str]) -> str | None:
    """Return what users said for a finder's parameter, the latest first; ``None`` if nothing."""
    if param.name in ("first_name", "last_name"):
        person = find_person(texts)
        return person[param.name == "last_name"] if person else None
    for text in reversed(texts):
        if param.name in ("zip", "postal_code") and (match := _ZIP.search(text)):
            return match.group(1)
        if param.pattern and (found := param.pattern.search(text)):
            return found.group()
    return None


def find_address(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the parts of a postal address in ``text``, by the given parameter names.

    Understands ``key: value`` lists and the usual American line ``12 Main St, Apt 4, Town, ST 12345``.
    """
    pairs = {
        name: match.group(1).strip()
        for name in names
        if (match := re.search(rf"['\"]?\b{name}['\"]?\s*[:=]\s*['\"]?([^'\",}}\n]+)", text))
    }
    if len(pairs) >= 3:
        return pairs
    return {name: part for name, part in _line(text).items() if name in names}


def _line(text: str) -> dict[str, str]:
    end = _ADDRESS_END.search(text)
    if not end:
        unit = re.search(rf"\b({_UNIT})", text, re.IGNORECASE)
        return {"address2": unit.group(1)} if unit and not unit.group(1).startswith("#") else {}
    code = (end.group("code") or STATES[(end.group("state") or "").lower()]).upper()
    result = {"state": code, "zip": end.group("zip")}
    if end.group("country"):
        result["country"] = "USA"
    starts = [m.start() for m in _STREET.finditer(text[: end.start()])]
    if not starts:
        return result
    lines = [part.strip() for part in text[starts[0] : end.start()].split(",") if part.strip()]
    return result | _street_lines(lines)


def _street_lines(lines: list[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    if len(lines) >= 2:
        result["city"] = re.sub(r"^(?:in|at)\s+", "", lines.pop())
    first = lines.pop(0)
    if match := _TRAILING_UNIT.search(first):
        first, unit = first[: match.start()], match.group(1)
        lines.insert(0, unit)
    result["address1"] = first.strip()
    result["address2"] = ", ".join(lines)
    return result


def is_unit(text: str) -> bool:
    """Return whether ``text`` is only the second line of an address."""
    return bool(_ONLY_UNIT.match(text.strip()))
