"""Splits what users write into requests for action, questions, and the rest.

Words alone decide here: it knows neither tools nor records. A request is known by its verb.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.text import Token, has_phrase, sentences, tokens, words


def _starts(phrases: Iterable[str]) -> re.Pattern[str]:
    plain = (" ".join(words(phrase.replace("'", ""))) for phrase in phrases)
    return re.compile(rf"(?:{'|'.join(re.escape(phrase) for phrase in plain)})\b")


_PREFIX = re.compile(
    r"(?:\b(?:for|on|in|from|regarding|about|with)\s+(?:my\s+|the\s+|this\s+)?(?:order\s+)?#?\w*\d\w*\s*,?\s*)$",
    re.IGNORECASE,
)
_BREAK = re.compile(r"[,;:]|\b(?:and|then|also|plus|but)\b", re.IGNORECASE)
_NOT_BEFORE = ("not", "never", "without", "don", "cannot", "didn")
_NOUN_AFTER = frozenset(
    [
        "policy",
        "policies",
        "window",
        "label",
        "process",
        "shipping",
        "period",
        "fee",
        "fees",
        "rules",
        "rule",
        "status",
        "time",
        "deadline",
        "of",
        "conditions",
        "terms",
        "mind",
        "form",
        "address",
    ]
)
_NOUN_BEFORE = frozenset(
    {"my", "your", "any", "an", "in", "for", "after", "each", "per", "full", "receive", "get"}
)
_VERB_FORMS = frozenset(
    {"return", "exchange", "refund", "change", "update", "replacement", "switch", "open", "trade"}
)
_NO = re.compile(
    r"^\W*(no(?! longer)|nope|nah|never ?mind|nvm|forget (it|that|about (it|that))|"
    r"don'?t|do not|stop|cancel that|(just )?(leave|drop|skip) (it|that)|not now|"
    r"i(?:'ve)? changed my mind|on second thought,? no)\b",
    re.IGNORECASE,
)
_CHAT = frozenset({"s", "it", "is", "going", "things", "what", "up", "today"})
_ANYTHING = ("something", "anything", "items", "things", "products", "orders", "goods", "an item", "an order")
_LEADING = re.compile(
    r"^(?:(?:hi|hello|hey|hiya|yo|there|thanks|thank you|ok|okay|so|and|also|oh|well|please|yes|no|but|um|"
    r"hm|hmm|wait|sorry|actually|quick question|one question|question|i have a question|just curious|"
    r"just wondering)\b\s*)+"
)
_CONTACT = re.compile(r"^[^:]*\bquestion\b[^:]*:|\S+@\S+", re.IGNORECASE)
_NEXT_QUESTION = re.compile(
    r"(?:\?\s*(?:\band\b)?|,?\s*\band\b|[,;])\s*"
    r"(?=(?:where|how|what|when|which|who|whose|why|do|does|is|are|can|will)(?:'s|s)?\s)",
    re.IGNORECASE,
)
_RULE_START = _starts(lexicon.RULE_STARTS)
_QUESTION_START = _starts(lexicon.QUESTION_STARTS)
_REQUEST_START = _starts(lexicon.REQUEST_STARTS)
_POINTING = frozenset({"my", "this", "these", "those", "mine", "both", "its", "their"})
_GENERAL_NOUNS = frozenset({
    "refund", "refunds", "money", "address", "price", "difference", "payment", "shipping", "delivery", "cost",
    "rules", "policy", "option", "options", "same", "original", "whole", "order", "items", "goods",
    "deadline", "shipment", "parcel", "package", "reason", "color", "size", "warranty", "box", "packaging",
    "store", "fee",
})  # fmt: skip
"""What ``the`` may stand before without pointing at a thing that somebody has."""
_CONDITION = re.compile(
    r"\b(?:after|once|when|if|before|until|that|which|as soon as|while)\s+(?:it|they|i|we|you)\b.*"
)
_GENERAL = frozenset(
    ["my", "the", "this", "that", "it", "them", "these", "those", "mine", "its", "their"]
)  # what a request for action points at; a question about rules does without


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    verb: str
    word: str
    at: int
    size: int


@lru_cache(maxsize=32)
def _phrases(verbs: tuple[str, ...]) -> list[tuple[str, str, list[str]]]:
    """Return (verb, phrase, its words) of all that asks for an action, longest first."""
    said = lexicon.ACTIONS | {verb: (verb, f"{verb}ing", f"{verb.removesuffix('e')}ing") for verb in verbs}
    phrases = [(verb, phrase, words(phrase)) for verb, forms in said.items() for phrase in forms]
    return sorted(phrases, key=lambda item: -len(item[2]))


def _actions(toks: list[Token], verbs: tuple[str, ...]) -> list[_Found]:
    """Return the action words in order, longest first at each place."""
    texts = [token.text for token in toks]
    phrases = _phrases(verbs)
    found: list[_Found] = []
    at = 0
    while at < len(texts):
        for verb, phrase, parts in phrases:
            if texts[at : at + len(parts)] == parts and _is_asked(texts, at, len(parts), phrase):
                found.append(_Found(verb=verb, word=phrase, at=at, size=len(parts)))
                at += len(parts) - 1
                break
        at += 1
    return found


def _is_asked(texts: list[str], at: int, size: int, word: str) -> bool:
    """Return whether the word at ``at`` is a verb that asks, not a noun and not denied."""
    before = texts[max(0, at - 3) : at]
    if any(word in _NOT_BEFORE for word in before) or texts[max(0, at - 2) : at] == ["instead", "of"]:
        return False
    after = texts[at + size] if at + size < len(texts) else ""
    if (
        word in _VERB_FORMS
        and before
        and before[-1] in _NOUN_BEFORE
        and (word, before[-1]) != ("refund", "full")
    ):
        return word == "refund" and before[-1] in ("get", "full", "receive")
    if word in ("update", "change") and before and before[-1] in ("the", "a"):
        return False
    if after == "address":
        return word not in ("return", "open")
    return after not in _NOUN_AFTER


def is_question(clause: str) -> bool:
    """Return whether a clause asks to be told something, rather than to have something done."""
    plain = _bare(clause)
    if _QUESTION_START.match(plain):
        return True
    if ":" in clause and _QUESTION_START.match(_bare(clause.rpartition(":")[2])):
        return True
    if _RULE_START.match(plain):
        return not _is_concrete(plain)
    if _REQUEST_START.match(plain):
        if has_phrase(plain, _ANYTHING) and not has_phrase(plain, ("my", "the", "these", "both", "all")):
            return True
        return not (_GENERAL & set(plain.split()) or re.search(r"\d{4}", plain))
    ending = _bare(re.split(r"\s[-–—]\s|,\s", clause)[-1])
    if _REQUEST_START.match(ending) and _is_concrete(plain):  # "the lamp in #W1 - can I have it in red?"
        return False
    return clause.rstrip().endswith("?") and not plain.startswith("i ")


def is_interrogative(clause: str) -> bool:
    """Return whether a clause is built as a question; ``the blue one?`` is not."""
    plain = _bare(clause)
    if re.match(r"(?:what|how) about\b", plain):
        return False
    return bool(_QUESTION_START.match(plain) or _REQUEST_START.match(plain))


def asks_about_acting(question: str, verbs: tuple[str, ...] = ()) -> bool:
    """Return whether a question is about what may be done in general: ``can I return something?``."""
    plain = _bare(question)
    starts = _RULE_START.match(plain) or re.match(r"(?:do|would) you\b|(?:is|are|am) (?:it|there|i)\b", plain)
    return bool(starts) and not _is_concrete(plain) and bool(_actions(tokens(question), verbs))


def _is_concrete(plain: str) -> bool:
    """Return whether a clause points at a certain thing: by an id, ``my``, ``it`` or ``the blanket``."""
    plain = re.sub(r"\bmy (?:money|refund|mind)\b", "", plain)
    if re.search(r"\d{4}", plain):
        return True
    said = _CONDITION.sub("", plain).split()
    if _POINTING & set(said):
        return True
    if {"it", "them"} & set(said) and not has_phrase(plain, _ANYTHING):
        return True
    after = [word for at, word in enumerate(said) if at and said[at - 1] == "the"]
    return any(word not in _GENERAL_NOUNS for word in after)


@lru_cache(maxsize=512)
def _bare(clause: str) -> str:
    """Return a clause's words without contact data and without what only leads up to it."""
    plain = " ".join(words(_CONTACT.sub(" ", clause).replace("'", "")))
    return _LEADING.sub("", plain)


