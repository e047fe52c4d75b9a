"""Finds in a request which records it names, and which options it wishes for.

``exchange the black kettle for a white one``: the record is the kettle whose color is black, the
wish is color white. Pure functions over tokens and records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from admiralty.runtime.providers.extractive.facts import Json, name_of, options_of
from admiralty.runtime.providers.extractive.text import (
    Token,
    find_all,
    find_phrase,
    has_phrase,
    singular,
    tokens,
    words,
)

_TO = ("to", "into", "for", "with", "but", "in")
_STOP = frozenset({"via", "because", "since", "paid", "paying", "refund", "refunded", "using", "please"})
_FILLERS = frozenset({"is", "of", "as", "be", "a", "an", "the", "should", "to", "in"})
_SMALL = frozenset(
    [
        "a",
        "i",
        "is",
        "of",
        "on",
        "in",
        "to",
        "an",
        "at",
        "by",
        "it",
        "or",
        "as",
        "be",
        "do",
        "go",
        "he",
        "if",
        "me",
        "my",
        "no",
        "so",
        "up",
        "us",
        "we",
        "am",
    ]
)
_ALL = (
    "everything", "all items", "all the items", "all of it", "all of them", "whole order", "entire order", "all of the items",
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
_BOTH = ("both", "all", "two", "each")
_INSTEAD = ("instead of", "rather than", "as opposed to", "not the")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The part of a request that is about one named thing."""

    name: str
    source: tuple[Token, ...]
    """Words around the name, that tell which one is meant."""
    target: tuple[Token, ...] | None
    """Words after ``to`` or ``for``: what it should become; ``None`` where nothing of the kind stands."""


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
    toks: Sequence[Token], names: Sequence[str], keys: Sequence[str] = ()
) -> list[tuple[int, int, str]]:
    """Return (start, end, name) where one of ``names`` stands: whole, or by a word that only it has.

    A word beside one of ``keys`` (option names) is an option's value, and no mention.
    """
    texts = [token.text for token in toks]
    found: list[tuple[int, int, str]] = []
    for name in sorted(set(names), key=lambda value: (-len(words(value)), value)):
        parts = words(name)
        places = [(at, at + len(parts)) for at in find_all(texts, parts)]
        if not places:
            places = [(at, at + 1) for word in _own_words(name, names) for at in find_all(texts, [word])]
        for start, end in places:
            free = all(end <= other[0] or start >= other[1] for other in found)
            if free and not _is_value(texts, start, end, keys):
                found.append((start, end, name))
    return sorted(found)


def _own_words(name: str, names: Sequence[str]) -> list[str]:
    others = {singular(word) for other in set(names) if other != name for word in words(other)}
    return [word for word in words(name) if len(word) > 3 and singular(word) not in others]


def _is_value(texts: Sequence[str], start: int, end: int, keys: Sequence[str]) -> bool:
    for key in keys:
        parts = words(key)
        if (
            list(texts[max(0, start - len(parts)) : start]) == parts
            or list(texts[end : end + len(parts)]) == parts
        ):
            return True
    return False


def segments(text: str, names: Sequence[str], keys: Sequence[str]) -> list[Segment]:
    """Cut ``text`` into one segment for each mention of a name."""
    toks = tokens(text)
    found = mentions(toks, names, keys)
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
        result.append(Segment(name=name, source=(*before, *source), target=target))
    return result


def _before(text: str, toks: Sequence[Token], low: int, at: int) -> int:
    """Return where the words that describe the name at ``at`` begin: after a break, at most five words before."""
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


# -- options ----------------------------------------------------------------------------------------

Domain = Mapping[str, Sequence[str]]
"""By option, the values that it has somewhere."""


