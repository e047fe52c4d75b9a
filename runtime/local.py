"""A whole fleet in this process, without Ray: for tests, notebooks and small tools.

The same definitions, scheduler, conversations and stores as on Ray; only the hops are missing.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from admiralty.agents import Fleet
from admiralty.core.errors import AdmiraltyError, RunInterrupted
from admiralty.core.ports import Memory, Scheduler, StateStore
from admiralty.core.settings import Settings
from admiralty.core.state import NAMESPACE
from admiralty.core.values import Event, Identity
from admiralty.runtime.agents.hosts import LocalAgentHost
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.composition.conversations import build_conversations
from admiralty.runtime.composition.fleet import data_folder, setup_resources
from admiralty.runtime.composition.memory import build_memory
from admiralty.runtime.composition.scheduler import build_scheduler
from admiralty.runtime.conversations import Conversations, LiveRun
from admiralty.runtime.conversations.outcome import costs_of
from admiralty.runtime.durable.values import Run
from admiralty.runtime.scheduler.dispatch import Providers
from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.storage import Database
from admiralty.tools import SharedState


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A turn's answer, or what it waits for."""

    text: str
    conversation_id: str
    agent: str
    """Who gave it."""
    metadata: dict[str, Any]
    """What the provider says of it: method, citations."""
    cost_usd: str
    events: tuple[Event, ...]
    run_id: str = ""
    status: Literal["done", "waiting"] = "done"
    """``waiting``: a person must approve something first; there is no text yet, and the turn goes on when
    it is decided."""
    approval_id: str | None = None
    """What a person must decide."""


@dataclass(frozen=True, kw_only=True)
class LocalFleet:
    """A running fleet. Made by ``fleet.local()``."""

    conversations: Conversations
    scheduler: Scheduler
    memory: Memory
    resources: Any
    database: Database
    identity: Identity
    store: StateStore

    def state(self, namespace: str = NAMESPACE) -> SharedState:
        """Return the state that its agents share, seen and written by whoever opened the fleet."""
        return SharedState(self.store, lambda: self.identity, namespace)

    async def ask(self, message: str, *, conversation: str | None = None, agent: str | None = None) -> Answer:
        """Say ``message`` in a conversation (a new one if none is named) and return the answer.

        Returns too when the turn waits for a person. Raises AdmiraltyError if it fails.
        """
        live = await self._say(message, conversation, agent)
        events: list[Event] = []
        async with aclosing(live.follow()) as happening:
            async for event in happening:
                events.append(event)
                if event.type == "approval" and event.data["status"] == "pending":
                    return _waiting(live.run, events)
        last = events[-1]
        if last.type not in ("done", "error"):
            raise RunInterrupted("The fleet was closed before the turn ended.", run_id=live.run.id)
        if last.type != "done":
            raise AdmiraltyError(str(last.data.get("detail")), **dict(last.data))
        return Answer(
            text=last.data["message"],
            conversation_id=last.data["conversation_id"],
            agent=last.data["agent"],
            metadata=last.data["metadata"],
            cost_usd=last.data["cost_usd"],
            events=tuple(events),
            run_id=live.run.id,
        )

    async def stream(
        self, message: str, *, conversation: str | None = None, agent: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Say ``message`` and yield the run's events until its ``done`` or ``error``.

        While a person is waited for, nothing comes.
        """
        live = await self._say(message, conversation, agent)
        async with aclosing(live.follow()) as events:
            async for event in events:
                yield event

    async def _say(self, message: str, conversation: str | None, agent: str | None) -> LiveRun:
        if conversation is None:
            conversation = (await self.conversations.create(self.identity)).id
        return await self.conversations.say(self.identity, conversation, message, agent=agent)


def _waiting(run: Run, events: Sequence[Event]) -> Answer:
    asked = events[-1].data
    return Answer(
        text="",
        conversation_id=run.conversation_id,
        agent=asked["agent"],
        metadata={},
        cost_usd=costs_of([event for event in events if event.type == "cost"])["cost_usd"],
        events=tuple(events),
        run_id=run.id,
        status="waiting",
        approval_id=asked["approval_id"],
    )


@asynccontextmanager
async def open_local(
    fleet: Fleet,
    *,
    data: Path | None = None,
    home: Path | None = None,
    settings: Settings | None = None,
    identity: Identity | None = None,
    scheduler: Scheduler | None = None,
    providers: Providers | None = None,
) -> AsyncIterator[LocalFleet]:
    """Run ``fleet`` in this process.

    Everything is kept in ``home``; without one, in memory and a temporary folder that goes away.
    ``scheduler`` stands in for the real one, for tests of what lies above it; ``providers`` for those that
    the settings name.
    """
    async with AsyncExitStack() as stack:
        if settings is None:
            if home is None:
                home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="admiralty-")))
                settings = Settings.load(home=home, data=data, database_url="sqlite://")
            else:
                settings = Settings.load(home=home, data=data)
        data_folder(settings)
        database = Database.of(settings)
        stack.push_async_callback(database.close)
        memory = await build_memory(settings, fleet)
        asked = scheduler
        if asked is None:
            asked = own = build_scheduler(settings, fleet, memory, database, providers=providers)
            stack.push_async_callback(own.close)
            await own.start()
        resources = setup_resources(settings, fleet)
        state = SqlStateStore(database, history=settings.state_history)
        host = LocalAgentHost(
            fleet,
            fleet.agents,
            Surroundings(scheduler=asked, memory=memory, resources=resources, state=state),
        )
        conversations = await build_conversations(fleet, host, database, settings)
        stack.push_async_callback(conversations.drain, 5.0)
        yield LocalFleet(
            conversations=conversations,
            scheduler=asked,
            memory=memory,
            resources=resources,
            database=database,
            identity=identity or Identity(),
            store=state,
        )
