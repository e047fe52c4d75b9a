"""What a visit has produced so far, what earlier executions have left to it, and what policies may know.

Pure bookkeeping: nothing is asked or stored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.messages.tool import ToolCall

from admiralty.core.errors import LimitExceeded
from admiralty.core.frozen import replace
from admiralty.core.values import ApprovalRequest, JournalEntry, ModelReply, Visit, VisitResult, effect_key
from admiralty.runtime.durable.naming import named
from admiralty.tools.confirmation import PENDING

MAX_FACT = 500
"""Characters of a text in the session above which policies are not told of it."""

Outcome = Mapping[str, Any]
"""What came of a tool call, as it is kept (JSON): ``status``, ``content``, ``ran``, ``seconds``."""


@dataclass(kw_only=True)
class Progress:
    """What a visit has produced so far."""

    visit: Visit
    session: dict[str, Any]
    """The conversation's session. Tools hold it: it is changed in place, never replaced."""
    messages: list[BaseMessage] = field(default_factory=list)
    steps: int = 0
    calls: int = 0
    """Tool calls so far, those included that are told again instead of made."""
    unwritten: list[JournalEntry] = field(default_factory=list)
    """Replies that no database has: they go with the next call that changes something, or with the result."""
    noted: dict[str, Outcome] = field(default_factory=dict)
    """Outcomes since the last reply, by :func:`effect_key`."""
    live: bool = False
    """Whether a model was asked, in a visit that asks one after the other: what is still recorded then came
    after another answer, and is not used."""
    _told: dict[str, Outcome] = field(default_factory=dict)
    _told_ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.unwritten.extend(self.visit.journal)
        for entry in self.visit.recorded.replies.values():
            self._told.update(entry.outcomes)
        self._told.update(self.visit.recorded.outcomes)
        self._told_ids.update(key.rpartition(":")[0] for key in self._told)

    # -- tool calls -------------------------------------------------------------------------------

    def count_calls(self, number: int) -> None:
        """Count tool calls that are about to be made. Raises LimitExceeded if they are too many."""
        if self.calls + number > self.visit.calls_left:
            raise LimitExceeded(
                f"{self.visit.caller.agent} wants {self.calls + number} tool calls; "
                f"{self.visit.calls_left} were left to the turn.",
                limit="calls",
            )
        self.calls += number

    def outcome_of(self, key: str) -> Outcome | None:
        """Return what an earlier execution has recorded of a tool call; ``key``: :func:`effect_key`.

        For reads. A call that changes something is asked of the effects: they must know that this
        execution has met it, or an equal call later would be taken for it.
        """
        return self._told.get(key)

    def note_outcome(self, key: str, outcome: Outcome) -> None:
        """Note what came of a tool call: it is kept with the next reply."""
        self.noted[key] = outcome

    def note_told(self, call: ToolCall, outcome: Outcome) -> None:
        """Note what the model was told of a tool call, unless its outcome is noted already."""
        prefix = f"{call['id']}:"
        if not any(key.startswith(prefix) for key in self.noted):
            self.note_outcome(effect_key(call["id"] or "", ""), outcome)

    def was_told(self, call_id: str) -> bool:
        """Return whether an earlier execution has recorded the outcome of the call of this id."""
        return call_id in self._told_ids

    # -- model calls ------------------------------------------------------------------------------

    def count_step(self, most: int) -> None:
        """Count a model call that is about to be made. Raises LimitExceeded if it is one too many."""
        if self.steps >= min(most, self.visit.steps_left):
            agent = self.visit.caller.agent
            raise LimitExceeded(f"{agent} made {self.steps} model calls without an answer.", limit="steps")
        self.steps += 1

    def entry(self, key: str) -> JournalEntry:
        """Return where the reply to a model call belongs that is about to be made."""
        return JournalEntry(key=key, session=deepcopy(self.session), outcomes=dict(self.noted))

    def keep(self, entry: JournalEntry, reply: ModelReply) -> ModelReply:
        """Note that a model call was answered; return the reply with ids that are unique in the run."""
        reply = named(reply, self.visit.caller.run_id, entry.key)
        for key in entry.outcomes:
            self.noted.pop(key, None)
        if self.visit.durability == "exit":  # else the scheduler has kept it
            self.unwritten.append(replace(entry, reply=reply))
        return reply

    def recall(self, key: str) -> ModelReply | None:
        """Return the recorded reply of that key, the session set to what it was when the model was asked."""
        entry = self._recorded(key)
        if entry is None or entry.reply is None:
            return None
        for done in entry.outcomes:
            self.noted.pop(done, None)
        self.session.clear()
        self.session.update(deepcopy(dict(entry.session)))
        return named(entry.reply, self.visit.caller.run_id, key)

    def recorded(self, key: str) -> bool:
        """Return whether the reply of that key is recorded."""
        return (entry := self._recorded(key)) is not None and entry.reply is not None

    def _recorded(self, key: str) -> JournalEntry | None:
        return None if self.live else self.visit.recorded.replies.get(key)

    def take_unwritten(self) -> tuple[JournalEntry, ...]:
        """Return the replies that no database has, oldest first, for whoever is about to write.

        They stay until :meth:`note_written` says that they are there: writing one twice does no harm.
        """
        return tuple(self.unwritten)

    def note_written(self, entries: Sequence[JournalEntry]) -> None:
        """Note that ``entries`` are in the database."""
        keys = {entry.key for entry in entries}
        self.unwritten = [entry for entry in self.unwritten if entry.key not in keys]

    # -- the end ----------------------------------------------------------------------------------

    def result(self, *, handoff: str | None = None, output: Mapping[str, Any] | None = None) -> VisitResult:
        return VisitResult(
            messages=tuple(self.messages),
            session=self.session,
            handoff=handoff,
            output=output,
            steps=self.steps,
            calls=self.calls,
            journal=self.take_unwritten() if handoff else (),
        )

    def paused(self, request: ApprovalRequest) -> VisitResult:
        """Return the result of a visit that waits for a person: it has left nothing but its journal.

        What came of the other tool calls of that step is in it, in an entry without a reply.
        """
        journal = self.take_unwritten()
        if self.noted:
            journal += (self.entry(f"{self.visit.number}.at.{request.call_id}"),)
        return VisitResult(
            messages=(),
            session=self.visit.session,
            steps=self.steps,
            calls=self.calls,
            pause=request,
            journal=journal,
        )

    def facts(self) -> dict[str, Any]:
        """Return the facts that policies may ask for: of what tools keep with the conversation, the
        texts, whole numbers, truths and lists of texts.
        """
        return {key: value for key, value in self.session.items() if _is_fact(key, value)}


def _is_fact(key: str, value: object) -> bool:
    if key == PENDING:
        return False
    if isinstance(value, list | tuple):
        return len(value) <= MAX_FACT and all(isinstance(item, str) for item in value)
    return isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= MAX_FACT)


def last_user_text(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the newest user message."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return str(message.text)
    return ""
