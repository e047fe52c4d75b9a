"""One execution of a run, from where the last one left it to its end, a pause, or a break.

Whatever goes wrong ends in one of these: the run is done, failed, cancelled or parked; it waits for a
person; it is queued for another execution; or it is another process's by now, and nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from admiralty.agents import Fleet
from admiralty.core.errors import (
    AdmiraltyError,
    EffectUnknown,
    OutputInvalid,
    Retryable,
    RunInterrupted,
    RunLost,
)
from admiralty.core.ports import AgentHost, Clock
from admiralty.core.settings import Settings
from admiralty.core.values import Caller, Event, Recorded
from admiralty.runtime.conversations.graph import TurnContext, TurnState, build_graph, recent
from admiralty.runtime.conversations.live import LiveRun, Repeats, numbered
from admiralty.runtime.conversations.outcome import (
    answer_of,
    costs_of,
    done_event,
    failure_event,
    message_event,
    read_rows,
    remembered,
)
from admiralty.runtime.durable.executions import Ending, ExecutionStore
from admiralty.runtime.durable.runs import STOPPED
from admiralty.runtime.durable.values import Run, RunRequest, RunStatus, breaks, run_data
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.problems import problem

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_PAUSE = 30.0
"""Seconds that a run which broke off waits at most for its next execution."""


class _TooLate(Exception):
    """The turn's own time is over."""