def is_small_talk(text: str) -> bool:
    """Return whether a message is a greeting and nothing more, be it built as a question."""
    said = set(words(text))
    return bool(said) and not said - lexicon.GREETINGS - {
        "s",
        "it",
        "is",
        "going",
        "things",
        "what",
        "up",
        "today",
    }


def inquiries(question: str) -> list[str]:
    """Cut a question that asks several things: ``can I return it, and where does the refund go?``."""
    parts = [part.strip(" ,.?") for part in _NEXT_QUESTION.split(question)]
    whole = [part for part in parts if len(words(part)) >= 3]
    return whole if len(whole) > 1 else [question]


Parts = tuple[tuple[tuple[str, str], ...], tuple[str, ...], str]


@lru_cache(maxsize=512)
def split_requests(text: str, verbs: tuple[str, ...] = ()) -> Parts:
    """Return the requests of a message as (verb, clause), its questions, and all that is neither.

    ``verbs`` are asked for by their own names, besides those of the lexicon.
    """
    requests: list[tuple[str, str]] = []
    questions: list[str] = []
    rest: list[str] = []
    for sentence in sentences(text):
        clauses = _clauses(sentence, verbs)
        if not clauses:
            if is_question(sentence):
                questions.append(sentence)
            elif requests:
                requests[-1] = (requests[-1][0], f"{requests[-1][1]} . {sentence}")
            else:
                rest.append(sentence)
            continue
        for verb, clause, weak in clauses:
            how_to = re.match(r"\s*how (?:can|do|could|would) (?:i|we)\b", clause, re.IGNORECASE)
            if is_question(clause) and not (how_to and re.search(r"#|\d{5}", clause)):
                questions.append(clause)
            elif weak and requests:
                requests[-1] = (requests[-1][0], f"{requests[-1][1]} . {clause}")
            else:
                requests.append((verb, clause))
    return tuple(requests), tuple(questions), " ".join(rest)


