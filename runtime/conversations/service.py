"""Conversations of one fleet: turns begun, followed, stopped, and answered whatever becomes of a process.

A run belongs to nobody's request: who started it may leave, and find the answer in the conversation later.
Its process may die: another takes the run over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver

from admiralty.agents import Fleet
from admiralty.core.errors import InvalidRequest, NotFound, RateLimited, Retryable
from admiralty.core.ports import AgentHost, Clock
from admiralty.core.settings import Settings
from admiralty.core.values import Event, Identity
from admiralty.runtime.conversations.execution import Executor
from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.conversations.tail import Tails
from admiralty.runtime.conversations.worker import Worker
from admiralty.runtime.durable.executions import ExecutionStore
from admiralty.runtime.durable.retention import Retention
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import STRATEGIES, Run, RunRequest, Strategy
from admiralty.runtime.ledger.reports import Reports, UsageLine
from admiralty.runtime.storage.conversations import Conversation, ConversationStore
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.events import StoredEvent
from admiralty.runtime.storage.tables import storable

MAX_TIMEOUT = 86_400.0
"""Seconds that a request may ask a turn to take at most."""


@dataclass(frozen=True, kw_only=True)
class ConversationView:
    """A conversation with everything that happened in it so far."""

    conversation: Conversation
    runs: Sequence[Run]
    events: Sequence[StoredEvent]
    usage: Sequence[UsageLine]


class Conversations:
    """The conversations of one fleet, in this process, on a database that others may share."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        host: AgentHost,
        database: Database,
        checkpointer: BaseCheckpointSaver[Any],
        clock: Clock,
        owner: str,
        settings: Settings,
    ) -> None:
        """``owner`` names this process: no other has that name, now or later."""
        self.fleet = fleet
        self.runs = RunStore(
            database,
            owner=owner,
            clock=clock,
            lease=settings.run_lease_seconds,
            max_queued=settings.max_queued_runs,
        )
        self._store = ConversationStore(database, clock=clock)
        self._reports = Reports(database)
        self._clock = clock
        self._capacity = settings.max_live_runs
        self._live: dict[str, LiveRun] = {}
        self._starting: set[asyncio.Task[LiveRun]] = set()
        self._watchers: list[Callable[[Event], None]] = []
        self._draining = False
        self._tails = Tails(self._store, self.runs, leaving=lambda: self._draining)
        executions = ExecutionStore(
            database,
            owner=owner,
            clock=clock,
            lease=settings.run_lease_seconds,
            attempts=settings.run_attempts,
            approval_seconds=settings.approval_seconds,
        )
        self._executions = executions
        self._executor = Executor(
            fleet=fleet,
            host=host,
            store=executions,
            reports=self._reports,
            checkpointer=checkpointer,
            clock=clock,
            settings=settings,
        )
        self._worker = Worker(
            fleet=fleet.name,
            store=executions,
            live=self._live,
            begin=self._begin,
            capacity=self._capacity,
            retention=Retention(
                database=database,
                clock=clock,
                days=settings.retention_days,
                turns=settings.retention_turns,
            ),
        )

    def watch(self, watcher: Callable[[Event], None]) -> None:
        """Let ``watcher`` be told of every event of this process's runs, as it happens."""
        self._watchers.append(watcher)

    async def create(
        self,
        identity: Identity,
        *,
        metadata: Mapping[str, Any] | None = None,
        history: Sequence[BaseMessage] = (),
    ) -> Conversation:
        """Make a conversation; ``history`` is what was said elsewhere before."""
        conversation = await self._store.create(identity, self.fleet.name, metadata)
        if history:
            config: Any = {"configurable": {"thread_id": conversation.id}}
            graph = self._executor.graph
            await graph.aupdate_state(config, {"messages": list(history)}, as_node=self.fleet.entry)
        return conversation

    async def view(self, identity: Identity, conversation_id: str) -> ConversationView:
        """Return a conversation with its runs, events and usage. Raises NotFound."""
        conversation = await self._store.get(identity, conversation_id)
        runs, events, usage = await asyncio.gather(
            self.runs.of_conversation(identity, conversation_id),
            self._store.events(identity, conversation_id),
            self._reports.by_conversation(conversation_id),
        )
        return ConversationView(conversation=conversation, runs=runs, events=events, usage=usage)

    async def recent(self, identity: Identity, *, limit: int = 50) -> list[Conversation]:
        """Return the tenant's conversations, last changed first."""
        return await self._store.recent(identity, limit=limit)

    async def turns_by_status(self) -> Mapping[str, int]:
        """Return how many turns of the database, of all tenants, are in each status."""
        return await self.runs.count()

    def check_room(self) -> None:
        """Raise what :meth:`say` would raise in any case.

        Retryable while this process shuts down, RateLimited where it has too much to do.
        """
        if self._draining:
            raise Retryable("This replica is shutting down; ask again.", retry_after=1.0)
        # Who has heard the end of a turn may speak again, though its task is still being put away.
        busy = sum(not live.ended for live in self._live.values())
        if busy + len(self._starting) >= self._capacity:
            raise RateLimited(f"{self._capacity} turns are being answered here already.", retry_after=1.0)

    async def say(
        self,
        identity: Identity,
        conversation_id: str,
        message: str,
        *,
        agent: str | None = None,
        streaming: bool = True,
        strategy: Strategy | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - of the turn, which outlives this call
    ) -> LiveRun:
        """Begin a turn with a user's message, at the fleet's entry or at ``agent``.

        The message is stored when this returns. ``strategy`` says what becomes of it while an earlier one
        is being answered (by default as the fleet says); ``timeout`` after how many seconds nobody waits
        for the answer any more. Raises NotFound; Conflict while an earlier turn is being answered, or if
        the conversation is another fleet's; RateLimited where this process, or the conversation, has too
        much to do; Retryable while this process shuts down.
        """
        self.check_room()
        entry = agent or self.fleet.entry
        if entry not in {known.name for known in self.fleet.agents}:
            raise NotFound(f"The fleet {self.fleet.name} has no agent {entry!r}.")
        strategy = strategy or self.fleet.multitask_strategy
        _check(message, strategy, timeout)
        request = RunRequest(identity=identity, entry=entry, streaming=streaming)
        deadline = None if timeout is None else self._clock.now() + timeout
        # What is stored as this process's is executed by it, also if whoever asked does not wait for that.
        starting = asyncio.create_task(self._start(request, conversation_id, message, strategy, deadline))
        self._starting.add(starting)
        starting.add_done_callback(self._started)
        return await asyncio.shield(starting)

    async def _start(
        self,
        request: RunRequest,
        conversation_id: str,
        message: str,
        strategy: Strategy,
        deadline: float | None,
    ) -> LiveRun:
        run, began = await self.runs.start(
            request, conversation_id, message, fleet=self.fleet.name, strategy=strategy, deadline=deadline
        )
        if run.status == "running":
            return self._begin(run, began)
        if strategy in ("interrupt", "rollback"):
            for other in list(self._live.values()):  # elsewhere, the worker hears of it
                if other.run.conversation_id == conversation_id and other.run.turn < run.turn:
                    other.stop(strategy)
        self._worker.wake()
        self._tails.wake(conversation_id)
        live = self._elsewhere(run, request.identity, after=run.last_event - len(began))
        live.tell(began)
        return live

    async def follow(
        self, identity: Identity, conversation_id: str, run_id: str, *, after: int = 0
    ) -> LiveRun:
        """Return a run to be listened to, from behind event number ``after``. Raises NotFound."""
        run = await self.runs.get(identity, conversation_id, run_id)
        return self._elsewhere(run, identity, after=after)

    def events(
        self, identity: Identity, conversation_id: str, *, after: int = 0, idle: float | None = None
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Yield all stored events of a conversation behind ``after``, in batches, until this process ends.

        After ``idle`` seconds without news an empty batch comes. Raises NotFound.
        """
        return self._tails.conversation(identity, conversation_id, after=after, idle=idle)

    async def stored(
        self,
        identity: Identity,
        conversation_id: str,
        *,
        after: int = 0,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """Return what has happened behind event number ``after``, in all or in one run. Raises NotFound."""
        return await self._store.events(identity, conversation_id, after=after, run_id=run_id, limit=limit)

    async def get(self, identity: Identity, conversation_id: str) -> Conversation:
        """Return a conversation alone. Raises NotFound."""
        return await self._store.get(identity, conversation_id)

    async def cancel(self, identity: Identity, conversation_id: str, run_id: str) -> Run:
        """Have a run end, wherever it is executed. Raises NotFound."""
        run = await self.runs.get(identity, conversation_id, run_id)
        stopped = await self.runs.stop(run.id, tenant=identity.tenant)
        if live := self._live.get(run_id):
            live.stop("cancel")
        return stopped

    async def retry(self, identity: Identity, conversation_id: str, run_id: str) -> LiveRun:
        """Execute a run again that failed or is parked. Raises NotFound, Conflict."""
        before = await self.runs.get(identity, conversation_id, run_id)
        events = await self._store.events(identity, conversation_id, run_id=run_id)
        run = await self.runs.retry(before.id, tenant=identity.tenant, by=identity.key_id or "")
        self._worker.wake()
        return self._elsewhere(run, identity, after=events[-1].seq if events else 0)

    def start(self) -> None:
        """Begin to renew the leases of this process's runs, and to take over those of dead processes."""
        self._worker.start()

    def wake(self) -> None:
        """Look for queued runs at once."""
        self._worker.wake()

    async def drain(self, seconds: float) -> None:
        """Take no new turns, wait up to ``seconds`` for the running ones, then hand those on."""
        self._draining = True
        self._tails.wake_all()
        await self._worker.take_no_more()
        await asyncio.gather(*self._starting, return_exceptions=True)
        running = list(self._live.values())
        tasks = [live.task for live in running if live.task]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
            for live in running:
                live.stop("drain")
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.stop()

    def _begin(self, run: Run, began: Sequence[Event] = ()) -> LiveRun:
        """Execute a run that this process has."""
        # Rows of older versions do not say on whose behalf; then the execution fails, and says so.
        identity = RunRequest.from_json(run.request).identity if run.request else Identity(tenant=run.tenant)
        live = self._elsewhere(run, identity, after=run.last_event - len(began))
        live.detached = False
        live.watchers = self._watchers
        live.store = lambda happened, unsure: self._append(run, happened, unsure)
        live.tell(began)
        if before := self._live.get(run.id):  # this process lost the run, has it again, and knows only now
            before.stop("lost")
        self._live[run.id] = live
        live.task = asyncio.create_task(self._executor.execute(live))
        live.task.add_done_callback(lambda _: self._ended(live))
        self._tails.wake(run.conversation_id)
        return live

    async def _append(self, run: Run, happened: Sequence[Event], unsure: int | None) -> list[Event]:
        stored = await self._executions.append(run, happened, unsure=unsure)
        self._tails.wake(run.conversation_id)
        return stored

    def _started(self, starting: asyncio.Task[LiveRun]) -> None:
        self._starting.discard(starting)
        if not starting.cancelled():
            starting.exception()  # whoever asked may have left: then nobody else looks at it

    def _ended(self, live: LiveRun) -> None:
        if self._live.get(live.run.id) is live:
            del self._live[live.run.id]
        self._tails.wake(live.run.conversation_id)
        self._worker.wake()

    def _elsewhere(self, run: Run, identity: Identity, *, after: int = 0) -> LiveRun:
        """Return a run that is followed through the database."""

        def tail(last: int, idle: float | None) -> AsyncGenerator[Sequence[Event], None]:
            return self._tails.run(
                identity,
                run.conversation_id,
                run.id,
                after=last,
                idle=idle,
                here=lambda: self._live.get(run.id),
            )

        return LiveRun(
            run=run,
            tail=tail,
            after=after,
            detached=True,
            on_cancel=lambda: self.cancel(identity, run.conversation_id, run.id),
        )


def _check(message: str, strategy: str, timeout: float | None) -> None:
    if storable(message) != message:
        raise InvalidRequest("The message holds characters that are no text (NUL, half a surrogate pair).")
    if strategy not in STRATEGIES:
        raise InvalidRequest(f"multitask_strategy = {strategy!r}: use one of {', '.join(STRATEGIES)}.")
    if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:
        raise InvalidRequest(f"timeout_seconds = {timeout!r}: give seconds above 0, at most {MAX_TIMEOUT:g}.")
