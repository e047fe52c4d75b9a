"""The events of a visit, as clients see them."""

from __future__ import annotations

from typing import Any

from langchain_core.messages.tool import ToolCall

from admiralty.core.errors import AdmiraltyError, OutputInvalid
from admiralty.core.money import dollars_text
from admiralty.core.values import Event, ModelReply, Tier, Usage
from admiralty.runtime.problems import problem
from admiralty.tools import ToolOutcome


def cost_event(agent: str, reply: ModelReply) -> Event:
    """Return the event that tells what a model call used."""
    cost = None if reply.cost is None else dollars_text(reply.cost)
    return _cost(agent, reply.model, reply.tier, reply.usage, cost, reply.seconds)


def failed_cost_event(agent: str, tier: Tier, error: AdmiraltyError) -> Event | None:
    """Return the event that tells what a model call cost that failed; ``None`` where it cost nothing.

    The scheduler notes it in the error's ``cost_usd``; an invalid answer brings its usage along.
    """
    cost: str | None = error.details.get("cost_usd")
    reply = error.reply if isinstance(error, OutputInvalid) else None
    if reply is not None:
        if cost is None and reply.cost is not None:
            cost = dollars_text(reply.cost)
        return _cost(agent, reply.model, reply.tier, reply.usage, cost, reply.seconds)
    if cost is None:
        return None
    return _cost(agent, str(error.details.get("model", "")), tier, Usage(), cost, 0.0)


def tool_cost_event(agent: str, call: ToolCall, outcome: ToolOutcome) -> Event:
    """Return the event that tells what a tool call cost."""
    return Event(
        type="cost",
        data={
            "agent": agent,
            "tool": call["name"],
            "call_id": call["id"],
            "cost_usd": dollars_text(outcome.cost),
            "seconds": round(outcome.seconds, 4),
        },
    )


def _cost(agent: str, model: str, tier: str, usage: Usage, cost: str | None, seconds: float) -> Event:
    return Event(
        type="cost",
        data={
            "agent": agent,
            "model": model,
            "tier": tier,
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_tokens": usage.cached_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
            },
            "cost_usd": cost,
            "seconds": round(seconds, 4),
        },
    )


def step_event(agent: str, step: int, *, call_id: str = "", replayed: bool = False) -> Event:
    """Return the event that tells of a model call; ``replayed``: of one that is answered from the record."""
    data: dict[str, Any] = {"agent": agent, "step": step}
    if call_id:
        data["call_id"] = call_id
    return Event(type="step", data=_marked(data, replayed))


def handoff_event(source: str, target: str, reason: str) -> Event:
    """Return the event that tells of a handoff."""
    return Event(type="handoff", data={"source": source, "target": target, "reason": reason})


def tool_event(
    agent: str,
    call: ToolCall,
    *,
    status: str,
    outcome: ToolOutcome | None = None,
    replayed: bool = False,
) -> Event:
    """Return the event that tells of a tool call's start or end; ``replayed``: of one that is told again."""
    data: dict[str, Any] = {
        "agent": agent,
        "call_id": call["id"],
        "name": call["name"],
        "arguments": call["args"],
        "status": status,
    }
    if outcome is not None:
        data |= {"result": outcome.content, "seconds": round(outcome.seconds, 4)}
        if outcome.refusal is not None:
            data["error"] = problem(outcome.refusal)
    return Event(type="tool", data=_marked(data, replayed))


def told(outcome: ToolOutcome) -> dict[str, Any]:
    """Return what came of a tool call, as it is kept with the next reply."""
    return {
        "status": outcome.status,
        "content": outcome.content,
        "ran": outcome.ran,
        "seconds": outcome.seconds,
    }


def _marked(data: dict[str, Any], replayed: bool) -> dict[str, Any]:
    return {**data, "replayed": True} if replayed else data
