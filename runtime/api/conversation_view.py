"""A conversation's rows as clients read them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from admiralty.core.money import Nanos, dollars_text
from admiralty.core.values import Usage
from admiralty.runtime.api.conversation_schema import (
    AttemptInfo,
    ConversationDetail,
    ConversationInfo,
    HandoffInfo,
    MessageInfo,
    Problem,
    RunInfo,
    StepInfo,
    ToolCallInfo,
    UsageInfo,
    UsageLineInfo,
)
from admiralty.runtime.conversations.service import ConversationView
from admiralty.runtime.durable.describe import seconds_of
from admiralty.runtime.durable.values import Run
from admiralty.runtime.ledger.reports import UsageLine
from admiralty.runtime.storage.conversations import Conversation
from admiralty.runtime.storage.events import StoredEvent


def conversation_info(conversation: Conversation) -> ConversationInfo:
    """Return a conversation for a list."""
    return ConversationInfo(**_base(conversation))


def conversation_detail(view: ConversationView) -> ConversationDetail:
    """Return a conversation with everything in it."""
    happened = [(stored.event.type, {**stored.event.data, **_place(stored)}) for stored in view.events]
    return ConversationDetail(
        **_base(view.conversation),
        status=_status(view.runs),
        last_event=view.conversation.events,
        messages=[MessageInfo(**data) for kind, data in happened if kind == "message"],
        steps=[StepInfo(**data) for kind, data in happened if kind == "step"],
        tools=_tool_calls(data for kind, data in happened if kind == "tool"),
        handoffs=[HandoffInfo(**data) for kind, data in happened if kind == "handoff"],
        runs=[_run_info(run) for run in view.runs],
        usage=UsageInfo(**_sum(view.usage)),
        usage_by=[
            UsageLineInfo(
                agent=line.agent, tier=line.tier, model=line.model, tool=line.tool or None, **_sum([line])
            )
            for line in view.usage
        ],
    )


def _status(runs: Sequence[Run]) -> Literal["idle", "running", "waiting", "queued"]:
    """Return how a conversation stands: what is nearest to an answer in it."""
    statuses = {run.status for run in runs}
    if "running" in statuses:
        return "running"
    if "waiting" in statuses:
        return "waiting"
    return "queued" if "queued" in statuses else "idle"


def _base(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "fleet": conversation.fleet,
        "user": conversation.user,
        "metadata": dict(conversation.metadata),
        "turns": conversation.turns,
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
    }


def _place(stored: StoredEvent) -> dict[str, Any]:
    return {"seq": stored.seq, "run_id": stored.run_id, "at": stored.at}


def _tool_calls(happened: Iterable[dict[str, Any]]) -> list[ToolCallInfo]:
    """Return one entry for each call: its end replaces its beginning."""
    calls: dict[tuple[str, Any], dict[str, Any]] = {}
    for data in happened:
        key = (data["run_id"], data["call_id"])
        calls[key] = {**calls.get(key, {}), **data}
    return [ToolCallInfo(**data) for data in calls.values()]


def _run_info(run: Run) -> RunInfo:
    return RunInfo(
        id=run.id,
        turn=run.turn,
        status=run.status,
        attempt=run.attempt,
        attempts=[
            AttemptInfo(**{key: one[key] for key in ("attempt", "at", "reason")}) for one in run.attempts
        ],
        started_at=run.started_at,
        finished_at=run.finished_at,
        seconds=seconds_of(run),
        error=None if run.error is None else Problem(**run.error),
    )


def _sum(lines: Sequence[UsageLine]) -> dict[str, Any]:
    used = sum((line.usage for line in lines), Usage())
    return {
        "model_calls": sum(line.calls for line in lines if not line.tool),
        "tool_calls": sum(line.calls for line in lines if line.tool),
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cached_tokens": used.cached_tokens,
        "reasoning_tokens": used.reasoning_tokens,
        "total_tokens": used.total_tokens,
        "cost_usd": dollars_text(Nanos(sum(line.cost for line in lines))),
        "unpriced_calls": sum(line.unpriced_calls for line in lines),
    }