def domain_of(records: Sequence[Json]) -> dict[str, list[str]]:
    """Return all options of ``records`` with all their values, sorted."""
    found: dict[str, set[str]] = {}
    for record in records:
        for key, value in options_of(record).items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(values) for key, values in found.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options that a text names; ``unclear`` are values that several options have."""

    chosen: Mapping[str, str]
    unclear: tuple[tuple[str, tuple[str, ...]], ...] = ()


def parse_options(toks: Sequence[Token], domain: Domain) -> Options:
    """Return the options named in ``toks``: beside their key, or by a value that leaves no doubt."""
    toks = _without_opposites(toks)
    texts = [token.text for token in toks]
    taken: set[int] = set()
    chosen: dict[str, str] = {}
    for key in sorted(domain, key=lambda name: -len(words(name))):
        _beside_key(texts, key, domain[key], taken, chosen)
    unclear = _bare(toks, domain, taken, chosen)
    _by_one_word(texts, domain, taken, chosen)
    return Options(chosen=chosen, unclear=tuple(item for item in unclear if not set(item[1]) & set(chosen)))


def _without_opposites(toks: Sequence[Token]) -> list[Token]:
    """Drop what stands after ``instead of``: it is what the user does not want."""
    texts = [token.text for token in toks]
    places = [find_phrase(texts, words(phrase)) for phrase in _INSTEAD]
    cut = min((at for at in places if at >= 0), default=len(texts))
    return list(toks[:cut])


def _beside_key(
    texts: list[str], key: str, values: Sequence[str], taken: set[int], chosen: dict[str, str]
) -> None:
    parts = words(key)
    for at in find_all(texts, parts):
        if key in chosen or at in taken:
            continue
        after = at + len(parts)
        while after < len(texts) and texts[after] in _FILLERS and after - at - len(parts) < 2:
            after += 1
        best: tuple[int, int, str] | None = None
        for value in sorted(values, key=lambda item: -len(item)):
            size = _match_at(texts, after, value)
            start = after
            if not size and (size := _match_before(texts, at, value)):
                start = at - size
            if size and not taken & set(range(start, start + size)):
                best = (start, size, value)
                break
        if best is None and set(values) <= {"yes", "no"}:
            denied = at > 0 and texts[at - 1] in ("not", "non", "no", "without")
            best = (at, 0, "no" if denied else "yes")
        if best:
            chosen[key] = best[2]
            taken.update(range(best[0], best[0] + best[1]))
            taken.update(range(at, at + len(parts)))


def _match_at(texts: Sequence[str], at: int, value: str) -> int:
    """Return how many words at ``at`` spell ``value``, however they are spaced; 0 if they do not."""
    wanted = "".join(words(value))
    joined = ""
    for size in range(1, min(len(words(value)) + 3, len(texts) - at + 1)):
        joined += texts[at + size - 1]
        if joined == wanted or singular(joined) == singular(wanted):
            return size
        if len(joined) > len(wanted) + 1:
            return 0
    return 0


def _match_before(texts: Sequence[str], at: int, value: str) -> int:
    for size in range(1, min(len(words(value)) + 2, at) + 1):
        if _match_at(texts, at - size, value) == size:
            return size
    return 0


def _bare(
    toks: Sequence[Token], domain: Domain, taken: set[int], chosen: dict[str, str]
) -> list[tuple[str, tuple[str, ...]]]:
    texts = [token.text for token in toks]
    unclear: list[tuple[str, tuple[str, ...]]] = []
    values = sorted(
        {value for found in domain.values() for value in found}, key=lambda item: (-len(item), item)
    )
    for value in values:
        for at in range(len(texts)):
            size = _match_at(texts, at, value)
            if not size or taken & set(range(at, at + size)) or _is_weak(toks[at : at + size]):
                continue
            keys = tuple(key for key in domain if value in domain[key] and key not in chosen)
            taken.update(range(at, at + size))
            if len(keys) == 1:
                chosen[keys[0]] = value
            elif keys:
                unclear.append((value, keys))
    return unclear


def _is_weak(toks: Sequence[Token]) -> bool:
    """Return whether a value means nothing without its key: ``10``, ``yes``, a small letter."""
    if len(toks) > 1:
        return False
    text = toks[0].text
    if text in ("yes", "no", "none") or (text.isdigit() and len(text) <= 2):
        return True
    if len(text) == 1:
        return not toks[0].raw.isupper() or toks[0].raw in ("I", "A")
    return text in _SMALL


def _by_one_word(texts: Sequence[str], domain: Domain, taken: set[int], chosen: dict[str, str]) -> None:
    """Accept ``google`` for ``Google Assistant`` where no other value has that word."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for key, values in domain.items():
        for value in values:
            for word in words(value):
                owners.setdefault(singular(word), set()).add((key, value))
    for at, text in enumerate(texts):
        owner = owners.get(singular(text), set())
        if at not in taken and len(text) > 3 and len(owner) == 1:
            key, value = next(iter(owner))
            chosen.setdefault(key, value)


# -- which records are meant --------------------------------------------------------------------------


def pick(text: str, records: Sequence[Json], kind: str) -> list[Picked] | Unclear | None:
    """Return the ``records`` that ``text`` names, in order; ``None`` if it names none."""
    by_id = [record for record in records if str(record.get(f"{kind}_id")) in text]
    if by_id:
        return [Picked(record=record, segment=_segment_of(text, record)) for record in by_id]
    names = [name_of(record) for record in records]
    keys = [key for record in records for key in options_of(record)]
    everything = has_phrase(text, _ALL)
    found = segments(text, names, keys)
    if everything and has_phrase(text, _EXCEPT):
        kept = {segment.name for segment in found}
        return [Picked(record=record, segment=None) for record in records if name_of(record) not in kept]
    if everything or (not found and len(records) == 1):
        only = found[0] if found and len(records) == 1 else None
        return [Picked(record=record, segment=only) for record in records]
    if not found:
        return None
    return _pick_named(text, found, records)


def _segment_of(text: str, record: Json) -> Segment | None:
    return next(iter(segments(text, [name_of(record)], list(options_of(record)))), None)


def _pick_named(text: str, found: Sequence[Segment], records: Sequence[Json]) -> list[Picked] | Unclear:
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
        several = named == len(same) or len({_identity(records[index]) for index in free}) == 1
        if len(best) > 1 and not several:
            if has_phrase(text, [f"{word} {segment.name}" for word in _BOTH] + [f"both the {segment.name}"]):
                result += [Picked(record=records[index], segment=segment) for index in free]
                used.update(free)
                continue
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
