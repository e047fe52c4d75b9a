"""Reads options such as color and size out of words, given which options there are.

Pure functions over tokens; knows neither tools nor requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.facts import Json, options_of
from admiralty.runtime.providers.extractive.text import Token, find_all, find_phrase, singular, words

_FILLERS = frozenset({"is", "of", "as", "be", "a", "an", "the", "should", "to", "in"})
_SMALL = frozenset({
    "a", "i", "is", "of", "on", "in", "to", "an", "at", "by", "it", "or", "as", "be", "do", "go", "he", "if",
    "me", "my", "no", "so", "up", "us", "we", "am",
})  # fmt: skip
"""Words too short and common to be taken for an option's value on their own."""
_INSTEAD = ("instead of", "rather than", "as opposed to", "not the")

Domain = Mapping[str, Sequence[str]]
"""By option, the values that it has somewhere."""


def domain_of(records: Sequence[Json]) -> dict[str, list[str]]:
    """Return all options of ``records`` with all their values, sorted."""
    found: dict[str, set[str]] = {}
    for record in records:
        for key, value in options_of(record).items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(values) for key, values in found.items()}


def beyond(value: str, values: Sequence[str], *, up: bool) -> list[str]:
    """Return the ``values`` above (or below) ``value`` in their order, nearest first; empty without one."""
    places = _places([*values, value])
    if places is None:
        return []
    own = places[-1]
    found = [(place, other) for place, other in zip(places, values, strict=False) if place != own]
    return [other for place, other in sorted(found, reverse=not up) if (place > own) is up]


def ordered_option(domain: Domain, own: Mapping[str, str]) -> str:
    """Return the option that ``bigger`` is about: the only ordered one, or one that is a size; else empty."""
    keys = [key for key, values in domain.items() if len(values) > 1 and key in own and _places(values)]
    sizes = [key for key in keys if key in lexicon.SIZES]
    return (sizes or keys)[0] if len(sizes or keys) == 1 else ""


def _places(values: Sequence[str]) -> list[float] | None:
    """Return where each value stands in their order: by its number, or on a scale of words."""
    numbers = [re.match(r"-?\d+(?:\.\d+)?", value) for value in values]
    units = {value[match.end() :].strip() for value, match in zip(values, numbers, strict=True) if match}
    if all(numbers) and len(units) == 1:
        return [float(match.group()) for match in numbers if match]
    low = [value.lower() for value in values]
    scale = next((scale for scale in lexicon.SCALES if set(low) <= set(scale)), None)
    return [float(scale.index(value)) for value in low] if scale else None


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