@dataclass(kw_only=True)
class Executor:
    """Executes the runs that this process has claimed."""

    fleet: Fleet
    host: AgentHost
    store: ExecutionStore
    reports: Reports
    checkpointer: BaseCheckpointSaver[Any]
    clock: Clock
    settings: Settings

    def __post_init__(self) -> None:
        self.graph = build_graph(self.fleet, self.host, self.checkpointer)

    async def execute(self, live: LiveRun) -> None:
        """Execute the run, whatever comes. Never raises."""
        run = live.run
        try:
            await self._execute(live)
        except RunLost as lost:
            logger.warning("run %s: %s", run.id, lost)
            live.detach()
        except Exception:
            # Then the database is away, and the lease will hand the run on.
            logger.exception("run %s could not be ended; it goes on elsewhere when its lease is over", run.id)
            live.detach()

    async def _execute(self, live: LiveRun) -> None:
        run, started = live.run, self.clock.now()
        if live.stopped:  # before it had begun
            await self._stopped(live)
            return
        # A task of its own: it alone is cancelled, so that the storing of an end never is.
        live.turn = asyncio.create_task(self._turn_in_time(live, started))
        try:
            message, paused = await live.turn
        except asyncio.CancelledError:
            await self._stopped(live)
        except _TooLate:
            await self._fail(live, "failed", self._too_late(run, started))
        except RunLost:
            raise
        except AdmiraltyError as error:
            await self._failed(live, error)
        except Exception as error:
            logger.exception("run %s failed", run.id)
            await self._fail(live, "failed", problem(error))
        else:
            if paused is not None:
                await self._pause(live, paused)
            elif message is not None:
                await self._done(live, message, self.clock.now() - started)

    async def _turn_in_time(self, live: LiveRun, started: float) -> tuple[AIMessage | None, Any]:
        try:
            async with asyncio.timeout(self._seconds(live.run, started)) as limit:
                return await self._turn(live, started)
        except TimeoutError:
            if limit.expired():
                raise _TooLate from None
            raise  # somebody else's, such as a user's graph

    def _too_late(self, run: Run, started: float) -> dict[str, Any]:
        if run.deadline is not None and run.deadline <= self.clock.now():
            text = "The answer was wanted sooner: the seconds that the request allowed are over."
        else:
            text = f"The turn took longer than its {self._seconds(run, started):g} s."
        return problem(Retryable(text), code="deadline_exceeded", status=504)

    def _seconds(self, run: Run, started: float) -> float:
        limit = self.fleet.limits.seconds
        return limit if run.deadline is None else max(0.0, min(limit, run.deadline - started))

    # -- the turn ----------------------------------------------------------------------------------

    async def _turn(self, live: LiveRun, started: float) -> tuple[AIMessage | None, Any]:
        """Run the graph to its end or to a pause; return the answer, or the visit that waits."""
        run, request = live.run, RunRequest.from_json(live.run.request)
        taken_over = run.fence > 1
        recorded = Recorded()
        if taken_over:
            recorded, told = await self.store.recorded(run)
            live.repeats = Repeats(told)
        context = TurnContext(
            caller=Caller(
                identity=request.identity,
                fleet=self.fleet.name,
                agent=request.entry,
                agent_version="",
                conversation_id=run.conversation_id,
                run_id=run.id,
                fence=run.fence,
            ),
            deadline=started + self._seconds(run, started),
            streaming=request.streaming,
            emit=live.emit,
            flush=live.flush,
            recorded=recorded,
            durability=self.settings.durability,
        )
        config = self._config(run)
        given: Any = None
        if taken_over:
            live.emit(Event(type="run", data={**run_data(run), "attempt": run.attempt}))
            given, ended = await self._resumed(run, config)
            if ended is not None:
                live.called = [one for one in told if one.type == "tool" and one.data["status"] != "started"]
                return ended, None
        else:
            given = self._given(run, request)
        if run.follows_gap and isinstance(given, dict):
            given = await self._after_gap(run, cast("TurnState", given), config)
        state = await self.graph.ainvoke(given, config, context=context, durability="exit")
        if context.paused:
            return None, context.paused[-1]
        await self._trim(state["messages"], config, request.entry)
        return _answer(state["messages"]), None

    def _config(self, run: Run) -> Any:
        named = {"thread_id": run.conversation_id, "run_id": run.id, "fence": run.fence}
        return {"configurable": named, "recursion_limit": self.fleet.limits.handoffs + 4}

    def _given(self, run: Run, request: RunRequest) -> TurnState:
        return {
            "messages": [HumanMessage(run.message, id=run.id)],
            "before": None,
            "turn": run.turn,
            "run_id": run.id,
            "entry": request.entry,
            "steps": 0,
            "calls": 0,
            "handoffs": 0,
        }

    async def _resumed(self, run: Run, config: Any) -> tuple[Any, AIMessage | None]:
        """Return what the graph goes on with, or the answer if only the run's end was not stored."""
        snapshot = await self.graph.aget_state(config)
        if snapshot.values.get("run_id") != run.id:
            return self._given(run, RunRequest.from_json(run.request)), None
        if snapshot.interrupts:
            return Command(resume={item.id: "decided" for item in snapshot.interrupts}), None
        if snapshot.next:
            return None, None  # from the last finished node
        return None, _answer(snapshot.values["messages"])

    async def _after_gap(self, run: Run, given: TurnState, config: Any) -> TurnState:
        """Return what a turn is given, with what those before it leave that ended without an answer."""
        gap = await self.store.gap(run)
        if not gap:
            return given
        values = (await self.graph.aget_state(config)).values
        known: list[BaseMessage] = values.get("messages", [])
        forgotten = {of.id for of, _, _ in gap if (of.error or {}).get("code") == "rolled_back"}
        kept = _without(known, forgotten)
        told: list[BaseMessage] = []
        for of, steps, effects in gap:
            if of.id not in forgotten:
                told += remembered(of, steps, effects, [*kept, *told])
        if len(kept) < len(known):
            told = [RemoveMessage(id="all"), *kept, *told]
        after: TurnState = {**given, "messages": [*told, *given["messages"]]}
        if values.get("run_id") in forgotten and values.get("before") is not None:
            after["session"] = values["before"]
        return after

    async def _trim(self, messages: Sequence[BaseMessage], config: Any, entry: str) -> None:
        if len(messages) > 2 * self.fleet.limits.history:
            kept = recent(messages, self.fleet.limits.history)
            await self.graph.aupdate_state(
                config, {"messages": [RemoveMessage(id="all"), *kept]}, as_node=entry
            )

    # -- how it ends -------------------------------------------------------------------------------

    async def _done(self, live: LiveRun, message: AIMessage, seconds: float) -> None:
        run = live.run
        last = [
            message_event(message, run.turn),
            done_event(run, message, await self._costs(live), seconds),
        ]
        await self._finish(live, "done", last, answer=str(message.text))

    async def _fail(self, live: LiveRun, status: RunStatus, error: Mapping[str, Any]) -> None:
        last = failure_event(live.run, error, await self._costs(live))
        await self._finish(live, status, [last], error=error)

    async def _failed(self, live: LiveRun, error: AdmiraltyError) -> None:
        # Subclasses of these say what the scheduler could not mend by trying again: they are final.
        if type(error) in (Retryable, RunInterrupted):
            await self._break_off(live, error.message)
        elif isinstance(error, EffectUnknown):
            await self._fail(live, "parked", problem(error))
        else:
            await self._fail(live, "failed", problem(error))

    async def _stopped(self, live: LiveRun) -> None:
        """End a run that was broken off from outside."""
        why = live.stopped or "drain"
        if why == "lost":
            live.detach()
        elif why == "drain":
            await self._flush(live)
            await self._persist(lambda: self.store.hand_on(live.run))
            live.detach()
        else:
            written = why == "rollback" and await self._persist(lambda: self.store.has_written(live.run))
            if written:
                why = "interrupt"  # what was done in the world must not be forgotten
            text, code = STOPPED[why]
            await self._fail(live, "cancelled", problem(Retryable(text), code=code))

    async def _break_off(self, live: LiveRun, reason: str) -> None:
        run = live.run
        await self._flush(live)
        pause = min(LONGEST_PAUSE, self.settings.run_retry_seconds * 2 ** breaks(run.attempts))
        await self._persist(lambda: self.store.broke_off(run, reason, pause=pause))
        logger.warning("run %s broke off: %s", run.id, reason)
        live.detach()

    async def _pause(self, live: LiveRun, visit: Any) -> None:
        left = await live.settle()
        happened = numbered(left)
        user = RunRequest.from_json(live.run.request).identity.user
        stored = await self._persist(
            lambda: self.store.pause(
                live.run,
                visit.pause,
                user=user,
                journal=visit.journal,
                happened=happened,
                unsure=live.unsure,
            )
        )
        if isinstance(stored, str):  # asked to stop meanwhile: nobody is to decide anything for it
            live.stopped, live.pending = stored, left
            await self._stopped(live)
            return
        for event in stored[len(happened) :]:
            _watch(live, event)
        live.tell(stored, among=left)
        live.detach()

    async def _finish(
        self,
        live: LiveRun,
        status: RunStatus,
        last: Sequence[Event],
        *,
        answer: str | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the end; listeners hear of it only then."""
        left = await live.settle()
        happened = [*numbered(left), *last]
        reads = read_rows(live.run, self.fleet, live.called, self.clock.now())
        ending = Ending(
            status=status, answer=answer, error=error, happened=happened, unsure=live.unsure, reads=reads
        )
        try:
            stored = await self._persist(lambda: self.store.finish(live.run, ending))
        except AdmiraltyError:
            raise
        except Exception as failure:
            # What it said may be what cannot be stored: then only that it failed is.
            logger.exception("run %s could not be stored", live.run.id)
            error = problem(failure)
            last = [failure_event(live.run, error, costs_of(live.costs))]
            ending = Ending(status="failed", error=error, happened=last)
            _watch(live, (await self._persist(lambda: self.store.finish(live.run, ending)))[-1])
            live.detach()  # what of it is stored, the database says
            return
        for event in stored[-len(last) :]:
            _watch(live, event)
        live.tell(stored, among=left)
        live.end()

    async def _flush(self, live: LiveRun) -> None:
        """Store what is pending; what cannot be is told anew by the next execution."""
        left = await live.settle()
        if happened := numbered(left):

            def append() -> Awaitable[list[Event]]:
                unsure, live.unsure = live.unsure, live.last_seq  # of a second try, nobody knows
                return self.store.append(live.run, happened, unsure=unsure)

            stored = await self._persist(append)
            live.unsure = None
            live.tell(stored, among=left)

    async def _costs(self, live: LiveRun) -> dict[str, Any]:
        """Return what the turn cost: all its executions, where there were several."""
        costs = costs_of(live.costs)
        if live.run.fence <= 1:
            return costs
        return costs | await self._persist(lambda: self.reports.of_run(live.run.conversation_id, live.run.id))

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do a write that must not be lost; try again while the database is away and the lease lasts."""
        until = self.clock.monotonic() + 2 * self.store.lease
        pause = 0.1
        while True:
            try:
                return await asyncio.shield(asyncio.ensure_future(write()))
            except Retryable as error:
                if isinstance(error, RunLost) or self.clock.monotonic() > until:
                    raise
                logger.warning("a run's record is tried again: %s", error)
            await asyncio.sleep(pause)
            pause = min(2.0, 2 * pause)


def _answer(messages: Sequence[BaseMessage]) -> AIMessage:
    if (message := answer_of(messages)) is None:
        raise OutputInvalid("The fleet ended the turn without an answer.")
    return message


def _watch(live: LiveRun, event: Event) -> None:
    for watch in live.watchers:
        watch(event)


def _without(messages: Sequence[BaseMessage], run_ids: set[str]) -> list[BaseMessage]:
    """Return the messages without those of the turns that these runs' user messages begin."""
    kept: list[BaseMessage] = []
    dropping = False
    for message in messages:
        if isinstance(message, HumanMessage):
            dropping = message.id in run_ids
        if not dropping:
            kept.append(message)
    return kept