def _clauses(sentence: str, verbs: tuple[str, ...]) -> list[tuple[str, str, bool]]:
    """Cut a sentence before each further action that begins a request of its own."""
    toks = tokens(sentence)
    found = _actions(toks, verbs)
    if not found:
        return []
    starts = [(found[0], 0)]
    for action in found[1:]:
        at = toks[action.at].start
        start = _begin(sentence, at)
        cut = max((match.start() for match in _BREAK.finditer(sentence, 0, start)), default=-1)
        near = cut >= 0 and len(words(sentence[cut:start])) <= 4
        if near and action.word not in lexicon.WEAK_ACTIONS and start > toks[starts[-1][0].at].end:
            starts.append((action, start))
    ends = [start for _, start in starts[1:]] + [len(sentence)]
    return [
        (action.verb, sentence[start:end].strip(" ;,"), action.word in lexicon.WEAK_ACTIONS)
        for (action, start), end in zip(starts, ends, strict=True)
    ]


def _begin(sentence: str, at: int) -> int:
    """Return where the clause of the action at ``at`` begins: ``For #W1, change`` begins at ``For``."""
    prefix = _PREFIX.search(sentence[:at])
    return prefix.start() if prefix else at


def says_no(text: str) -> bool:
    """Return whether a message declines and asks for nothing else instead."""
    return bool(_NO.match(text)) and len(words(text)) <= 8 and not re.search(r"\d|instead|use|rather", text)
