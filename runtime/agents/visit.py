"""One agent's part of a turn: ask the model, run the tools it wants, until it answers or hands off.

A visit is a function of its messages and of what earlier executions have recorded: it is made again from its
top, and asks and does only what is not recorded. It knows neither where it runs nor which model answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from copy import deepcopy
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import ToolCall
from pydantic import ValidationError

from admiralty.agents import Agent, Fleet
from admiralty.core.errors import (
    AdmiraltyError,
    DeadlineExceeded,
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
    step_event,
    told,
    tool_cost_event,
    tool_event,
)
from admiralty.runtime.agents.pause import Pause
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
        progress = Progress(visit=visit, session=deepcopy(dict(visit.session)))
        run = self._structured(progress) if self._agent.output else self._loop(progress)
        try:
            async with aclosing(run) as stream:
                async for item in stream:
                    yield item
        except Pause as pause:
            yield progress.paused(pause.request)

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
            for call in calls:
                if (target := self._handoff(call)) is not None:
                    yield handoff_event(self._agent.name, target, str(call["args"].get("reason", "")))
                    yield progress.result(handoff=target)
                    return
        yield progress.result()

    async def _structured(self, progress: Progress) -> VisitStream:
        """Ask for the declared output; say what was wrong and ask once more if it does not fit."""
        problem = ""
        for _ in range(OUTPUT_ATTEMPTS):
            reply: ModelReply | None = None
            if not progress.recorded(_key(progress)) and progress.recorded(_key(progress, 2)):
                # A call that brought no reply is not recorded; that another followed it is.
                progress.count_step(self._agent.max_steps)
                continue
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
        key = _key(progress)
        progress.count_step(agent.max_steps)
        if visit.deadline is not None and time.time() > visit.deadline:
            raise DeadlineExceeded("The turn took longer than its limit.")
        if (reply := progress.recall(key)) is not None:
            yield step_event(agent.name, progress.steps, replayed=True)
            if keep:
                progress.messages.append(_named(reply, agent.name))
            yield reply
            return
        entry = progress.entry(key)
        progress.live = True
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
            journal=entry if visit.durability == "sync" else None,
        )
        yield step_event(agent.name, progress.steps, call_id=call.id)
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
        reply = progress.keep(entry, reply)
        if keep:
            progress.messages.append(_named(reply, agent.name))
        yield reply

    async def _run_tools(self, progress: Progress, calls: Sequence[ToolCall]) -> Any:
        """Run tool calls: reads side by side, everything else one after the other, in order."""
        made = sum(self._handoff(call) is None for call in calls)
        progress.count_calls(made)
        # Of a reply that another one follows in the record, all calls are.
        replayed = progress.recorded(_key(progress))
        again = [replayed or progress.was_told(call["id"] or "") for call in calls]
        for call, old in zip(calls, again, strict=True):
            yield tool_event(self._agent.name, call, status="started", replayed=old)
        results = await self._results(progress, calls)
        for call, outcome, old in zip(calls, results, again, strict=False):
            if isinstance(outcome, Exception):
                continue
            yield tool_event(self._agent.name, call, status=outcome.status, outcome=outcome, replayed=old)
            if outcome.cost and not old:
                yield tool_cost_event(self._agent.name, call, outcome)
            progress.messages.append(
                ToolMessage(
                    content=outcome.content,
                    tool_call_id=call["id"] or "",
                    name=call["name"],
                    status="error" if outcome.failed else "success",
                )
            )
        errors = [result for result in results if isinstance(result, Exception)]
        for error in sorted(errors, key=lambda error: isinstance(error, Pause)):
            raise error  # a pause only where nothing went wrong

    async def _results(self, progress: Progress, calls: Sequence[ToolCall]) -> list[ToolOutcome | Exception]:
        """Make tool calls; return what came of them, up to the first that raised where they wait in line."""
        tools = self._tools.by_name
        only_reads = all(
            (tool := tools.get(call["name"])) is not None and tool.effect == "read" for call in calls
        )
        if only_reads and len(calls) > 1:  # to the end of all of them: what has begun is noted
            work = [self._run_tool(progress, call) for call in calls]
            together = await asyncio.gather(*work, return_exceptions=True)
            return [_no_exit(result) for result in together]
        results: list[ToolOutcome | Exception] = []
        for call in calls:
            try:
                results.append(await self._run_tool(progress, call))
            except Exception as error:
                return [*results, error]
        return results

    async def _run_tool(self, progress: Progress, call: ToolCall) -> ToolOutcome:
        if (target := self._handoff(call)) is not None:
            outcome = ToolOutcome(status="ok", content=f"{target} goes on.", seconds=0.0)
        else:
            outcome = await self._tools.call(progress, call)
        progress.note_told(call, told(outcome))
        return outcome

    def _handoff(self, call: ToolCall) -> str | None:
        """Return the agent that a call hands off to."""
        target = call["name"].removeprefix(HANDOFF)
        return target if call["name"].startswith(HANDOFF) and target in self._agent.handoffs else None


def _no_exit(result: ToolOutcome | BaseException) -> ToolOutcome | Exception:
    if isinstance(result, ToolOutcome | Exception):
        return result
    raise result


def _key(progress: Progress, following: int = 1) -> str:
    """Return the key of the visit's next model call, or of one after it."""
    return f"{progress.visit.number}.{progress.steps + following}"


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


def _named(reply: ModelReply, agent: str) -> AIMessage:
    message = reply.message
    return AIMessage(
        content=message.content,
        tool_calls=message.tool_calls,
        id=message.id,
        name=agent,
        response_metadata={"model": reply.model, **reply.metadata},
    )
