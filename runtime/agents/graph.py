"""An agent that is a user-written LangGraph graph: its models and tools are ours, its shape is theirs.

The graph is built once in each process. Which visit a model call or a tool call belongs to is kept
in a context variable, so that many visits can run through one graph at once.

A visit that broke off is made again from its top: the graph runs anew, and a model call that asks what was
asked before is answered from the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolCall
from langchain_core.tools import BaseTool, ToolException
from langgraph.errors import GraphRecursionError
from pydantic import SkipValidation

from admiralty.agents import Agent, Fleet
from admiralty.core.errors import (
    AdmiraltyError,
    DefinitionError,
    EffectUnknown,
    LimitExceeded,
    RunInterrupted,
    RunLost,
)
from admiralty.core.ids import new_id
from admiralty.core.ports import VisitStream
from admiralty.core.values import Event, ModelCall, ModelReply, Visit, VisitResult
from admiralty.runtime.agents.chat_model import Asked, ScheduledChatModel, forward
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
from admiralty.runtime.agents.running import Running, request_digest
from admiralty.runtime.agents.tools import GovernedTools, Surroundings
from admiralty.runtime.durable.naming import call_id, reply_id
from admiralty.tools import SharedState, Tool, ToolOutcome
from admiralty.tools.confirmation import fingerprint


@dataclass(frozen=True, kw_only=True)
class GraphContext:
    """What an agent's ``graph`` function is given to build from."""

    agent: Agent
    model: BaseChatModel
    """The scheduler as a chat model: streaming, tools and structured output work."""
    tools: list[BaseTool]
    """The agent's tools; each call is checked and recorded like any other."""
    prompt: str
    state: SharedState
    """What the tenant's agents share; to be used in the graph's nodes, in a visit."""


class FleetTool(BaseTool):
    """A tool of the fleet in LangChain's form. Checking the arguments is left to our executor."""

    execute: SkipValidation[Callable[[ToolCall], Awaitable[ToolOutcome]]]
    name_call: SkipValidation[Callable[[str, Mapping[str, Any]], str]]
    """Returns an id for a call that no model has given one."""
    loop: SkipValidation[Callable[[], asyncio.AbstractEventLoop]]
    handle_tool_error: Any = True

    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (tool_input, tool_call_id), {}

    def _run(self, arguments: dict[str, Any], call_id: str | None) -> str:
        return forward(self._arun(arguments, call_id), self.loop())

    async def _arun(self, arguments: dict[str, Any], call_id: str | None) -> str:
        call_id = call_id or self.name_call(self.name, arguments)
        outcome = await self.execute(ToolCall(name=self.name, args=arguments, id=call_id))
        if outcome.failed:
            raise ToolException(outcome.content)  # LangChain's way to mark the message as an error
        return outcome.content


