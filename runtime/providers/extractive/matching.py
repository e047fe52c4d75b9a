"""Finds in a request which records it names, and which options it wishes for.

``exchange the black kettle for a white one``: the record is the kettle whose color is black, the
wish is color white. Pure functions over tokens and records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from admiralty.runtime.providers.extractive.facts import Json, name_of, options_of
from admiralty.runtime.providers.extractive.options import Domain, domain_of, parse_options
from admiralty.runtime.providers.extractive.text import (
    Token,
    find_all,
    has_phrase,
    singular,
    tokens,
    words,
)

_STOP = frozenset({"via", "because", "since", "paid", "paying", "refund", "refunded", "using", "please"})
_ALL = (
    "everything", "all items", "all the items", "all of it", "all of them", "whole order", "entire order",
    "all of the items",
    "every item", "full order", "both items", "all products", "the complete order",
)  # fmt: skip
_EXCEPT = (
    "except",
    "except for",
    "but not",
    "apart from",
    "everything but",
    "besides",
    "other than",
    "but keep",
)
_SAME = (
    "same item",
    "same one",
    "same product",
    "same model",
    "same thing",
    "same variant",
    "identical",
    "new one of the same",
)
_BOTH = frozenset({"both", "all", "two", "each", "three", "four"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The part of a request that is about one named thing."""

    name: str
    source: tuple[Token, ...]
    """Words around the name, that tell which one is meant."""
    target: tuple[Token, ...] | None
    """Words after ``to`` or ``for``: what it should become; ``None`` where nothing of the kind stands."""
    several: bool = False
    """Whether more than one thing of the name is meant: ``both lamps``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """A record that the request means, and the words about it."""

    record: Json
    segment: Segment | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unclear:
    """What cannot be told apart: the name, and the records that it may mean."""

    name: str
    choices: tuple[Json, ...]


def mentions(
    toks: Sequence[Token], names: Sequence[str], options: Domain | None = None
) -> list[tuple[int, int, str]]:
    """Return (start, end, name) where one of ``names`` stands: whole, or by a word that only it has.

    A word beside the key of one of ``options`` is that option's value, and no mention.
    """
    texts = [token.text for token in toks]
    found: list[tuple[int, int, str]] = []
    for name in sorted(set(names), key=lambda value: (-len(words(value)), value)):
        parts = words(name)
        places = [(at, at + len(parts)) for at in find_all(texts, parts)]
        partial = not places
        if partial:
            inside = _inside_options(texts, options or {})
            places = [
                (at, at + 1)
                for word in _own_words(name, names)
                for at in find_all(texts, [word])
                if at not in inside
            ]
        for start, end in places:
            free = all(end <= other[0] or start >= other[1] for other in found)
            if free and not _is_value(texts, start, end, options or {}, partial=partial):
                found.append((start, end, name))
    return sorted(found)


def _own_words(name: str, names: Sequence[str]) -> list[str]:
    others = {singular(word) for other in set(names) if other != name for word in words(other)}
    return [word for word in words(name) if len(word) > 3 and singular(word) not in others]


def _inside_options(texts: Sequence[str], options: Domain) -> set[int]:
    """Return the places of words inside an option's key or value: ``water`` in ``water resistance``."""
    spelled = [words(text) for key, values in options.items() for text in (key, *values)]
    return {
        at + step
        for parts in spelled
        if len(parts) > 1
        for at in find_all(texts, parts)
        for step in range(len(parts))
    }


def _is_value(texts: Sequence[str], start: int, end: int, options: Domain, *, partial: bool) -> bool:
    for key, values in options.items():
        parts = words(key)
        if list(texts[max(0, start - len(parts)) : start]) == parts:
            return True
        follows = list(texts[end : end + len(parts)]) == parts
        if follows and (partial or any(words(value) == list(texts[start:end]) for value in values)):
            return True
    return False


def segments(text: str, names: Sequence[str], options: Domain) -> list[Segment]:
    """Cut ``text`` into one segment for each mention of a name."""
    toks = tokens(text)
    found = mentions(toks, names, options)
    result = []
    for number, (start, end, name) in enumerate(found):
        previous = found[number - 1][1] if number else 0
        following = found[number + 1][0] if number + 1 < len(found) else len(toks)
        if number + 1 < len(found):
            following = _before(text, toks, end, following)
        before = toks[_before(text, toks, previous, start) : start]
        after = _until_stop(toks[end:following])
        at = _connector(after)
        source, target = (after, None) if at is None else (after[:at], tuple(after[at + 1 :]))
        many = _is_several(toks, start, end, name)
        result.append(Segment(name=name, source=(*before, *source), target=target, several=many))
    return result


