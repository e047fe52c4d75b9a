"""Splits what users write into requests for action and questions, and follows each request's fate.

A request is known by its verb; which tool serves it, and on what, is decided later (``choice.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.entities import target_ids
from admiralty.runtime.providers.extractive.schema import Toolbox
from admiralty.runtime.providers.extractive.text import Token, has_phrase, sentences, tokens, words
from admiralty.runtime.providers.extractive.transcript import Call, Transcript, Turn
from admiralty.tools.confirmation import is_affirmation


def _starts(phrases: Iterable[str]) -> re.Pattern[str]:
    plain = (" ".join(words(phrase.replace("'", ""))) for phrase in phrases)
    return re.compile(rf"(?:{'|'.join(re.escape(phrase) for phrase in plain)})\b")


GoalStatus = Literal["open", "asked", "confirmed", "done", "failed", "declined"]

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
    r"^\W*(no(?! longer)|nope|nah|never ?mind|forget (it|about it)|don'?t|do not|stop|leave it|cancel that|"
    r"not now|i changed my mind)\b",
    re.IGNORECASE,
)
_ANYTHING = ("something", "anything", "items", "things", "products", "orders", "goods", "an item", "an order")
_QUESTION_START = _starts(lexicon.QUESTION_STARTS)
_REQUEST_START = _starts(lexicon.REQUEST_STARTS)
_GENERAL = frozenset(
    ["my", "the", "this", "that", "it", "them", "these", "those", "mine", "its", "their"]
)  # what a request for action points at; a question about rules does without


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """One thing that the user asked to have done."""

    verb: str
    texts: tuple[str, ...]
    """The request's own words, then what the user added, oldest first."""
    context: str = ""
    """What else stood in the message that asked."""
    target: str | None = None
    """Id of the record that it is about, where the request names it."""
    turn: int
    """Index of the turn that asked for it."""
    status: GoalStatus = "open"
    call: Call | None = None
    """The last call made for it."""
    touched: int = 0
    """Index of the last turn that changed it."""

    @property
    def is_open(self) -> bool:
        return self.status in ("open", "asked", "confirmed")

    @property
    def text(self) -> str:
        return " . ".join(self.texts)


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
    plain = " ".join(words(clause.replace("'", "")))
    plain = re.sub(
        r"^(?:(?:hi|hello|hey|there|thanks|thank you|ok|okay|so|and|also|oh|well|please|yes|no|but)\b\s*)+",
        "",
        plain,
    )
    if _QUESTION_START.match(plain):
        return True
    if _REQUEST_START.match(plain):
        if has_phrase(plain, _ANYTHING) and not has_phrase(plain, ("my", "the", "these", "both", "all")):
            return True
        return not (_GENERAL & set(plain.split()) or re.search(r"\d{4}", plain))
    return clause.rstrip().endswith("?") and not plain.startswith("i ")


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


# -- following requests through the turns -----------------------------------------------------------


Blocked = Callable[[Goal, int], bool]
"""Tells whether a request could not be served at all, by what the first so many calls had told."""


def follow(transcript: Transcript, tools: Toolbox, blocked: Blocked) -> list[Goal]:
    """Return all requests of the conversation in order, with what has become of each."""
    goals: list[Goal] = []
    seen = 0
    for index, turn in enumerate(transcript.turns):
        current = _current(goals, blocked, seen)
        goals = _hear(goals, turn, index, tools, current)
        for call in turn.calls:
            goals = _outcome(goals, call, tools, _current(goals, blocked, call.seq))
            seen = call.seq + 1
    return goals


