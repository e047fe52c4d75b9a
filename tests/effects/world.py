"""What the tests of effects share: a run whose executions come and go, over real tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from langchain_core.messages import HumanMessage
from langchain_core.messages.tool import ToolCall

from admiralty.agents import Agent, inline_prompt
from admiralty.core.clock import SystemClock
from admiralty.core.errors import Denied
from admiralty.core.ports import AnswerStream
from admiralty.core.values import (
    Access,
    ApprovalVerdict,
    Caller,
    CallStatus,
    Decision,
    Grant,
    Identity,
    ModelCall,
    ModelReply,
    Recorded,
    Visit,
)
from admiralty.runtime.agents.progress import Progress
from admiralty.runtime.agents.tools import GovernedTools, Surroundings
from admiralty.runtime.effects import EffectBook, EffectRow
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.scheduler.access import AccessControl
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import budgets, conversations, runs
from admiralty.tools import Tool, ToolOutcome

CALLER = Caller(
    identity=Identity(tenant="acme"),
    fleet="desk",
    agent="clerk",
    agent_version="v1",
    conversation_id="conv_1",
    run_id="run_1",
)


class World:
    """What tools act on: it outlives every process."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.release = threading.Event()
        self.shop: Any = None
        self.then = ""
        """How a tool of the shop ends."""


class Gate:
    """A policy that a test changes."""

    def __init__(self) -> None:
        self.asked: list[Access] = []
        self.refusal: Denied | None = None

    async def check(self, access: Access) -> Decision:
        self.asked.append(access)
        if self.refusal is not None:
            raise self.refusal
        return Decision(allowed=True, bundle="open")


class Process:
    """A process with a scheduler of its own, which executes runs that it is given."""

    def __init__(self, url: str, owner: str, world: World, *tools: Tool) -> None:
        self.database = Database(url)
        self.clock = SystemClock()
        self.book = EffectBook(self.database, self.clock)
        self.gate = Gate()
        self.ledger = Ledger(self.database, owner=owner, clock=self.clock, max_wait=0.1)
        self.access = AccessControl(gate=self.gate, ledger=self.ledger, clock=self.clock, effects=self.book)
        self.world = world
        clerk = Agent("clerk", prompt=inline_prompt("You are a clerk."), tools=list(tools))
        self._tools = GovernedTools(clerk, Surroundings(scheduler=self, memory=None, resources=world))

    async def close(self) -> None:
        await self.access.close()
        await self.ledger.close()
        await self.database.close()

    # -- the Scheduler port, as far as tools need it ----------------------------------------------

    def stream(self, call: ModelCall) -> AnswerStream:
        raise NotImplementedError

    async def complete(self, call: ModelCall) -> ModelReply:
        raise NotImplementedError

    async def authorize(self, access: Access) -> Grant:
        return await self.access.authorize(access)

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        await self.access.settle(grant, status=status, seconds=seconds, outcome=outcome)

    # -- a run ------------------------------------------------------------------------------------

    async def take_over(self, run_id: str = "run_1") -> int:
        """Claim the run, whoever has it; return the fence."""

        def claim(connection: sa.Connection) -> int:
            if connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id)).first() is None:
                _add_run(connection, run_id)
            again = runs.update().where(runs.c.id == run_id)
            connection.execute(again.values(fence=runs.c.fence + 1, status="running"))
            fence: int = connection.execute(sa.select(runs.c.fence).where(runs.c.id == run_id)).scalar_one()
            return fence

        return await self.database.write(claim)

    async def leave(self, status: str = "parked", run_id: str = "run_1") -> None:
        """End the execution of the run."""
        ended = runs.update().where(runs.c.id == run_id).values(status=status)
        await self.database.write(lambda connection: connection.execute(ended))

    def visit(
        self,
        fence: int,
        *,
        session: dict[str, Any] | None = None,
        recorded: Recorded | None = None,
        verdicts: Mapping[str, ApprovalVerdict] | None = None,
        message: str = "Go.",
        turn: int = 1,
    ) -> Progress:
        """Begin a visit of an execution of the run."""
        known = replace(recorded or Recorded(), verdicts=verdicts or {})
        caller = replace(CALLER, fence=fence)
        visit = Visit(caller=caller, turn=turn, messages=(HumanMessage(message),), session={}, recorded=known)
        return Progress(visit=visit, session=session if session is not None else {})

    async def call(
        self, visit: Progress, tool: str, call_id: str = "call_1", /, **arguments: Any
    ) -> ToolOutcome:
        """Have the agent's model call a tool."""
        return await self._tools.call(visit, ToolCall(name=tool, args=arguments, id=call_id))

    async def rows(self) -> list[EffectRow]:
        """Return the effects of the run."""
        return await self.book.of_run("run_1")

    async def row(self) -> EffectRow:
        """Return the only effect of the run."""
        [row] = await self.rows()
        return row


def _add_run(connection: sa.Connection, run_id: str) -> None:
    of = {"id": "conv_1", "tenant": "acme", "fleet": "desk", "metadata": {}}
    run = {"id": run_id, "conversation_id": "conv_1", "turn": 1, "tenant": "acme", "fleet": "desk"}
    run |= {"status": "queued", "owner": "", "lease_until": 0.0, "message": "Go.", "fence": 0}
    connection.execute(conversations.insert(), of | {"created_at": 0.0, "updated_at": 0.0})
    connection.execute(runs.insert(), run | {"started_at": 0.0})


Processes = Callable[..., Process]


async def limit(process: Process, nanos: int) -> None:
    """Give the tenant a budget."""
    row = {"id": "bud", "scope": "tenant:acme", "tenant": "acme", "name": "", "limit_nanos": nanos}
    row |= {"window": "total", "timezone": "UTC", "hard": True, "thresholds": []}
    row |= {"created_at": 0.0, "updated_at": 0.0}
    await process.database.write(lambda connection: connection.execute(budgets.insert(), row))
