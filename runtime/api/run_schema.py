"""Runs, their events and effects as pydantic models: what comes in, and what goes out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from admiralty.core.values import Effect, EventType
from admiralty.runtime.api.conversation_schema import AttemptInfo, Problem
from admiralty.runtime.api.wire import Given, Shown
from admiralty.runtime.durable.values import RunStatus
from admiralty.runtime.effects import EffectStatus


class EventInfo(Shown):
    """Something that happened in a run."""

    seq: int
    """Its number in the conversation, from 1, without gaps. The oldest may have been removed by age."""
    run_id: str
    type: EventType
    data: dict[str, Any]
    at: float


class EventPage(Shown):
    """Events in their order."""

    object: Literal["list"]
    data: list[EventInfo]
    has_more: bool
    """Whether there are more: ask with ``after`` = the last ``seq``."""


class RunDetail(Shown):
    """A turn's run. Times are seconds since the epoch."""

    id: str
    object: Literal["run"]
    conversation_id: str
    turn: int
    status: RunStatus
    """``waiting``: for a person's approval. ``parked``: it broke off too often, or nobody knows what a tool
    call has done; look at ``error``, and retry it."""
    message: str
    """What the user said."""
    answer: str | None
    user: str | None
    """The end user for whom it acts."""
    attempt: int
    """Executions so far, those that went on after a pause included; 0: it has not begun."""
    attempts: list[AttemptInfo]
    """Why earlier executions broke off."""
    error: Problem | None
    started_at: float
    finished_at: float | None
    seconds: float | None
    deadline: float | None
    """After which nobody waits for the answer."""


class RunList(Shown):
    """A conversation's runs, in the order of their turns."""

    object: Literal["list"]
    data: list[RunDetail]


class RetriedRun(RunDetail):
    """A run that was queued again."""

    events: str
    """Where its events from now on are told."""


class EffectInfo(Shown):
    """A tool call, and what came of it. Times are seconds since the epoch."""

    object: Literal["effect"]
    run_id: str
    call_id: str
    digest: str
    """Of tool and arguments: tells calls apart that have one id."""
    agent: str
    agent_version: str
    tool: str
    effect: Effect
    arguments: dict[str, Any]
    status: EffectStatus
    """``begun``: it runs, or its process is gone. ``unknown``: nobody knows whether it was carried out.
    ``undone``: it was not, says a person, and it may be carried out by a retry."""
    result: str | None
    """What the model was told, where it is kept here; of calls that only read it stands in the events."""
    resolved_by: str | None
    """Who says so: ``tool``, ``outbox``, ``reconcile``, or a person."""
    begun_at: float
    finished_at: float | None


class EffectList(Shown):
    """A run's tool calls, in the order of their beginning."""

    object: Literal["list"]
    data: list[EffectInfo]


class EffectResolution(Given):
    """What a person has found out about a tool call."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"done": True, "result": "Order #W100 was cancelled at 10:41."}},
    )

    done: bool
    """Whether it was carried out. If not, a retry carries it out."""
    result: str | None = None
    """What the model reads, if it was."""
    digest: str | None = None
    """Which one, where several calls have one id."""
