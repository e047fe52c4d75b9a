"""The coordinator: a LangGraph graph with one node for each agent of the fleet.

A node sends its agent a visit and follows the handoff that comes back. What happens on the way goes
to whoever listens to the run; what the visit leaves goes into the state, which the checkpointer
keeps for the next turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt

from admiralty.agents import Agent, Fleet
from admiralty.core.errors import LimitExceeded, RunInterrupted
from admiralty.core.ports import AgentHost
from admiralty.core.values import Caller, Event, JournalEntry, Recorded, Visit, VisitResult
from admiralty.runtime.durable.naming import of_visit

Emit = Callable[[Event], None]


def extend(history: list[BaseMessage], new: list[BaseMessage]) -> list[BaseMessage]:
    """Reducer of the state's messages: appends. A RemoveMessage as first drops what was there."""
    if new and isinstance(new[0], RemoveMessage):
        return new[1:]
    return [*history, *new]


class TurnState(TypedDict, total=False):
    """What a conversation keeps from turn to turn, and what one turn counts."""

    messages: Annotated[list[BaseMessage], extend]
    session: dict[str, Any]
    before: dict[str, Any] | None
    """The session as it was when the turn began, once a visit may have changed it: for a turn that is to be
    forgotten."""
    turn: int
    run_id: str
    entry: str
    steps: int
    calls: int
    handoffs: int


@dataclass(frozen=True, kw_only=True)
class TurnContext:
    """What a turn's nodes need and no checkpoint keeps."""

    caller: Caller
    deadline: float
    streaming: bool
    emit: Emit
    flush: Callable[[], Awaitable[None]]
    """Sees to it that what was emitted is stored no later than the checkpoint that follows."""
    recorded: Recorded = field(default_factory=Recorded)
    """What earlier executions of the run have left."""
    durability: Literal["sync", "exit"] = "sync"
    journal: list[JournalEntry] = field(default_factory=list)
    """Replies to visits so far that are not kept yet: they travel on until something is changed."""
    paused: list[VisitResult] = field(default_factory=list)
    """The visit that waits for a person, once one does."""


def build_graph(
    fleet: Fleet, host: AgentHost, checkpointer: BaseCheckpointSaver[Any] | None
) -> CompiledStateGraph[TurnState, TurnContext, TurnState, TurnState]:
    """Return the fleet's graph, compiled."""
    builder: StateGraph[TurnState, TurnContext, TurnState, TurnState] = StateGraph(
        TurnState, context_schema=TurnContext
    )
    for agent in fleet.agents:
        node: Any = _node(fleet, agent, host)
        builder.add_node(agent.name, node, destinations=(*agent.handoffs, END))

    async def enter(state: TurnState) -> str:  # LangGraph runs a route that is not async in a thread
        return state["entry"]

    builder.add_conditional_edges(START, enter, {agent.name: agent.name for agent in fleet.agents})
    return builder.compile(checkpointer=checkpointer, name=fleet.name)


def _node(
    fleet: Fleet, agent: Agent, host: AgentHost
) -> Callable[[TurnState, Runtime[TurnContext]], Awaitable[Command[Any]]]:
    version, limits = agent.version, fleet.limits

    async def visit_agent(state: TurnState, runtime: Runtime[TurnContext]) -> Command[Any]:
        context = runtime.context
        if state["handoffs"] > limits.handoffs:
            raise LimitExceeded(f"The turn was handed off more than {limits.handoffs} times.")
        visit = Visit(
            caller=replace(context.caller, agent=agent.name, agent_version=version),
            turn=state["turn"],
            messages=tuple(recent(state["messages"], limits.history)),
            session=state.get("session", {}),
            deadline=context.deadline,
            steps_left=limits.steps - state["steps"],
            calls_left=limits.calls - state["calls"],
            streaming=context.streaming,
            number=state["handoffs"],
            recorded=of_visit(context.recorded, state["handoffs"]),
            durability=context.durability,
            journal=tuple(context.journal),
        )
        result: VisitResult | None = None
        async with aclosing(host.visit(visit)) as stream:
            async for item in stream:
                if isinstance(item, VisitResult):
                    result = item
                else:
                    context.emit(item)
        if result is None:
            raise RunInterrupted(f"{agent.name} broke off without a result.")
        context.journal[:] = result.journal
        if result.pause is not None:
            context.paused.append(result)
            # The verdict comes with the visit's record; LangGraph hands the answers to earlier interrupts
            # of this node out first, and raises at the one that has none.
            while True:
                interrupt({"tool": result.pause.tool, "call_id": result.pause.call_id})
        first = {"before": dict(state.get("session", {}))} if state["handoffs"] == 0 else {}
        if result.handoff is None:  # LangGraph keeps a turn's state at its end
            await context.flush()
        return Command(
            update={
                **first,
                "messages": list(result.messages),
                "session": dict(result.session),
                "steps": state["steps"] + result.steps,
                "calls": state["calls"] + result.calls,
                "handoffs": state["handoffs"] + (1 if result.handoff else 0),
            },
            goto=result.handoff or END,
        )

    return visit_agent


def recent(messages: Sequence[BaseMessage], limit: int) -> Sequence[BaseMessage]:
    """Return about the last ``limit`` messages, cut where a turn begins.

    A tool's result without the call that it answers would be refused by providers, so the cut is
    only ever made in front of a user message; the newest turn is always whole.
    """
    if len(messages) <= limit:
        return messages
    starts = [index for index, message in enumerate(messages) if isinstance(message, HumanMessage)]
    fitting = [index for index in starts if len(messages) - index <= limit]
    cut = fitting[0] if fitting else (starts[-1] if starts else 0)
    return messages[cut:]
