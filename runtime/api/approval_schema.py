"""Approvals as pydantic models: what comes in, and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from admiralty.core.values import ApprovalKind
from admiralty.runtime.api.wire import Given, Shown
from admiralty.runtime.approvals import ApprovalStatus
from admiralty.runtime.approvals.store import MAX_REASON


class NewDecision(Given):
    """What a person decides."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"verdict": "approve", "arguments": {"amount": "20.00"}, "reason": "20 are enough."}
        },
    )

    verdict: Literal["approve", "reject"]
    arguments: dict[str, Any] | None = None
    """The tool is called with these instead; they must fit its schema. Not given: as they are."""
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
    """The agent reads it if you reject. If the agent itself asked, it is your answer."""


class ApprovalInfo(Shown):
    """A tool call that waits for a person, or waited. Times are seconds since the epoch."""

    id: str
    object: Literal["approval"]
    status: ApprovalStatus
    """``expired``: nobody decided, and so it was rejected. ``withdrawn``: its run was ended meanwhile."""
    kind: ApprovalKind
    """Who asks: the ``tool``, a ``policy``, or the ``agent`` itself."""
    fleet: str
    agent: str
    agent_version: str
    tool: str
    arguments: dict[str, Any] | None
    """What the tool is to be given; ``null`` to keys that are no admin's."""
    edited: dict[str, Any] | None
    """What a person changed that to; ``null``: it stayed, or the key is no admin's."""
    reason: str
    """Why a person is asked; of an agent that asks itself, its question."""
    default: Literal["reject", "approve"]
    """What holds if nobody decides in time."""
    user: str | None
    """The end user for whom the run acts."""
    conversation_id: str
    run_id: str
    call_id: str
    created_at: float
    expires_at: float
    decided_at: float | None
    decided_by: str | None
    """The key, and in brackets the person that its request named; ``operator``; ``expiry``: nobody."""
    decision_reason: str | None


class ApprovalList(Shown):
    """Approvals, newest first."""

    object: Literal["list"]
    data: list[ApprovalInfo]
    has_more: bool
    """Whether there are more: ask with ``after`` = the last id."""
    counts: dict[ApprovalStatus, int]
    """How many there are of each status in all."""
