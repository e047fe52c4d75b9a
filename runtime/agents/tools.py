"""Tool calls under the scheduler's eyes: asked for before they run, paid for after.

Shared by the standard loop and user-written graphs, so that neither has a way to a tool around it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages.tool import ToolCall

from admiralty.agents import Agent
from admiralty.core.errors import AdmiraltyError, BudgetExceeded, Denied
from admiralty.core.ids import new_id
from admiralty.core.money import ZERO
from admiralty.core.ports import Memory, Scheduler, StateStore, Vectors
from admiralty.core.values import Access, CallStatus, Grant, Passage
from admiralty.runtime.agents.progress import Progress, last_user_text
from admiralty.tools import SharedState, Tool, ToolContext, ToolExecutor, ToolOutcome
from admiralty.tools.executor import PreparedCall

logger = logging.getLogger(__name__)

CONFIRMED = "user"
"""The approval of a call that the user has said yes to."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every agent of a process shares."""

    scheduler: Scheduler
    memory: Memory | None
    resources: Any
    state: StateStore | None = None


class GovernedTools:
    """The tools of one agent."""

    def __init__(self, agent: Agent, surroundings: Surroundings) -> None:
        self._agent = agent
        self._around = surroundings
        self._executor = ToolExecutor(tool for tool in agent.tools if isinstance(tool, Tool))
        self._late: set[asyncio.Task[Any]] = set()

    @property
    def by_name(self) -> Mapping[str, Tool]:
        """The tools."""
        return self._executor.tools

    async def call(self, progress: Progress, call: ToolCall) -> ToolOutcome:
        """Make a tool call: checked, permitted, its price set aside, run, paid.

        A refusal is an outcome that the model reads. Raises what else goes wrong at the scheduler.
        """
        prepared = self._executor.prepare(call["name"], call["args"], self._context(progress, call))
        if isinstance(prepared, ToolOutcome):
            return prepared
        try:
            grant = await self._authorize(self._access(progress, prepared))
        except Denied as error:
            return _refused("denied", error)
        except BudgetExceeded as error:
            return _refused("budget_exceeded", error)
        if not grant.priced:
            return await self._executor.run(prepared)
        return await self._run_paid(prepared, grant)

    def _context(self, progress: Progress, call: ToolCall) -> ToolContext:
        visit, memory = progress.visit, self._around.memory
        if memory is not None:
            memory = GovernedMemory(memory, self._around.scheduler, progress, self._agent.priority)
        return ToolContext(
            caller=visit.caller,
            call_id=call["id"] or new_id("call"),
            turn=visit.turn,
            user_message=last_user_text(visit.messages),
            session=progress.session,
            resources=self._around.resources,
            memory=memory,
            state=SharedState(self._around.state, lambda: visit.caller),
        )

    def _access(self, progress: Progress, call: PreparedCall) -> Access:
        """Return what the scheduler is asked.

        The user's yes to this very call is among the ``approvals``. A call that must be confirmed first
        is asked for as if it had been: nobody is to be asked in vain. But money is only set aside for
        the call itself.
        """
        tool, visit = call.tool, progress.visit
        facts = progress.facts()
        if call.ctx.confirmed or call.asks:
            given = facts.get("approvals", [])
            facts["approvals"] = [*(given if isinstance(given, list | tuple) else [given]), CONFIRMED]
        return Access(
            id=new_id("call"),  # the model's own id need not be unique
            caller=visit.caller,
            action="tool:call",
            resource=tool.name,
            attributes={"effect": tool.effect, "price": int(tool.price), "rehearsal": call.asks},
            context=facts,
            price=ZERO if call.asks else tool.price,
            deadline=visit.deadline,
            priority=self._agent.priority,
        )

    async def _authorize(self, access: Access) -> Grant:
        if not access.price:
            return await self._around.scheduler.authorize(access)
        asking = self._keep(self._around.scheduler.authorize(access))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The money may be set aside by now, for a tool that will never run.
            asking.add_done_callback(self._give_back)
            raise

    def _give_back(self, asking: asyncio.Task[Grant]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            self._keep(self._settle(asking.result(), "error", 0.0))

    async def _run_paid(self, call: PreparedCall, grant: Grant) -> ToolOutcome:
        started = time.monotonic()
        try:
            outcome = await self._executor.run(call)
        except asyncio.CancelledError:
            self._keep(self._settle(grant, "cancelled", time.monotonic() - started))
            raise
        status: CallStatus = "ok" if outcome.ran else "cancelled" if outcome.unfinished else "error"
        await asyncio.shield(self._keep(self._settle(grant, status, outcome.seconds)))
        if status == "error":
            return outcome
        return replace(outcome, cost=grant.access.price)

    async def _settle(self, grant: Grant, status: CallStatus, seconds: float) -> None:
        try:
            await self._around.scheduler.settle(grant, status=status, seconds=seconds)
        except AdmiraltyError as error:
            # The tool has run: its result is not thrown away. The hold runs out, and is then charged.
            logger.warning("tool call %s could not be settled: %s", grant.access.id, error)

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        """Begin work that goes on when the visit is cancelled."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task


class GovernedMemory:
    """The Memory port as tools see it: each look into a corpus is asked for first."""

    def __init__(self, inner: Memory, scheduler: Scheduler, progress: Progress, priority: int) -> None:
        self._inner = inner
        self._scheduler = scheduler
        self._progress = progress
        self._priority = priority

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        visit = self._progress.visit
        await self._scheduler.authorize(
            Access(
                id=new_id("call"),
                caller=visit.caller,
                action="memory:read",
                resource=corpus,
                context=self._progress.facts(),
                deadline=visit.deadline,
                priority=self._priority,
            )
        )
        return await self._inner.search(corpus, query, limit=limit)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._inner.embed(texts)


def _refused(status: Any, error: Denied | BudgetExceeded) -> ToolOutcome:
    return ToolOutcome(status=status, content=f"Error: {error.message}", seconds=0.0, refusal=error)
