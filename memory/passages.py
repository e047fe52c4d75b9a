"""Splits documents into passages to be found and cited, each with its headings and its place.

Works on Markdown and on plain text, which is Markdown without headings. Pure functions: nothing
here knows embeddings or indexes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from admiralty.core.values import Passage

LONGEST = 800
"""Characters of a passage at most: about what MiniLM reads (256 word pieces) at once."""
SHORTEST = 200
"""A piece shorter than this joins its neighbour of the same section, which may then be a little longer."""

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NOT_A_TITLE = re.compile(r" {0,3}(?:[-*+>|#]|\d+[.)]|={2,}|`{3}|~{3})| {4}|\t")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    start: int
    end: int
    """After the line's text, before its line break."""
    text: str
    fenced: bool
    """Inside a code block, its fences included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    path: tuple[str, ...]
    """Headings above and this section's own, outermost first; empty before the first heading."""
    heading_span: tuple[int, int]
    """Where its own heading stands; empty where it has none."""
    lines: tuple[_Line, ...]
    is_leaf: bool


def split_passages(source: str, text: str) -> list[Passage]:
    """Return the passages of document ``text`` in order, with score 0.

    A passage lies within one section, without its heading line; ``text[start:end]`` is its text.
    Long sections are split between paragraphs, long paragraphs between lines, sentences or words.
    Short sections stay whole and apart, since a merged one could not be cited by its heading. A
    heading with nothing below it is a passage by itself.
    """
    passages: list[Passage] = []
    for section in _sections(_lines(text)):
        pieces = [piece for start, end in _blocks(section.lines) for piece in _shorten(text, start, end)]
        spans = _join_rests(_pack(pieces))
        if not spans and section.is_leaf and section.path:
            spans = [section.heading_span]
        passages += [
            Passage(
                source=source,
                heading=" > ".join(section.path),
                text=text[start:end],
                start=start,
                end=end,
                score=0.0,
            )
            for start, end in spans
        ]
    return passages


def _lines(text: str) -> list[_Line]:
    lines: list[_Line] = []
    start, fence = 0, ""
    for raw in text.splitlines(keepends=True):
        content = raw.rstrip("\r\n")
        mark = _FENCE.match(content)
        fenced = bool(fence or mark)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        lines.append(_Line(start=start, end=start + len(content), text=content, fenced=fenced))
        start += len(raw)
    return lines


def _sections(lines: Sequence[_Line]) -> list[_Section]:
    headings = list(_headings(lines))
    sections: list[_Section] = []
    first = headings[0][0] if headings else len(lines)
    if first:
        sections.append(_Section(path=(), heading_span=(0, 0), lines=tuple(lines[:first]), is_leaf=True))
    above: list[tuple[int, str]] = []
    for number, (at, height, level, title) in enumerate(headings):
        following = headings[number + 1] if number + 1 < len(headings) else None
        above = [entry for entry in above if entry[0] < level] + [(level, title)]
        sections.append(
            _Section(
                path=tuple(name for _, name in above if name),
                heading_span=_trim_span(lines[at]),
                lines=tuple(lines[at + height : following[0] if following else None]),
                is_leaf=following is None or following[2] <= level,
            )
        )
    return sections


def _headings(lines: Sequence[_Line]) -> Iterator[tuple[int, int, int, str]]:
    """Yield (line number, lines it takes, level, title) of each heading."""
    for number, line in enumerate(lines):
        if line.fenced:
            continue
        if found := _ATX.match(line.text):
            yield number, 1, len(found[1]), (found[2] or "").strip()
        elif number + 1 < len(lines) and _is_underlined(lines, number):
            level = 1 if "=" in lines[number + 1].text else 2
            yield number, 2, level, line.text.strip()


def _is_underlined(lines: Sequence[_Line], number: int) -> bool:
    """Tell whether the line is a heading by the line of = or - below it.

    Only a line that stands alone counts, which keeps YAML front matter out.
    """
    line, below = lines[number], lines[number + 1]
    alone = number == 0 or not lines[number - 1].text.strip() or bool(_ATX.match(lines[number - 1].text))
    return (
        alone
        and bool(line.text.strip())
        and not _NOT_A_TITLE.match(line.text)
        and not below.fenced
        and bool(_UNDERLINE.match(below.text))
    )


def _trim_span(line: _Line) -> tuple[int, int]:
    content = line.text.strip()
    start = line.start + line.text.index(content)
    return start, start + len(content)


def _blocks(lines: Sequence[_Line]) -> list[tuple[int, int]]:
    """Return the spans of paragraphs: lines between blank lines; a code block stays whole."""
    spans: list[tuple[int, int]] = []
    inside = False
    for line in lines:
        if not line.fenced and not line.text.strip():
            inside = False
        elif inside:
            spans[-1] = (spans[-1][0], line.end)
        else:
            spans.append((line.start, line.end))
            inside = True
    return spans


def _shorten(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a paragraph that is too long, at the coarsest seams that it has."""
    start, end = _trim(text, start, end)
    if end - start <= LONGEST:
        return [(start, end)] if start < end else []
    for seam in (re.compile(r"\n"), _SENTENCE_END, re.compile(r"\s+")):
        ends = [found.start() for found in seam.finditer(text, start, end)]
        if ends:
            bounds = [start, *ends, end]
            parts = [part for left, right in pairwise(bounds) for part in _shorten(text, left, right)]
            return _pack(parts)
    return [(at, min(at + LONGEST, end)) for at in range(start, end, LONGEST)]


def _pack(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join neighbours as long as they fit into the longest length together."""
    packed: list[tuple[int, int]] = []
    for start, end in pieces:
        if packed and end - packed[-1][0] <= LONGEST:
            packed[-1] = (packed[-1][0], end)
        else:
            packed.append((start, end))
    return packed


def _join_rests(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join a short piece with the one before it, or after it at the beginning, if that stays in bounds."""
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        shorter = min(end - start, joined[-1][1] - joined[-1][0]) if joined else SHORTEST
        if shorter < SHORTEST and end - joined[-1][0] <= LONGEST + SHORTEST:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())