def _hear(goals: list[Goal], turn: Turn, index: int, tools: Toolbox, current: Goal | None) -> list[Goal]:
    asked = next((goal for goal in goals if goal.status == "asked" and goal.touched == index - 1), None)
    requests, questions, rest = split_requests(turn.text, tools.own_verbs)
    if asked and is_affirmation(turn.text):
        goals = _swap(goals, asked, replace(asked, status="confirmed", touched=index))
        asked = next(goal for goal in goals if goal.status == "confirmed" and goal.touched == index)
        requests = tuple(item for item in requests if not _belongs(item[0], item[1], asked, tools))
    elif asked and says_no(turn.text):
        return _swap(goals, asked, replace(asked, status="declined", touched=index))
    elif current and says_no(turn.text) and not requests:
        return _swap(goals, current, replace(current, status="declined", touched=index))
    elif not requests:
        if questions and not rest:
            return goals
        return _add_detail(goals, turn.text, index, current)
    for verb, clause in requests:
        if current and current in goals and _continues(verb, clause, current, tools):
            goals = _add_detail(goals, clause, index, current)
        else:
            goals = _take(goals, verb, clause, rest, index, tools)
    return goals


def _continues(verb: str, clause: str, goal: Goal, tools: Toolbox) -> bool:
    """Return whether a clause only says more on the request in hand, such as ``make it blue``."""
    if _targets(goal.verb, clause, tools) or _object(clause):
        return False
    if verb == "set":
        return True
    return {verb, goal.verb} <= {"modify", "exchange"} and has_phrase(
        clause, ("it", "that", "them", "this one", "that one")
    )


def _take(goals: list[Goal], verb: str, clause: str, rest: str, index: int, tools: Toolbox) -> list[Goal]:
    """Add a request, or what it says to an open one that it continues."""
    for goal in goals:
        if goal.is_open and goal.turn < index and _belongs(verb, clause, goal, tools):
            return _swap(
                goals, goal, replace(goal, texts=(*goal.texts, clause), status="open", touched=index)
            )
    targets: list[str | None] = [*_targets(verb, clause, tools)] or [None]
    made = [
        Goal(verb=verb, texts=(clause,), context=rest, target=target, turn=index, touched=index)
        for target in targets
    ]
    return [*goals, *made]


def _targets(verb: str, clause: str, tools: Toolbox) -> list[str]:
    for spec in tools.writes:
        if spec.verb == verb and spec.primary and (ids := target_ids(clause, spec.primary.pattern)):
            return ids
    return []


def _belongs(verb: str, clause: str, goal: Goal, tools: Toolbox) -> bool:
    if verb != goal.verb:
        return False
    ids = _targets(verb, clause, tools)
    if ids and goal.target and goal.target not in ids:
        return False
    return _object(clause) in ("", _object(goal.text)) or _object(goal.text) == ""


def _object(text: str) -> str:
    return next((key for key in ("address", "payment") if has_phrase(text, (key,))), "")


def _add_detail(goals: list[Goal], text: str, index: int, current: Goal | None) -> list[Goal]:
    """Give what the user added to the request that is being worked on."""
    if current is None and goals and goals[-1].status == "failed" and goals[-1].touched >= index - 1:
        current = goals[-1]
        if is_affirmation(text) or says_no(text):
            return goals
    if current is None or _is_courtesy(text):
        return goals
    return _swap(goals, current, replace(current, texts=(*current.texts, text), status="open", touched=index))


def _current(goals: list[Goal], blocked: Blocked, seen: int) -> Goal | None:
    """Return the request that is worked on: the first that is open and not refused."""
    return next((goal for goal in goals if goal.is_open and not blocked(goal, seen)), None)


def _is_courtesy(text: str) -> bool:
    said = set(words(text))
    return (
        not said
        - lexicon.GREETINGS
        - lexicon.THANKS
        - {"you", "so", "much", "very", "ok", "okay", "that", "s", "all"}
    )


def _outcome(goals: list[Goal], call: Call, tools: Toolbox, goal: Goal | None) -> list[Goal]:
    """Note what came of a change. The planner works on one request at a time, so it is that one's."""
    spec = tools.get(call.name)
    if spec is None or not spec.is_write or goal is None or call.status == "open":
        return goals
    status: GoalStatus = "asked"
    if call.status in ("ok", "error"):
        status = "done" if call.status == "ok" else "failed"
    return _swap(goals, goal, replace(goal, status=status, call=call, touched=call.turn))


def _swap(goals: Iterable[Goal], old: Goal, new: Goal) -> list[Goal]:
    return [new if goal is old else goal for goal in goals]
