"""An agent that is a user-written LangGraph graph: its models and tools are ours, its shape is theirs.

The graph is built once in each process. Which visit a model call or a tool call belongs to is kept
in a context variable, so that many visits can run through one graph at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage, ToolCall
from langchain_core.tools import BaseTool, StructuredTool

from admiralty.agents import Agent, Fleet
from admiralty.core.errors import DefinitionError, LimitExceeded
from admiralty.core.ids import new_id
from admiralty.core.ports import VisitStream
from admiralty.core.values import Event, ModelCall, ModelReply, Visit, VisitResult
from admiralty.runtime.agents.chat_model import ScheduledChatModel
from admiralty.runtime.agents.visit import (
    Progress,
    Surroundings,
    cost_event,
    handoff_event,
    tool_context,
    tool_event,
)
from admiralty.tools import Tool, ToolExecutor


@dataclass(frozen=True, kw_only=True)
class GraphContext:
    """What an agent's ``graph`` function is given to build from."""

    agent: Agent
    model: BaseChatModel
    """The scheduler as a chat model: streaming, tools and structured output work."""
    tools: list[BaseTool]
    """The agent's tools; each call is checked and recorded like any other."""
    prompt: str


@dataclass(kw_only=True)
class _Running:
    progress: Progress
    happened: asyncio.Queue[Event | BaseException | Mapping[str, Any]]


class GraphAgent:
    """Runs visits to an agent that brings its own graph.

    The graph takes and returns ``{"messages": [...]}``; if what it returns has a key ``handoff``
    that names one of the agent's handoffs, the conversation goes on there.
    """

    def __init__(self, fleet: Fleet, agent: Agent, surroundings: Surroundings) -> None:
        self._fleet = fleet
        self._agent = agent
        self._around = surroundings
        self._running: ContextVar[_Running] = ContextVar(f"visit of {agent.name}")
        self._executor = ToolExecutor(tool for tool in agent.tools if isinstance(tool, Tool))
        context = GraphContext(
            agent=agent,
            model=ScheduledChatModel(
                scheduler=surroundings.scheduler, describe=self._describe, on_reply=self._on_reply
            ),
            tools=[self._langchain_tool(tool) for tool in self._executor.tools.values()],
            prompt=agent.instructions.text,
        )
        build = agent.graph
        self._graph = build(context) if build else None
        if not hasattr(self._graph, "ainvoke"):
            raise DefinitionError(
                f"Agent({agent.name!r}).graph", self._graph, "is no graph", "Return builder.compile()."
            )

    async def visit(self, visit: Visit) -> VisitStream:
        running = _Running(
            progress=Progress(visit=visit, session=dict(visit.session)), happened=asyncio.Queue()
        )
        task = asyncio.create_task(self._run(running))
        try:
            while True:
                item = await running.happened.get()
                if isinstance(item, Event):
                    yield item
                elif isinstance(item, BaseException):
                    raise item
                else:
                    result = self._result(running, item)
                    if result.handoff:
                        yield handoff_event(self._agent.name, result.handoff, "")
                    yield result
                    return
        finally:
            task.cancel()

    async def _run(self, running: _Running) -> None:
        self._running.set(running)
        visit = running.progress.visit
        try:
            state: Mapping[str, Any] = {
                "messages": [SystemMessage(self._agent.instructions.text), *visit.messages]
            }
            config = {"recursion_limit": 2 * visit.steps_left}
            graph = cast("Any", self._graph)
            if not visit.streaming:
                running.happened.put_nowait(await graph.ainvoke(state, config=config))
                return
            async for mode, item in graph.astream(state, config=config, stream_mode=["messages", "values"]):
                if mode == "values":
                    state = item
                elif isinstance(item[0], AIMessageChunk) and (text := str(item[0].text)):
                    token = Event(type="token", data={"text": text, "agent": self._agent.name})
                    running.happened.put_nowait(token)
            running.happened.put_nowait(state)
        except Exception as error:
            if type(error).__name__ == "GraphRecursionError":
                error = LimitExceeded(f"{self._agent.name}: {error}")
            running.happened.put_nowait(error)

    def _result(self, running: _Running, state: Mapping[str, Any]) -> VisitResult:
        known = {id(message) for message in running.progress.visit.messages}
        ids = {message.id for message in running.progress.visit.messages if message.id}
        new: list[BaseMessage] = []
        for message in state.get("messages", []):
            if id(message) in known or (message.id and message.id in ids):
                continue
            if isinstance(message, SystemMessage):
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
        if running.progress.steps >= min(agent.max_steps, visit.steps_left):
            raise LimitExceeded(f"{agent.name} made {running.progress.steps} model calls without an answer.")
        running.progress.steps += 1
        call_id = new_id("call")
        running.happened.put_nowait(
            Event(type="step", data={"agent": agent.name, "step": running.progress.steps, "call_id": call_id})
        )
        return ModelCall(
            id=call_id,
            caller=visit.caller,
            messages=(),
            tier=agent.tier,
            max_output_tokens=agent.max_output_tokens,
            temperature=agent.temperature,
            deadline=visit.deadline,
            streaming=visit.streaming,
        )

    def _on_reply(self, reply: ModelReply) -> None:
        self._running.get().happened.put_nowait(cost_event(self._agent.name, reply))

    def _langchain_tool(self, tool: Tool) -> BaseTool:
        async def call(**arguments: Any) -> str:
            running = self._running.get()
            wanted = ToolCall(name=tool.name, args=arguments, id=new_id("call"))
            context = tool_context(running.progress.visit, wanted, running.progress.session, self._around)
            outcome = await self._executor.execute(tool.name, arguments, context)
            event = tool_event(self._agent.name, wanted, status=outcome.status, outcome=outcome)
            running.happened.put_nowait(event)
            return outcome.content

        return StructuredTool.from_function(
            coroutine=call, name=tool.name, description=tool.description, args_schema=tool.arguments
        )