class GraphAgent:
    """Runs visits to an agent that brings its own graph.

    The graph takes and returns ``{"messages": [...]}``; if what it returns has a key ``handoff``
    that names one of the agent's handoffs, the conversation goes on there.
    """

    def __init__(self, fleet: Fleet, agent: Agent, surroundings: Surroundings) -> None:
        self._fleet = fleet
        self._agent = agent
        self._running: ContextVar[Running] = ContextVar(f"visit of {agent.name}")
        self._tools = GovernedTools(agent, surroundings)
        self._effects = {tool.name: tool.effect for tool in self._tools.by_name.values()}
        context = GraphContext(
            agent=agent,
            model=ScheduledChatModel(
                scheduler=surroundings.scheduler,
                describe=self._describe,
                prepare=self._prepare,
                on_reply=self._on_reply,
                on_failure=self._on_failure,
                loop=self._loop,
            ),
            tools=[self._langchain_tool(tool) for tool in self._tools.by_name.values()],
            prompt=agent.instructions.text,
            state=SharedState(surroundings.state, lambda: self._running.get().progress.visit.caller),
        )
        build = agent.graph
        self._graph = build(context) if build else None
        if not hasattr(self._graph, "ainvoke"):
            raise DefinitionError(
                f"Agent({agent.name!r}).graph", self._graph, "is no graph", "Return builder.compile()."
            )

    async def visit(self, visit: Visit) -> VisitStream:
        # What a graph returns is told from what it was given by the messages' ids.
        given = tuple(
            message if message.id else message.model_copy(update={"id": new_id("msg")})
            for message in visit.messages
        )
        progress = Progress(visit=replace(visit, messages=given), session=deepcopy(dict(visit.session)))
        running = Running(progress=progress, loop=asyncio.get_running_loop())
        task = asyncio.create_task(self._run(running))
        try:
            while True:
                item = await running.happened.get()
                if isinstance(item, Event):
                    yield item
                elif isinstance(item, Pause):
                    for event in await running.rest():
                        yield event
                    yield progress.paused(item.request)
                    return
                elif isinstance(item, Exception):
                    raise item
                else:
                    result = self._result(running, item)
                    if result.handoff:
                        yield handoff_event(self._agent.name, result.handoff, "")
                    yield result
                    return
        finally:
            task.cancel()
            running.close()
            await asyncio.wait([task])

    async def _run(self, running: Running) -> None:
        self._running.set(running)
        visit = running.progress.visit
        try:
            state: Mapping[str, Any] = {
                "messages": [SystemMessage(self._agent.instructions.text), *visit.messages]
            }
            # Model calls are counted by themselves; this only ends a graph that goes round without any.
            config = {"recursion_limit": 10 * visit.steps_left + 10}
            graph = cast("Any", self._graph)
            if not visit.streaming:
                running.tell(await graph.ainvoke(state, config=config))
                return
            async for mode, item in graph.astream(state, config=config, stream_mode=["messages", "values"]):
                if mode == "values":
                    state = item
                elif running.is_new(item[0]) and (text := str(item[0].text)):
                    token = Event(type="token", data={"text": text, "agent": self._agent.name})
                    running.tell(token)
            running.tell(state)
        except GraphRecursionError as error:
            running.tell(LimitExceeded(f"{self._agent.name}: {error}"))
        except asyncio.CancelledError:
            running.tell(RunInterrupted(f"The graph of {self._agent.name} was cancelled."))
            raise
        except Exception as error:
            running.tell(error)

    def _result(self, running: Running, state: Mapping[str, Any]) -> VisitResult:
        known = {message.id for message in running.progress.visit.messages}
        new: list[BaseMessage] = []
        for message in state.get("messages", []):
            if message.id in known or isinstance(message, SystemMessage):
                continue
            if isinstance(message, AIMessage):
                message = message.model_copy(update={"name": self._agent.name})
            new.append(message)
        handoff = state.get("handoff")
        if handoff is not None and handoff not in self._agent.handoffs:
            raise DefinitionError(
                f"Agent({self._agent.name!r}).graph", handoff, "handed off to an agent not in its handoffs",
                f"Handoffs: {', '.join(self._agent.handoffs) or 'none'}.",
            )  # fmt: skip
        running.progress.messages = new
        return running.progress.result(handoff=handoff)

    def _describe(self) -> ModelCall:
        running = self._running.get()
        visit, agent = running.progress.visit, self._agent
        running.check()
        try:
            running.progress.count_step(agent.max_steps)
        except LimitExceeded as error:  # said past whatever the graph makes of errors
            running.end(error)
            raise
        return ModelCall(
            id=new_id("call"),
            caller=visit.caller,
            messages=(),
            tier=agent.tier,
            lowest_tier=agent.floor,
            max_output_tokens=agent.max_output_tokens,
            temperature=agent.temperature,
            deadline=visit.deadline,
            priority=agent.priority,
            session=running.progress.facts(),
            effects=self._effects,
            streaming=visit.streaming,
        )

    def _prepare(self, call: ModelCall) -> Asked:
        """Name the call by what it asks, and look whether that was answered before."""
        running = self._running.get()
        progress, agent = running.progress, self._agent.name
        key = running.key(request_digest(call))
        name = reply_id(progress.visit.caller.run_id, key)
        if (reply := progress.recall(key)) is not None:
            running.replayed.add(name)
            running.tell(step_event(agent, progress.steps, replayed=True))
            return Asked(call=call, reply=reply, reply_id=name)
        entry = progress.entry(key)
        if progress.visit.durability == "sync":
            call = replace(call, journal=entry)
        running.tell(step_event(agent, progress.steps, call_id=call.id))
        return Asked(call=call, entry=entry, reply_id=name)

    def _on_reply(self, asked: Asked, reply: ModelReply) -> ModelReply:
        running = self._running.get()
        running.tell(cost_event(self._agent.name, reply))
        return running.progress.keep(asked.entry, reply) if asked.entry else reply

    def _on_failure(self, call: ModelCall, error: AdmiraltyError) -> None:
        running = self._running.get()
        error.details.setdefault("agent", self._agent.name)
        if event := failed_cost_event(self._agent.name, call.tier, error):
            running.tell(event)
        if isinstance(error, RunLost):
            running.end(error)

    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._running.get().loop

    def _langchain_tool(self, tool: Tool) -> BaseTool:
        def name_call(name: str, arguments: Mapping[str, Any]) -> str:
            running = self._running.get()
            key = running.key(fingerprint(name, arguments)[:16])
            return call_id(running.progress.visit.caller.run_id, key)

        return FleetTool(
            name=tool.name,
            description=tool.description,
            args_schema=dict(tool.schema["function"]["parameters"]),
            execute=self._execute,
            name_call=name_call,
            loop=self._loop,
        )

    async def _execute(self, call: ToolCall) -> ToolOutcome:
        running, agent = self._running.get(), self._agent.name
        progress = running.progress
        running.check()
        replayed = progress.was_told(call["id"] or "")
        try:
            progress.count_calls(1)
            running.tell(tool_event(agent, call, status="started", replayed=replayed))
            with running.working():
                outcome = await self._tools.call(progress, call)
        except (Pause, EffectUnknown, RunLost, LimitExceeded) as ending:
            # A graph may make a message for the model of whatever its tools raise: this is none.
            running.end(ending)
            raise await running.held() from None
        progress.note_told(call, told(outcome))
        running.tell(tool_event(agent, call, status=outcome.status, outcome=outcome, replayed=replayed))
        if outcome.cost and not replayed:
            running.tell(tool_cost_event(agent, call, outcome))
        return outcome
