"""Turns as runs: started, followed live by any number of listeners, ended and stored exactly once.

A run belongs to the process, not to the request that started it: who started it may leave, and
find the answer in the conversation later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import BaseCheckpointSaver

from admiralty.agents import Fleet
from admiralty.core.errors import (
    AdmiraltyError,
    InvalidRequest,
    NotFound,
    OutputInvalid,
    Retryable,
    RunInterrupted,
)
from admiralty.core.money import Nanos, dollars_text, from_dollars
from admiralty.core.ports import AgentHost, Clock
from admiralty.core.values import Caller, Event, Identity
from admiralty.runtime.conversations.graph import TurnContext, TurnState, build_graph, recent
from admiralty.runtime.ledger.reports import Reports, UsageLine
from admiralty.runtime.problems import problem
from admiralty.runtime.storage.conversations import (
    LEASE_SECONDS,
    Conversation,
    ConversationStore,
    Run,
    RunStatus,
    StoredEvent,
)
from admiralty.runtime.storage.tables import storable

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LiveRun:
    """A run of this process, as it happens."""

    run: Run
    happened: list[Event] = field(default_factory=list)
    ended: bool = False
    ending: bool = False
    """Its outcome is decided and is being stored: that must not be broken off."""
    task: asyncio.Task[None] | None = None
    watchers: Sequence[Callable[[Event], None]] = ()
    """Whoever is told of every event of every run, such as metrics."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, event: Event) -> None:
        """Tell all listeners."""
        self.happened.append(event)
        for watch in self.watchers:
            watch(event)
        self._wake()

    def end(self) -> None:
        """Tell all listeners that nothing more will come."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self) -> AsyncGenerator[Event, None]:
        """Yield every event of the run, from its first, until it has ended and is stored."""
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self, *, idle: float | None = None) -> AsyncGenerator[Sequence[Event], None]:
        """Yield what has happened since the last batch, from the run's first event to its end.

        After ``idle`` seconds without news an empty batch comes, for whoever must show life.
        """
        position = 0
        while True:
            news = self._news
            if fresh := self.happened[position:]:
                position += len(fresh)
                yield fresh
            elif self.ended:
                return
            else:
                try:
                    async with asyncio.timeout(idle):
                        await news.wait()
                except TimeoutError:
                    yield ()

    def cancel(self) -> None:
        """End the run as soon as possible; it is stored as cancelled. One that is ending already goes on."""
        if self.task is not None and not self.ending:
            self.ending = True
            # In the loop's next round, so that a task made in this one has begun: one that never
            # began could not store its end.
            asyncio.get_running_loop().call_soon(self.task.cancel)


@dataclass(frozen=True, kw_only=True)
class ConversationView:
    """A conversation with everything that happened in it so far."""

    conversation: Conversation
    runs: Sequence[Run]
    events: Sequence[StoredEvent]
    usage: Sequence[UsageLine]


class Conversations:
    """The conversations of one fleet, in this process."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        host: AgentHost,
        store: ConversationStore,
        reports: Reports,
        checkpointer: BaseCheckpointSaver[Any],
        clock: Clock,
    ) -> None:
        self.fleet = fleet
        self._store = store
        self._reports = reports
        self._clock = clock
        self._graph = build_graph(fleet, host, checkpointer)
        self._live: dict[str, LiveRun] = {}
        self._watchers: list[Callable[[Event], None]] = []
        self._draining = False
        self._renewal: asyncio.Task[None] | None = None

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
            await self._graph.aupdate_state(config, {"messages": list(history)}, as_node=self.fleet.entry)
        return conversation

    async def view(self, identity: Identity, conversation_id: str) -> ConversationView:
        """Return a conversation with its runs, events and usage. Raises NotFound."""
        conversation = await self._store.get(identity, conversation_id)
        runs, events, usage = await asyncio.gather(
            self._store.runs(identity, conversation_id),
            self._store.events(identity, conversation_id),
            self._reports.by_conversation(conversation_id),
        )
        return ConversationView(conversation=conversation, runs=runs, events=events, usage=usage)

    async def recent(self, identity: Identity, *, limit: int = 50) -> list[Conversation]:
        """Return the tenant's conversations, last changed first."""
        return await self._store.recent(identity, limit=limit)

    async def turns_by_status(self) -> Mapping[str, int]:
        """Return how many turns of the database, of all tenants, are in each status."""
        return await self._store.count_runs()

    async def say(
        self,
        identity: Identity,
        conversation_id: str,
        message: str,
        *,
        agent: str | None = None,
        streaming: bool = True,
    ) -> LiveRun:
        """Begin a turn with a user's message, at the fleet's entry or at ``agent``.

        The message is stored when this returns. Raises NotFound, Conflict while an earlier turn is
        being answered or if the conversation is another fleet's, Retryable while this process shuts down.
        """
        if self._draining:
            raise Retryable("This replica is shutting down; ask again.", retry_after=1.0)
        entry = agent or self.fleet.entry
        if entry not in {known.name for known in self.fleet.agents}:
            raise NotFound(f"The fleet {self.fleet.name} has no agent {entry!r}.")
        if storable(message) != message:
            raise InvalidRequest(
                "The message holds characters that are no text (NUL, half a surrogate pair)."
            )
        run = await self._store.start_run(identity, conversation_id, message, fleet=self.fleet.name)
        live = LiveRun(run=run, watchers=self._watchers)
        live.emit(Event(type="run", data={**_run_data(run), "fleet": self.fleet.name}))
        self._live[run.id] = live
        live.task = asyncio.create_task(self._execute(identity, live, entry, streaming))
        return live

    def start(self) -> None:
        """Begin to renew the leases of this process's runs, and to give up those of dead processes."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._keep_alive())

    async def drain(self, seconds: float) -> None:
        """Take no new turns, wait up to ``seconds`` for the running ones, then cancel those."""
        self._draining = True
        tasks = [live.task for live in self._live.values() if live.task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for live in list(self._live.values()):
                live.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._renewal is not None:
            self._renewal.cancel()

    async def _execute(self, identity: Identity, live: LiveRun, entry: str, streaming: bool) -> None:
        run, started = live.run, self._clock.now()
        status: RunStatus = "done"
        answer: str | None = None
        error: Mapping[str, Any] | None = None
        try:
            async with asyncio.timeout(self.fleet.limits.seconds):
                message = await self._turn(identity, live, entry, started, streaming)
            answer = str(message.text)
            live.emit(_message_event(message, run.turn))
            last = Event(type="done", data=self._done(live, message, self._clock.now() - started))
        except asyncio.CancelledError:
            status = "cancelled"
            error = problem(Retryable("The run was cancelled before it had an answer."), code="cancelled")
        except TimeoutError:
            status = "failed"
            error = problem(
                Retryable(f"The turn took longer than its {self.fleet.limits.seconds:g} s."),
                code="deadline_exceeded",
                status=504,
            )
        except AdmiraltyError as failure:
            status, error = "failed", problem(failure)
        except Exception as failure:
            logger.exception("run %s failed", run.id)
            status, error = "failed", problem(failure)
        if error is not None:
            last = _failure(live, error)
        live.ending = True
        stored = [event for event in live.happened[1:] if event.type != "token"]
        try:
            # Listeners hear the end only when it is stored: what was told to a client is never lost.
            if not await asyncio.shield(
                self._store.finish_run(
                    run, status=status, answer=answer, error=error, happened=[*stored, last]
                )
            ):
                lost = RunInterrupted("The run's lease ran out, and it was given up.")
                last = _failure(live, problem(lost))
        except Exception as failure:
            logger.exception("run %s could not be stored", run.id)
            last = _failure(live, problem(failure))
            await self._store_failure(run, last)
        finally:
            live.emit(last)
            live.end()
            self._live.pop(run.id, None)

    async def _store_failure(self, run: Run, error: Event) -> None:
        """Store only that a run failed: what it said may be what could not be stored."""
        try:
            await asyncio.shield(
                self._store.finish_run(run, status="failed", answer=None, error=error.data, happened=[error])
            )
        except Exception:  # then the database is away, and the lease will end the run
            logger.exception("the failure of run %s could not be stored", run.id)

    async def _turn(
        self, identity: Identity, live: LiveRun, entry: str, started: float, streaming: bool
    ) -> AIMessage:
        run, fleet = live.run, self.fleet
        context = TurnContext(
            caller=Caller(
                identity=identity,
                fleet=fleet.name,
                agent=entry,
                agent_version="",
                conversation_id=run.conversation_id,
                run_id=run.id,
            ),
            deadline=started + fleet.limits.seconds,
            streaming=streaming,
            emit=live.emit,
        )
        said = HumanMessage(run.message)
        given: TurnState = {
            "messages": [said],
            "turn": run.turn,
            "entry": entry,
            "steps": 0,
            "handoffs": 0,
        }
        config: Any = {
            "configurable": {"thread_id": run.conversation_id},
            "recursion_limit": fleet.limits.handoffs + 4,
        }
        state = await self._graph.ainvoke(given, config, context=context, durability="exit")
        messages: list[BaseMessage] = state["messages"]
        if len(messages) > 2 * fleet.limits.history:
            kept = recent(messages, fleet.limits.history)
            await self._graph.aupdate_state(
                config, {"messages": [RemoveMessage(id="all"), *kept]}, as_node=entry
            )
        for message in reversed(messages):
            if isinstance(message, AIMessage) and message.text:
                return message
            if isinstance(message, HumanMessage):
                break
        raise OutputInvalid("The fleet ended the turn without an answer.")

    def _done(self, live: LiveRun, message: AIMessage, seconds: float) -> dict[str, Any]:
        return {
            **_run_data(live.run),
            "status": "done",
            "message": str(message.text),
            "agent": message.name,
            "metadata": _public(message),
            **_costs(live.happened),
            "seconds": round(seconds, 4),
        }

    async def _keep_alive(self) -> None:
        while True:
            try:
                if self._live:
                    await self._store.renew(list(self._live))
                if given_up := await self._store.give_up_abandoned():
                    logger.warning("%d runs whose process had ended were given up", given_up)
            except Exception:
                logger.exception("leases could not be renewed")
            await asyncio.sleep(LEASE_SECONDS / 3)


def _costs(happened: Sequence[Event]) -> dict[str, Any]:
    """Return what a turn used and cost, from its ``cost`` events."""
    tokens = {"input_tokens": 0, "output_tokens": 0}
    cost, unpriced = 0, 0
    for event in happened:
        if event.type != "cost":
            continue
        for name in tokens:
            tokens[name] += event.data.get("usage", {}).get(name, 0)  # tools use no tokens
        if event.data["cost_usd"] is None:
            unpriced += 1
        else:
            cost += from_dollars(event.data["cost_usd"])
    return {
        "usage": tokens | {"total_tokens": sum(tokens.values())},
        "cost_usd": dollars_text(Nanos(cost)),
        "unpriced_calls": unpriced,
    }


def _failure(live: LiveRun, document: Mapping[str, Any]) -> Event:
    """Return the last event of a run that failed: it has cost something all the same."""
    costs = _costs(live.happened)
    named = {"run_id": live.run.id, "cost_usd": costs["cost_usd"], "unpriced_calls": costs["unpriced_calls"]}
    return Event(type="error", data={**document, **named})


def _run_data(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "conversation_id": run.conversation_id,
        "turn": run.turn,
        "status": run.status,
    }


def _public(message: AIMessage) -> dict[str, Any]:
    return dict(message.response_metadata)


def _message_event(message: AIMessage, turn: int) -> Event:
    return Event(
        type="message",
        data={
            "role": "assistant",
            "agent": message.name,
            "content": str(message.text),
            "turn": turn,
            "metadata": _public(message),
        },
    )
