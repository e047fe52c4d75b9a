"""Cedar text, as far as we must read it ourselves: where each policy begins, so that errors can say so.

Cedar's parser tells neither file nor line. It decides what is right; here text is only cut at the
semicolons that end policies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;', re.DOTALL)
_QUOTED = re.compile(r"`([^`]+)`")
_FIELD = re.compile(
    r'\s*(?:"(?P<quoted>[^"\\]*)"|(?P<plain>[A-Za-z_]\w*))\s*\??\s*:\s*(?P<type>[^,]+?)\s*(?:,|$)'
)
_SESSION = re.compile(r"\btype\s+Session\s*=\s*\{")

FACT_TYPES: Mapping[str, str] = {
    "Bool": "Bool",
    "Long": "Long",
    "String": "String",
    "Set<String>": "Set<String>",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A policy as it is written, with where that is."""

    file: str
    line: int
    text: str
    ended: bool = True
    """Whether its semicolon is there."""


def split(file: str, text: str) -> Sequence[Statement]:
    """Return the statements of a file, in order."""
    found, begin, position = [], 0, 0
    while match := _TOKEN.search(text, position):
        position = match.end()
        if match.group() == ";":
            found.append(_statement(file, text, begin, position, ended=True))
            begin = position
    if plain(text[begin:]).strip():
        found.append(_statement(file, text, begin, len(text), ended=False))
    return found


def _statement(file: str, text: str, begin: int, end: int, *, ended: bool) -> Statement:
    blank = plain(text[begin:end])
    begin += len(blank) - len(blank.lstrip())
    return Statement(file=file, line=_line(text, begin), text=text[begin:end], ended=ended)


def plain(text: str) -> str:
    """Return ``text`` with blanks for its comments: every character stays where it is."""

    def blank(match: re.Match[str]) -> str:
        return " " * len(match.group()) if match.group().startswith("//") else match.group()

    return _TOKEN.sub(blank, text)


def line_of(message: str, text: str, first: int = 1) -> int | None:
    """Return the line of what a parser's message quotes, where ``text`` has it in one line only."""
    for quoted in _QUOTED.findall(message):
        lines = plain(text).split("\n")
        name = str(quoted).rsplit(".", 1)[-1]
        for wanted in (str(quoted), name):
            if len(hits := [number for number, line in enumerate(lines) if wanted in line]) == 1:
                return first + hits[0]
    return None


def session_facts(schema: str) -> Mapping[str, str] | str:
    """Return the facts that a schema's type ``Session`` declares, with their types.

    A text instead names the declaration that cannot be checked.
    """
    text = plain(schema)
    if (start := _SESSION.search(text)) is None:
        return {}
    body = text[start.end() :].partition("}")[0]
    facts: dict[str, str] = {}
    position = 0
    while body[position:].strip():
        match = _FIELD.match(body, position)
        kind = "".join(match["type"].split()) if match else ""
        if match is None or kind not in FACT_TYPES:
            return body[position:].strip().partition("\n")[0]
        facts[match["quoted"] if match["quoted"] is not None else match["plain"]] = kind
        position = match.end()
    return facts


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
