"""What counts as a word, and which words say little: for hashed features and lexical overlap.

English only, and deliberately small: it supports vectors and ranking, it is no linguistics.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+")

_COMMON = """
a about all also am an and any are as at be been but by can could did do does for from get had has have he
her him his how i if in into is it its just ll m may me my no not of on or our please s she should so than
that the their them then there these they this to us ve want was we were what when where which who why
will with would you your
"""
COMMON_WORDS = frozenset(_COMMON.split())
"""Words of nearly every sentence: two texts that share them are not therefore alike."""

_SUFFIXES = ("ings", "ing", "ies", "ied", "es", "ed", "s", "y", "e")
_SHORTEST_STEM = 3


def words(text: str) -> list[str]:
    """Return the words of ``text`` in order, in lower case."""
    return _WORD.findall(text.casefold())


def stem(word: str) -> str:
    """Return ``word`` without its ending, so that cancel, cancels and cancelled are one."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST_STEM:
            word = word.removesuffix(suffix)
            break
    if len(word) > _SHORTEST_STEM and word[-1] == word[-2]:
        word = word[:-1]
    return word


def content_stems(text: str) -> list[str]:
    """Return the stems of the words of ``text`` that carry meaning, in order."""
    return [stem(word) for word in words(text) if word not in COMMON_WORDS]
