"""Follows each request through the conversation: what was asked, said besides, asked back, and done.

Which tool serves a request, and on what, is decided later (``choice.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.entities import target_ids
from admiralty.runtime.providers.extractive.schema import Toolbox
from admiralty.runtime.providers.extractive.speech import is_interrogative, says_no, split_requests
from admiralty.runtime.providers.extractive.text import has_phrase, words
from admiralty.runtime.providers.extractive.transcript import Call, Transcript, Turn
from admiralty.tools.confirmation import is_affirmation

GoalStatus = Literal["open", "asked", "confirmed", "done", "failed", "declined", "parked"]
"""``parked``: something else was asked for instead, before it was done."""


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


_BESIDES = ("also", "too", "as well", "additionally", "in addition", "besides", "afterwards", "another thing")

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
        current = None  # what is asked for beside a yes comes after it
    elif asked and says_no(turn.text):
        return _swap(goals, asked, replace(asked, status="declined", touched=index))
    elif current and says_no(turn.text) and not requests:
        return _swap(goals, current, replace(current, status="declined", touched=index))
    elif not requests:
        if any(is_interrogative(question) for question in questions) and (not rest or _is_courtesy(rest)):
            return goals
        return _add_detail(goals, turn.text, index, current)
    for verb, clause in requests:
        if current and current in goals and _continues(verb, clause, current, tools):
            goals = _add_detail(goals, clause, index, current)
        else:
            goals = _take(goals, verb, clause, rest, index, tools)
    return _first_the_new(goals, index, current, turn.text)


def _first_the_new(goals: list[Goal], index: int, current: Goal | None, text: str) -> list[Goal]:
    """Put what was asked for now before what was left open, and park the request that it interrupts."""
    new = [goal for goal in goals if goal.is_open and goal.touched == index and goal.status != "confirmed"]
    left = [goal for goal in goals if goal.is_open and goal.touched < index]
    if not new or not left:
        return goals
    others = [goal for goal in goals if goal not in new and goal not in left]
    if current and current in left and not has_phrase(text, _BESIDES):
        left = _swap(left, current, replace(current, status="parked"))
    return [*others, *new, *left]


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
        waits = goal.is_open or goal.status == "parked"
        if waits and goal.turn < index and _belongs(verb, clause, goal, tools):
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
