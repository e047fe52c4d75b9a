"""One agent's part of a turn: ask the model, run the tools it wants, until it answers or hands off.

A visit is a function of its messages. It knows neither where it runs nor which model answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import ToolCall
from pydantic import ValidationError

from admiralty.agents import Agent, Fleet
from admiralty.core.errors import (
    AdmiraltyError,
    DeadlineExceeded,
    LimitExceeded,
    OutputInvalid,
    ProviderUnavailable,
)
from admiralty.core.ids import new_id
from admiralty.core.ports import VisitStream
from admiralty.core.values import Event, ModelCall, ModelReply, TokenDelta, Visit
from admiralty.runtime.agents.events import (
    cost_event,
    failed_cost_event,
    handoff_event,
    tool_cost_event,
    tool_event,
)
from admiralty.runtime.agents.progress import Progress
from admiralty.runtime.agents.tools import GovernedTools, Surroundings
from admiralty.tools import ToolOutcome
from admiralty.tools.executor import explain

HANDOFF = "handoff_to_"
"""Prefix of the tools by which an agent without structured output hands off."""

OUTPUT_ATTEMPTS = 2
"""How often a model is asked for structured output before its answer counts as invalid."""


class StandardAgent:
    """Runs visits to one agent with the standard loop."""

    def __init__(self, fleet: Fleet, agent: Agent, surroundings: Surroundings) -> None:
        self._agent = agent
        self._scheduler = surroundings.scheduler
        self._tools = GovernedTools(agent, surroundings)
        self._system = SystemMessage(_instructions(fleet, agent))
        self._schemas = tuple(tool.schema for tool in self._tools.by_name.values())
        self._effects = {tool.name: tool.effect for tool in self._tools.by_name.values()}
        if agent.output is None:
            self._schemas += tuple(_handoff_tool(fleet.agent(name)) for name in agent.handoffs)
        self._output_schema = agent.output_schema

    async def visit(self, visit: Visit) -> VisitStream:
        progress = Progress(visit=visit, session=dict(visit.session))
        run = self._structured(progress) if self._agent.output else self._loop(progress)
        async with aclosing(run) as stream:
            async for item in stream:
                yield item

    async def _loop(self, progress: Progress) -> VisitStream:
        while True:
            reply: ModelReply | None = None
            async with aclosing(self._ask(progress)) as stream:
                async for item in stream:
                    if isinstance(item, ModelReply):
                        reply = item
                    else:
                        yield item
            if reply is None or not reply.message.tool_calls:
                break
            calls = reply.message.tool_calls
            async with aclosing(self._run_tools(progress, calls)) as events:
                async for event in events:
                    yield event
            if handoff := _wanted_handoff(calls, self._agent):
                target, reason = handoff
                yield handoff_event(self._agent.name, target, reason)
                yield progress.result(handoff=target)
                return
        yield progress.result()

    async def _structured(self, progress: Progress) -> VisitStream:
        """Ask for the declared output; say what was wrong and ask once more if it does not fit."""
        problem = ""
        for _ in range(OUTPUT_ATTEMPTS):
            reply: ModelReply | None = None
            try:
                async with aclosing(self._ask(progress, keep=False, problem=problem)) as stream:
                    async for item in stream:
                        if isinstance(item, ModelReply):
                            reply = item
                        elif item.type != "token":
                            yield item
                content, target = self._parse(reply)
            except OutputInvalid as error:
                problem = error.message
                continue
            if target is not None:
                yield handoff_event(self._agent.name, target, str(content.get("reason") or ""))
            elif reply is not None:
                progress.messages.append(_named(reply, self._agent.name))
            yield progress.result(handoff=target, output=content)
            return
        raise OutputInvalid(f"{self._agent.name} gave no answer of the form it declares: {problem}")

    def _parse(self, reply: ModelReply | None) -> tuple[dict[str, Any], str | None]:
        """Return the declared output as JSON, and whom it hands off to."""
        output = self._agent.output
        if output is None or reply is None:
            raise OutputInvalid("there was no answer")
        try:
            content = output.model_validate_json(str(reply.message.text)).model_dump(mode="json")
        except ValidationError as error:
            raise OutputInvalid(explain(error)) from error
        target = content.get("handoff") if self._agent.handoffs else None
        if target is not None and target not in self._agent.handoffs:
            raise OutputInvalid(f"handoff: {target!r} is none of {', '.join(self._agent.handoffs)}")
        return content, target

    async def _ask(self, progress: Progress, *, keep: bool = True, problem: str = "") -> Any:
        """Make one model call: yield its events, its tokens, and last the reply itself.

        ``problem`` is what was wrong with the answer before; only the model is told of it.
        """
        visit, agent = progress.visit, self._agent
        if progress.steps >= min(agent.max_steps, visit.steps_left):
            raise LimitExceeded(f"{agent.name} made {progress.steps} model calls without an answer.")
        if visit.deadline is not None and time.time() > visit.deadline:
            raise DeadlineExceeded("The turn took longer than its limit.")
        progress.steps += 1
        again = [HumanMessage(f"Your last answer was no use: {problem}. Answer again.")] if problem else []
        call = ModelCall(
            id=new_id("call"),
            caller=visit.caller,
            messages=(self._system, *visit.messages, *progress.messages, *again),
            tools=self._schemas,
            effects=self._effects,
            output_schema=self._output_schema,
            tier=agent.tier,
            lowest_tier=agent.floor,
            max_output_tokens=agent.max_output_tokens,
            temperature=agent.temperature,
            deadline=visit.deadline,
            priority=agent.priority,
            session=progress.facts(),
            streaming=visit.streaming and self._output_schema is None,
        )
        yield Event(type="step", data={"agent": agent.name, "step": progress.steps, "call_id": call.id})
        reply: ModelReply | None = None
        try:
            if not call.streaming:
                reply = await self._scheduler.complete(call)
            else:
                async with aclosing(self._scheduler.stream(call)) as stream:
                    async for chunk in stream:
                        if isinstance(chunk, TokenDelta):
                            yield Event(type="token", data={"text": chunk.text, "agent": agent.name})
                        else:
                            reply = chunk
        except AdmiraltyError as error:
            error.details.setdefault("agent", agent.name)
            if event := failed_cost_event(agent.name, call.tier, error):
                yield event
            raise
        if reply is None:
            raise ProviderUnavailable("The model's answer broke off before its end.")
        yield cost_event(agent.name, reply)
        if keep:
            progress.messages.append(_named(reply, agent.name))
        yield reply

    async def _run_tools(self, progress: Progress, calls: Sequence[ToolCall]) -> Any:
        """Run tool calls: reads side by side, everything else one after the other, in order."""
        for call in calls:
            yield tool_event(self._agent.name, call, status="started")
        tools = self._tools.by_name
        only_reads = all(
            (tool := tools.get(call["name"])) is not None and tool.effect == "read" for call in calls
        )
        if only_reads and len(calls) > 1:
            outcomes = await asyncio.gather(*(self._run_tool(progress, call) for call in calls))
        else:
            outcomes = [await self._run_tool(progress, call) for call in calls]
        for call, outcome in zip(calls, outcomes, strict=True):
            yield tool_event(self._agent.name, call, status=outcome.status, outcome=outcome)
            if outcome.cost:
                yield tool_cost_event(self._agent.name, call, outcome)
            progress.messages.append(
                ToolMessage(
                    content=outcome.content,
                    tool_call_id=call["id"] or "",
                    name=call["name"],
                    status="error" if outcome.failed else "success",
                )
            )

    async def _run_tool(self, progress: Progress, call: ToolCall) -> ToolOutcome:
        name = call["name"]
        if name.startswith(HANDOFF) and name.removeprefix(HANDOFF) in self._agent.handoffs:
            return ToolOutcome(status="ok", content=f"{name.removeprefix(HANDOFF)} goes on.", seconds=0.0)
        return await self._tools.call(progress, call)


def _instructions(fleet: Fleet, agent: Agent) -> str:
    text = agent.instructions.text
    if agent.handoffs:
        lines = [f"- {name}: {fleet.agent(name).description or name}" for name in agent.handoffs]
        text += "\n\nYou may hand the conversation over to:\n" + "\n".join(lines)
    return text


def _handoff_tool(target: Agent) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": f"{HANDOFF}{target.name}",
            "description": f"Hand the conversation over to {target.name}: {target.description}",
            "parameters": {
                "type": "object",
                "properties": {"reason": {"type": "string", "description": "Why, in a few words."}},
                "required": ["reason"],
            },
        },
    }


def _wanted_handoff(calls: Sequence[ToolCall], agent: Agent) -> tuple[str, str] | None:
    """Return the first handoff's target and reason."""
    for call in calls:
        target = call["name"].removeprefix(HANDOFF)
        if call["name"].startswith(HANDOFF) and target in agent.handoffs:
            return target, str(call["args"].get("reason", ""))
    return None


def _named(reply: ModelReply, agent: str) -> AIMessage:
    message = reply.message
    return AIMessage(
        content=message.content,
        tool_calls=message.tool_calls,
        id=message.id,
        name=agent,
        response_metadata={"model": reply.model, **reply.metadata},
    )
