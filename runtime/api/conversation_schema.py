"""The native conversation resource as pydantic models: what comes in, and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from admiralty.runtime.api.wire import Given, Shown
from admiralty.runtime.conversations.service import MAX_TIMEOUT
from admiralty.runtime.durable.values import RunStatus, Strategy


class NewConversation(Given):
    """What a conversation is begun with."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"user": "yusuf_rossi_9620", "metadata": {"channel": "web"}}},
    )

    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Yours; it is kept and shown. At most 16 KB."""
    user: str | None = None
    """The end user for whom you ask."""


class NewMessage(Given):
    """A user's message."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"content": "Where is my order #W100?"}}
    )

    content: Annotated[str, Field(min_length=1)]
    agent: Annotated[str | None, Field(max_length=48)] = None
    """Begin with this agent rather than with the fleet's entry."""
    user: str | None = None
    """The end user for whom you ask."""
    multitask_strategy: Strategy | None = None
    """What becomes of this message while an earlier one is being answered: ``reject`` it with 409,
    ``enqueue`` it, or let it ``interrupt`` the earlier turn or ``rollback`` it (forget it, unless it has
    changed something). By default what the fleet says."""
    timeout_seconds: Annotated[float | None, Field(gt=0, le=MAX_TIMEOUT)] = None
    """Nobody waits for the answer any longer: the turn, and what it asks of models, ends by then."""


class Problem(Shown):
    """An RFC 9457 problem document. Some carry further members, such as ``errors``."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int | None = None
    detail: str | None = None
    code: str
    retry_after: float | None = None
    """Seconds."""


class ConversationInfo(Shown):
    """A conversation, without what was said in it. Times are seconds since the epoch."""

    id: str
    object: Literal["conversation"] = "conversation"
    fleet: str
    user: str | None
    metadata: dict[str, Any]
    turns: int
    created_at: float
    updated_at: float


class ConversationList(Shown):
    """Conversations, last changed first."""

    object: Literal["list"] = "list"
    data: list[ConversationInfo]


class _Happened(Shown):
    seq: int
    """Number of the event in the conversation, from 1, without gaps."""
    run_id: str
    at: float


class MessageInfo(_Happened):
    """Something that was said."""

    role: Literal["user", "assistant"]
    content: str
    turn: int
    agent: str | None = None
    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]
    """What the provider says about an answer: model, method, citations."""


class StepInfo(_Happened):
    """A model call that an agent began."""

    agent: str
    step: int
    call_id: str | None = None


class ToolCallInfo(_Happened):
    """A tool call, with its outcome once there is one."""

    call_id: str | None
    agent: str
    name: str
    arguments: Any
    status: str
    """``started``, then ``ok``, ``error``, ``confirmation_required``, ``denied`` or ``budget_exceeded``."""
    result: str | None = None
    error: Problem | None = None
    """Why it was refused: by the policy, or for want of money."""
    seconds: float | None = None


class HandoffInfo(_Happened):
    """One agent handing over to another."""

    source: str
    target: str
    reason: str


class UsageInfo(Shown):
    """Tokens and cost of model calls, and of tool calls that had a price."""

    model_calls: int
    tool_calls: int
    """Those that had a price; ``tools`` lists all."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    """Part of the input."""
    reasoning_tokens: int
    """Part of the output."""
    total_tokens: int
    cost_usd: str
    """A decimal in text, exact."""
    unpriced_calls: int
    """Calls whose price is not known: they are not in ``cost_usd``."""


class UsageLineInfo(UsageInfo):
    """The part of one agent with one model, or with one tool."""

    agent: str
    tier: str
    """Empty for tools."""
    model: str
    """Empty for tools."""
    tool: str | None = None


class AttemptInfo(Shown):
    """An execution of a run that broke off."""

    attempt: int
    at: float
    reason: str


class RunInfo(Shown):
    """What answers one turn."""

    id: str
    turn: int
    status: RunStatus
    attempt: int
    """Executions so far, those that went on after a pause included."""
    attempts: list[AttemptInfo]
    """Why earlier executions broke off."""
    started_at: float
    finished_at: float | None
    seconds: float | None
    error: Problem | None


class ConversationDetail(ConversationInfo):
    """A conversation with all that happened in it so far."""

    status: Literal["idle", "running", "waiting", "queued"]
    """``running`` while a message is being answered, ``waiting`` while that needs a person's approval,
    ``queued`` before it goes on. See the last run for how an ``idle`` one ended."""
    last_event: int
    """Number of the last event."""
    messages: list[MessageInfo]
    steps: list[StepInfo]
    tools: list[ToolCallInfo]
    handoffs: list[HandoffInfo]
    runs: list[RunInfo]
    usage: UsageInfo
    usage_by: list[UsageLineInfo]
    """``usage``, split by agent, tier and model, and by tool."""


class TurnUsage(Shown):
    """Tokens of all model calls of a turn."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class WaitingTurn(Shown):
    """A turn that goes on when a person has decided: the answer is then found in the conversation."""

    status: Literal["waiting"]
    run_id: str
    conversation_id: str
    turn: int
    approval: dict[str, Any]
    """What the ``approval`` event holds: ``approval_id``, ``agent``, ``tool``, ``arguments``, ``reason``,
    ``expires_at``."""
    usage: TurnUsage
    """Of the turn so far."""
    cost_usd: str
    unpriced_calls: int


class TurnResult(Shown):
    """An answered turn: what the ``done`` event holds."""

    run_id: str
    conversation_id: str
    turn: int
    status: Literal["done"]
    message: str
    agent: str | None
    metadata: dict[str, Any]
    usage: TurnUsage
    cost_usd: str
    unpriced_calls: int
    seconds: float
