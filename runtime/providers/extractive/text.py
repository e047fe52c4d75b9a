"""Tokens and phrases: the little language processing that the extractive provider needs.

Pure functions over text; knows neither tools nor records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?%?")
_SENTENCE = re.compile(
    r"(?<=[.!?])\s+(?=[A-Z#\"'])|(?<=\?)\s+|\n+|(?<=;)\s+(?=(?:For|Return|Cancel|Please|Also|And|Then)\b)"
)
_SPELLINGS = {
    "feet": "ft", "foot": "ft", "inches": "inch", "litre": "liter", "litres": "liter", "liters": "liter",
    "gray": "grey", "colour": "color", "pounds": "lbs", "lb": "lbs", "canceled": "cancelled",
}  # fmt: skip
"""Spellings and units that mean the same."""
_CAMEL = re.compile(r"[_\-\s]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A word or number in lower case, and where it stands in its text."""

    text: str
    raw: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Return the words and numbers of ``text``; decimals stay whole, apostrophes and hyphens divide."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters of other scripts change their length
        lowered = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    return [
        Token(text=_canonical(m.group()), raw=text[m.start() : m.end()], start=m.start(), end=m.end())
        for m in _TOKEN.finditer(lowered)
    ]


def words(text: str) -> list[str]:
    """Return the tokens' texts."""
    return [_canonical(word) for word in _TOKEN.findall(text.lower())]


def _canonical(word: str) -> str:
    return _SPELLINGS.get(word, word)


@lru_cache(maxsize=4096)
def singular(word: str) -> str:
    """Return ``word`` without a plural ending; crude, but the same for both sides of a comparison."""
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def same_word(left: str, right: str) -> bool:
    """Return whether two words are the same, plural or not."""
    return left == right or singular(left) == singular(right)


def find_phrase(where: Sequence[str], phrase: Sequence[str], start: int = 0, end: int | None = None) -> int:
    """Return the index at which ``phrase`` stands in ``where[start:end]``, plural or not; -1 if nowhere."""
    end = len(where) if end is None else end
    size = len(phrase)
    if not size:
        return -1
    for index in range(start, end - size + 1):
        if all(same_word(where[index + k], phrase[k]) for k in range(size)):
            return index
    return -1


def find_all(where: Sequence[str], phrase: Sequence[str]) -> list[int]:
    """Return every index at which ``phrase`` stands, without overlaps."""
    found, at = [], find_phrase(where, phrase)
    while at >= 0:
        found.append(at)
        at = find_phrase(where, phrase, at + len(phrase))
    return found


def has_phrase(text: str, phrases: Iterable[str]) -> bool:
    """Return whether one of ``phrases`` occurs in ``text`` as whole words, plural or not."""
    where = _padded(text)
    return any(_padded(phrase) in where for phrase in phrases)


@lru_cache(maxsize=4096)
def _padded(text: str) -> str:
    return f" {' '.join(singular(word) for word in words(text))} "


def sentences(text: str) -> list[str]:
    """Split into sentences; a full stop counts only before a new beginning, so decimals survive."""
    return [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]


def humanize(name: str) -> str:
    """Return an identifier as words: ``cancel_pending_order`` -> ``cancel pending order``."""
    return _CAMEL.sub(" ", name).strip()


def listed(parts: Sequence[str], last: str = "and") -> str:
    """Join as in a sentence: ``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def money(amount: float) -> str:
    """Return dollars: ``$1,234.50``."""
    return f"${amount:,.2f}"


def clean(value: object, limit: int = 90) -> str:
    """Return a value from a tool's result as it may stand in an answer: one line, not long.

    Results are data: whatever they say, they are shown, never followed.
    """
    line = " ".join(str(value).split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"
