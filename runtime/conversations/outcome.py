"""What the end of a turn says: its answer, what it cost, what of it later turns are told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from admiralty.agents import Fleet
from admiralty.core.money import Nanos, dollars_text, from_dollars
from admiralty.core.values import Event, JournalEntry
from admiralty.runtime.durable.values import Run, run_data
from admiralty.tools import Tool
from admiralty.tools.confirmation import fingerprint

BROKEN_OFF = "This turn ended before it had an answer. What stands above was done; the rest was not."
"""What agents of later turns read in the place of an answer that never came."""

NOT_DONE = "The turn ended before this was carried out."
NOBODY_KNOWS = "The turn ended while this was carried out. Nobody knows whether it was done: look it up."


def costs_of(costs: Sequence[Event]) -> dict[str, Any]:
    """Return what a turn used and cost, from its ``cost`` events."""
    tokens = {"input_tokens": 0, "output_tokens": 0}
    cost, unpriced = 0, 0
    for event in costs:
        for name in tokens:
            tokens[name] += event.data.get("usage", {}).get(name, 0)  # tools use no tokens
        if event.data["cost_usd"] is None:
            unpriced += 1
        else:
            cost += from_dollars(event.data["cost_usd"])
    return {
        "usage": tokens | {"total_tokens": sum(tokens.values())},
        "cost_usd": dollars_text(Nanos(cost)),
        "unpriced_calls": unpriced,
    }


def done_event(run: Run, message: AIMessage, costs: Mapping[str, Any], seconds: float) -> Event:
    """Return the last event of a run that has an answer."""
    return Event(
        type="done",
        data={
            **run_data(run),
            "status": "done",
            "message": str(message.text),
            "agent": message.name,
            "metadata": dict(message.response_metadata),
            **costs,
            "seconds": round(seconds, 4),
        },
    )


def failure_event(run: Run, document: Mapping[str, Any], costs: Mapping[str, Any]) -> Event:
    """Return the last event of a run that failed: it has cost something all the same."""
    named = {"cost_usd": costs["cost_usd"], "unpriced_calls": costs["unpriced_calls"]}
    return Event(type="error", data={**document, "run_id": run.id, **named})


def message_event(message: AIMessage, turn: int) -> Event:
    """Return the event that tells the answer."""
    return Event(
        type="message",
        data={
            "role": "assistant",
            "agent": message.name,
            "content": str(message.text),
            "turn": turn,
            "metadata": dict(message.response_metadata),
        },
    )


def answer_of(messages: Sequence[BaseMessage]) -> AIMessage | None:
    """Return the answer to the last user message; ``None`` if there is none."""
    for message in reversed(messages):
        if isinstance(message, AIMessage) and message.text:
            return message
        if isinstance(message, HumanMessage):
            break
    return None


def read_rows(run: Run, fleet: Fleet, called: Iterable[Event], now: float) -> list[dict[str, Any]]:
    """Return a row of ``effects`` for each tool call that could change nothing: the others have theirs."""
    rows = {}
    for event in called:
        data = event.data
        tool = _tool(fleet, data["agent"], data["name"])
        if tool is None or tool.effect != "read" or not data["call_id"]:
            continue
        digest = fingerprint(data["name"], data["arguments"])
        rows[data["call_id"], digest] = {
            "conversation_id": run.conversation_id,
            "run_id": run.id,
            "call_id": data["call_id"],
            "digest": digest,
            "tenant": run.tenant,
            "agent": data["agent"],
            "agent_version": fleet.agent(data["agent"]).version,
            "tool": data["name"],
            "effect": "read",
            "arguments": data["arguments"],
            "status": "finished",
            "outcome": {"status": data["status"]},  # what it said stands in the events
            "resolved_by": None,
            "fence": run.fence,
            "begun_at": now - data.get("seconds", 0.0),
            "finished_at": now,
        }
    return list(rows.values())


def _tool(fleet: Fleet, agent: str, name: str) -> Tool | None:
    for tool in fleet.agent(agent).tools:
        if isinstance(tool, Tool) and tool.name == name:
            return tool
    return None


def remembered(
    run: Run,
    steps: Mapping[str, JournalEntry],
    effects: Mapping[str, tuple[str, Mapping[str, Any] | None]],
    known: Sequence[BaseMessage],
) -> list[BaseMessage]:
    """Return what later turns are told of a run that has no answer, as far as ``known`` does not say it.

    ``steps``: in their order. ``effects``: status and outcome of its tool calls, by call id.
    """
    ids = {message.id for message in known}
    answered = {message.tool_call_id for message in known if isinstance(message, ToolMessage)}
    told: list[BaseMessage] = []
    if run.id not in ids:
        told.append(HumanMessage(run.message, id=run.id))
    for entry in sorted(steps.values(), key=_position):
        for key, outcome in entry.outcomes.items():
            call_id = key.rpartition(":")[0]
            _answer(told, answered, call_id, str(outcome["content"]))
        reply = entry.reply
        # A reply without calls changed nothing: an answer that was not given, or whom to ask next.
        if reply is None or not reply.message.tool_calls or reply.message.id in ids:
            continue
        _close(told, answered, effects)
        told.append(reply.message)
    _close([*known, *told], answered, effects, into=told)
    note = f"note-{run.id}"
    if note not in ids:
        told.append(AIMessage(BROKEN_OFF, id=note))
    return told


def _position(entry: JournalEntry) -> tuple[int, int]:
    """Return where a reply stands in its run; those of a graph's visit stay in the order they are in."""
    visit, _, rest = entry.key.partition(".")
    return int(visit), int(rest) if rest.isdigit() else 0


def _answer(told: list[BaseMessage], answered: set[str], call_id: str, content: str) -> None:
    if call_id not in answered:
        answered.add(call_id)
        told.append(ToolMessage(content, tool_call_id=call_id))


def _close(
    messages: Sequence[BaseMessage],
    answered: set[str],
    effects: Mapping[str, tuple[str, Mapping[str, Any] | None]],
    into: list[BaseMessage] | None = None,
) -> None:
    """Answer the tool calls that nothing has answered: providers refuse a call without its result."""
    target: Any = messages if into is None else into
    for message in list(messages):
        if not isinstance(message, AIMessage):
            continue
        for call in message.tool_calls:
            status, outcome = effects.get(call["id"] or "", ("", None))
            if outcome is not None:
                content = str(outcome.get("content", ""))
            else:
                content = NOBODY_KNOWS if status in ("begun", "unknown") else NOT_DONE
            _answer(target, answered, call["id"] or "", content)
