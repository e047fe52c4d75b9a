"""A world in which processes die, and what they have kept stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from admiralty.agents import Agent, Fleet
from admiralty.core.values import (
    Access,
    ApprovalVerdict,
    Caller,
    CallStatus,
    Event,
    Grant,
    Identity,
    JournalEntry,
    ModelCall,
    ModelReply,
    Recorded,
    TokenDelta,
    Visit,
    VisitResult,
)
from admiralty.runtime.agents.hosts import build_agent
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.durable.steps import decode_reply, encode_reply
from admiralty.runtime.testing import Answer, ScriptedScheduler
from admiralty.tools import Reconciled, ToolContext, ToolError, tool

Durability = Literal["sync", "exit"]


@dataclass
class World:
    """What outlives processes: what they kept, and what they did."""

    written: list[str] = field(default_factory=list)
    """Ids of the calls that wrote something."""

    kept: dict[str, JournalEntry] = field(default_factory=dict)
    effects: dict[tuple[str, str], Mapping[str, Any] | None] = field(default_factory=dict)
    verdicts: dict[str, ApprovalVerdict] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    asked: int = 0
    """Model calls that were answered."""
    executions: int = 0

    def keep(self, entries: Sequence[JournalEntry]) -> None:
        """Keep entries as the database does: through JSON, the first of a key."""
        for entry in entries:
            reply = None if entry.reply is None else encode_reply(entry.reply)
            session, outcomes, data = json.loads(json.dumps([dict(entry.session), entry.outcomes, reply]))
            back = JournalEntry(
                key=entry.key,
                session=session,
                outcomes=outcomes,
                reply=None if data is None else decode_reply(data),
            )
            self.kept.setdefault(entry.key, back)


class Process(ScriptedScheduler):
    """One execution's scheduler and tools. It may die at a moment, and then does nothing more."""

    def __init__(self, world: World, script: Callable[[ModelCall], Answer], dies_at: int | None) -> None:
        super().__init__(script)
        self.world = world
        self.outcomes = world.effects
        self.died, self.buried = asyncio.Event(), asyncio.Event()
        self.moments = 0
        self._dies_at = dies_at

    async def moment(self) -> None:
        """Something has been done: the process may end here."""
        self.moments += 1
        if self.moments == self._dies_at:
            self.died.set()
        await self.alive()

    async def alive(self) -> None:
        """Return, unless the process is dead."""
        if self.died.is_set():
            await self.buried.wait()
            raise asyncio.CancelledError

    async def complete(self, call: ModelCall) -> ModelReply:
        await self.alive()
        reply = await super().complete(call)
        await self._answered(call, reply)
        return reply

    async def _stream(self, call: ModelCall) -> AsyncGenerator[TokenDelta | ModelReply, None]:
        await self.alive()
        async with aclosing(super()._stream(call)) as stream:
            async for chunk in stream:
                if isinstance(chunk, ModelReply):
                    await self._answered(call, chunk)
                yield chunk

    async def _answered(self, call: ModelCall, reply: ModelReply) -> None:
        self.world.asked += 1
        if call.journal is not None:
            self.world.keep([replace(call.journal, reply=reply)])
        await self.moment()

    async def authorize(self, access: Access) -> Grant:
        await self.alive()
        if access.effect is not None:
            self.world.keep(access.effect.journal)
        return await super().authorize(access)

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        await self.alive()
        await super().settle(grant, status=status, seconds=seconds, outcome=outcome)
        await self.moment()


@tool(effect="read")
async def look(what: str, ctx: ToolContext) -> str:
    """Look at something."""
    process: Process = ctx.resources
    process.world.read.append(what)
    ctx.session["looked"] = [*ctx.session.get("looked", []), what]
    await process.moment()
    if what == "nothing":
        raise ToolError("There is nothing.")
    return f"seen {what}"


def was_noted(text: str, ctx: ToolContext) -> Reconciled:
    if ctx.call_id not in ctx.resources.world.written:
        return Reconciled.not_done()
    ctx.session["notes"] = ctx.session.get("notes", 0) + 1
    return Reconciled.done(f"noted {text}")


@tool(effect="write", reconcile=was_noted)
async def note(text: str, ctx: ToolContext) -> str:
    """Write a note."""
    process: Process = ctx.resources
    process.world.written.append(ctx.call_id)
    ctx.session["notes"] = ctx.session.get("notes", 0) + 1
    await process.moment()
    return f"noted {text}"


@tool(effect="write", approval="It cannot be unsent.")
async def send(text: str, ctx: ToolContext) -> str:
    """Send a letter."""
    ctx.resources.world.written.append(ctx.call_id)
    return "sent"


TOOLS = [look, note, send]


@dataclass(frozen=True)
class Ended:
    """What came of an execution."""

    result: VisitResult | None
    """``None`` if its process died."""
    events: list[Event]
    moments: int

    @property
    def said(self) -> list[Any]:
        """The messages without what differs from time to time."""
        assert self.result is not None
        return [plain(message) for message in self.result.messages]


def plain(message: BaseMessage) -> Any:
    """Return a message without ids that LangGraph draws."""
    if isinstance(message, AIMessage):
        calls = [(call["name"], call["args"], call["id"]) for call in message.tool_calls]
        return "ai", message.content, calls
    answers = message.tool_call_id if isinstance(message, ToolMessage) else None
    return message.type, message.content, answers


VISIT = Visit(
    caller=Caller(
        identity=Identity(),
        fleet="desk",
        agent="clerk",
        agent_version="v",
        conversation_id="c",
        run_id="run",
        fence=1,
    ),
    turn=1,
    messages=(HumanMessage("Please.", id="m1"),),
    session={"user": "ann"},
)


async def execute(
    world: World,
    clerk: Agent,
    script: Callable[[ModelCall], Answer],
    *,
    visit: Visit = VISIT,
    others: Sequence[Agent] = (),
    dies_at: int | None = None,
) -> Ended:
    """Execute the visit with what was kept of it, until it ends or its process dies."""
    world.executions += 1
    process = Process(world, script, dies_at)
    fleet = Fleet("desk", agents=[clerk, *others], entry="clerk")
    agent = build_agent(fleet, clerk, Surroundings(scheduler=process, memory=None, resources=process))
    visit = replace(
        visit,
        caller=replace(visit.caller, fence=world.executions),
        recorded=Recorded(replies=dict(world.kept), verdicts=dict(world.verdicts)),
    )
    events: list[Event] = []
    result: list[VisitResult] = []

    async def follow() -> None:
        async with aclosing(agent.visit(visit)) as stream:
            async for item in stream:
                if isinstance(item, VisitResult):
                    result.append(item)
                else:
                    events.append(item)

    following = asyncio.create_task(follow())
    dying = asyncio.create_task(process.died.wait())
    async with asyncio.timeout(20):
        await asyncio.wait([following, dying], return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if process.died.is_set():
        following.cancel()
        await asyncio.wait([following])
        process.buried.set()
        return Ended(None, events, process.moments)
    await following
    return Ended(result[0] if result else None, events, process.moments)