def _is_several(toks: Sequence[Token], start: int, end: int, name: str) -> bool:
    counted = any(token.text in _BOTH for token in toks[max(0, start - 3) : start])
    last, own = toks[end - 1].text, words(name)[-1]
    return counted or (last != own and singular(last) == own)


def _before(text: str, toks: Sequence[Token], low: int, at: int) -> int:
    """Return where the description before ``at`` begins: after a break, at most five words before."""
    index = at
    while index > max(low, at - 5):
        gap = text[toks[index - 1].end : toks[index].start]
        if any(mark in gap for mark in ",;.}:") or toks[index - 1].text in (
            "and",
            "the",
            "my",
            "to",
            "for",
            "a",
        ):
            break
        index -= 1
    return index


def _until_stop(toks: Sequence[Token]) -> list[Token]:
    for index, token in enumerate(toks):
        if token.text in _STOP:
            return list(toks[:index])
    return list(toks)


def _connector(toks: Sequence[Token]) -> int | None:
    texts = [token.text for token in toks]
    for group in (("to", "into"), ("for", "with", "but"), ("in",)):
        places = [texts.index(word) for word in group if word in texts]
        if places:
            return min(places)
    return None


# -- which records are meant --------------------------------------------------------------------------


def pick(text: str, records: Sequence[Json], kind: str) -> list[Picked] | Unclear | None:
    """Return the ``records`` that ``text`` names, in order; ``None`` if it names none."""
    by_id = [record for record in records if str(record.get(f"{kind}_id")) in text]
    if by_id:
        return [Picked(record=record, segment=_segment_of(text, record)) for record in by_id]
    names = [name_of(record) for record in records]
    options = domain_of(records)
    everything = has_phrase(text, _ALL)
    found = segments(text, names, options)
    if everything and has_phrase(text, _EXCEPT):
        kept = {segment.name for segment in found}
        return [Picked(record=record, segment=None) for record in records if name_of(record) not in kept]
    if everything or (not found and len(records) == 1):
        only = found[0] if found and len(records) == 1 else None
        return [Picked(record=record, segment=only) for record in records]
    if not found:
        return None
    return _pick_named(found, records)


def _segment_of(text: str, record: Json) -> Segment | None:
    return next(iter(segments(text, [name_of(record)], domain_of([record]))), None)


def _pick_named(found: Sequence[Segment], records: Sequence[Json]) -> list[Picked] | Unclear:
    result: list[Picked] = []
    used: set[int] = set()
    for segment in found:
        same = [index for index, record in enumerate(records) if name_of(record) == segment.name]
        free = [index for index in same if index not in used]
        if not free:  # said again: the later words may tell what it shall become
            result = [_with_target(picked, segment) for picked in result]
            continue
        named = sum(other.name == segment.name for other in found)
        best = _best(segment, [records[index] for index in free])
        if segment.several and named == 1 and len(best) > 1:
            chosen_all = [free[index] for index in best]
            result += [Picked(record=records[index], segment=segment) for index in chosen_all]
            used.update(chosen_all)
            continue
        alike = len({_identity(records[index]) for index in free}) == 1
        if len(best) > 1 and not alike and named != len(same):
            return Unclear(name=segment.name, choices=tuple(records[index] for index in free))
        chosen = free[best[0]]
        used.add(chosen)
        result.append(Picked(record=records[chosen], segment=segment))
    return result


def _with_target(picked: Picked, segment: Segment) -> Picked:
    if picked.segment is None or picked.segment.name != segment.name or segment.target is None:
        return picked
    return Picked(record=picked.record, segment=segment)


def _identity(record: Json) -> str:
    return str(sorted(options_of(record).items()))


def _best(segment: Segment, records: Sequence[Json]) -> list[int]:
    """Return the places of the records whose options fit the describing words best."""
    domain = domain_of(records)
    said = parse_options(segment.source, domain)
    scores = []
    for record in records:
        own = options_of(record)
        fits = sum(own.get(key) == value for key, value in said.chosen.items())
        fits += sum(any(own.get(key) == value for key in keys) for value, keys in said.unclear)
        misses = sum(own.get(key) != value for key, value in said.chosen.items())
        scores.append(fits - misses)
    best = max(scores)
    return [index for index, score in enumerate(scores) if score == best]


def wants_same(text: str) -> bool:
    """Return whether the user wants the very same again."""
    return has_phrase(text, _SAME)
