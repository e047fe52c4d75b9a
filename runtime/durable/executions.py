"""Runs as those see them who execute them: claimed, kept alive, written for, handed on, ended.

Whatever is written for a run checks its fence in the same transaction. A conversation's row is always
locked before those of its runs: two orders would be a deadlock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.errors import RunInterrupted, RunLost
from admiralty.core.ports import Clock
from admiralty.core.values import ApprovalRequest, Event, JournalEntry, Recorded
from admiralty.runtime.approvals import expire, insert_approval, verdicts, withdraw
from admiralty.runtime.approvals.describe import approval_event
from admiralty.runtime.durable.runs import (
    error_event,
    has_written,
    lock_conversation,
    stopped_problem,
    with_status,
)
from admiralty.runtime.durable.steps import delete_steps, insert_steps, load_steps
from admiralty.runtime.durable.values import COLUMNS, Run, RunStatus, Stop, breaks, run_data, run_of
from admiralty.runtime.problems import problem
from admiralty.runtime.storage.checkpoints import prune_thread
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.events import append_events, select_events
from admiralty.runtime.storage.fences import check_fence
from admiralty.runtime.storage.tables import effects, events, runs

logger = logging.getLogger(__name__)

MAX_GAP = 60
"""Turns without an answer before a turn that it is told of at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an execution ends its run."""

    status: RunStatus
    answer: str | None = None
    error: Mapping[str, Any] | None = None
    happened: Sequence[Event] = ()
    """What is not stored yet; the last tells of the end."""
    unsure: int | None = None
    """See :meth:`ExecutionStore.append`."""
    reads: Sequence[Mapping[str, Any]] = ()
    """Rows of effects for the tool calls that changed nothing."""


Remains = tuple[Run, Mapping[str, JournalEntry], Mapping[str, tuple[str, Mapping[str, Any] | None]]]
"""A run, the models' replies that it was given, and status and outcome of its tool calls by id."""


class ExecutionStore:
    """What the executing processes of one database write; this one is ``owner``."""

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        clock: Clock,
        lease: float = 15.0,
        attempts: int = 4,
        approval_seconds: float = 86_400.0,
    ) -> None:
        self._database = database
        self._owner = owner
        self._clock = clock
        self._attempts = attempts
        self._approval_seconds = approval_seconds
        self.lease = lease
        """Seconds after which a run that was not renewed is taken over."""

    # -- taking and keeping ------------------------------------------------------------------------

    async def claim(self, fleet: str, *, limit: int) -> list[Run]:
        """Take up to ``limit`` queued runs of ``fleet`` that may go on now: each with a higher fence."""
        named = {"fleet_is": fleet, "now": self._clock.now(), "most": limit}
        found = await self._database.read(lambda c: c.execute(_CLAIMABLE, named).all())
        takes = [self._database.write(partial(self._take, row.conversation_id, row.id)) for row in found]
        taken: list[Run] = []
        for outcome in await asyncio.gather(*takes, return_exceptions=True):
            if isinstance(outcome, Run):
                taken.append(outcome)
            elif outcome is not None:  # the others are this process's by now, all the same
                logger.warning("a queued run could not be taken: %s", outcome)
        return taken

    def _take(self, conversation_id: str, run_id: str, connection: Connection) -> Run | None:
        last = lock_conversation(connection, conversation_id)  # who stops queued runs must not miss it
        now = self._clock.now()
        named = {"run": run_id, "of": self._owner, "until": now + self.lease, "now": now}
        row = connection.execute(_TAKE, named).first()
        return None if row is None else run_of(row, last_event=last)

    async def renew(self, held: Mapping[str, int]) -> set[str]:
        """Keep runs (fence by id) for another lease; return those that are this process's no more."""
        until = self._clock.now() + self.lease
        if not held:
            return set()

        def renew(connection: Connection) -> set[str]:
            rows = connection.execute(_RENEW, {"of": self._owner, "until": until, "ids": list(held)})
            kept = {row.id: row.fence for row in rows}
            return {run_id for run_id, fence in held.items() if kept.get(run_id) != fence}

        return await self._database.write(renew)

    async def stops(self) -> dict[str, Stop]:
        """Return which runs of this process were asked to end, and how."""
        return await self._database.read(
            lambda c: {row.id: row.cancel for row in c.execute(_STOPS, {"of": self._owner})}
        )

    async def reap(self) -> int:
        """Queue the runs again whose processes were not heard of for a lease; return how many."""
        now = self._clock.now()
        late = await self._database.read(lambda c: c.execute(_LATE, {"now": now}).all())
        for row in late:
            try:
                await self._database.write(partial(self._reap, row.id, row.conversation_id, row.fence))
            except RunLost:  # another process was faster, or it lives
                continue
            logger.warning("run %s: its process %s was not heard of for %g s", row.id, row.owner, self.lease)
        return len(late)

    def _reap(self, run_id: str, conversation_id: str, fence: int, connection: Connection) -> None:
        row = self._lock(connection, run_id, conversation_id, fence)
        if row.lease_until >= self._clock.now():
            raise RunLost(f"Run {run_id} is alive.")
        reason = f"The process that was answering ({row.owner}) was not heard of for {self.lease:g} s."
        self._queue_again(connection, row, reason, failed=True)

    async def expire_approvals(self) -> list[str]:
        """Let requests to persons run out; return the runs that go on for it."""
        now = self._clock.now()
        return await self._database.write(lambda c: expire(c, now))

    # -- writing -----------------------------------------------------------------------------------

    async def recorded(self, run: Run) -> tuple[Recorded, list[Event]]:
        """Return what earlier executions of the run have left, and which events they have told."""

        def load(connection: Connection) -> tuple[Recorded, list[Event]]:
            left = Recorded(replies=load_steps(connection, run.id), verdicts=verdicts(connection, run.id))
            told = select_events(connection, run.conversation_id, run_id=run.id)
            return left, [stored.event for stored in told]

        return await self._database.read(load)

    async def gap(self, run: Run) -> list[Remains]:
        """Return what the turns right before ``run`` have left that ended without an answer, in order."""

        def load(connection: Connection) -> list[Remains]:
            named = {"conversation": run.conversation_id, "turn_is": run.turn}
            found: list[Remains] = []
            for row in connection.execute(_BEFORE, named):
                if row.status == "done":
                    break
                found.append((run_of(row), load_steps(connection, row.id), _came_of(connection, row)))
            return found[::-1]

        return await self._database.read(load)

    async def has_written(self, run: Run) -> bool:
        """Return whether the run has changed something, or may have."""
        return await self._database.read(lambda c: has_written(c, run.id))

    async def append(self, run: Run, happened: Sequence[Event], *, unsure: int | None = None) -> list[Event]:
        """Store events; return them with their numbers. Raises RunLost.

        ``unsure``: the last number that is known, where nobody knows whether an earlier try to store the
        first of them came through; those that are there behind it are not stored twice.
        """

        def append(connection: Connection) -> list[Event]:
            numbered = self._append(connection, run, happened, self._clock.now(), unsure)
            check_fence(connection, run.id, run.fence)
            return numbered

        return await self._database.write(append)

    async def finish(self, run: Run, ending: Ending) -> list[Event]:
        """Store a run's end with all that belongs to it; return the numbered events. Raises RunLost."""
        now = self._clock.now()

        def finish(connection: Connection) -> list[Event]:
            numbered = self._append(connection, run, ending.happened, now, ending.unsure)
            outcome = {"status": ending.status, "answer": ending.answer, "error": ending.error}
            changed = connection.execute(
                _FINISH, {"run": run.id, "at": run.fence, "finished_at": now, "cancel": None, **outcome}
            ).rowcount
            if not changed:
                raise RunLost(f"Run {run.id} was taken over by another process; its end was not written.")
            if ending.reads:
                connection.execute(_ADD_READS[connection.dialect.name], list(ending.reads))
            if ending.status == "done":
                self._forget_steps(connection, run)
                prune_thread(connection, run.conversation_id)
            elif ending.status != "parked":
                withdraw(connection, run.id, now)
            return numbered

        return await self._database.write(finish)

    async def pause(
        self,
        run: Run,
        request: ApprovalRequest,
        *,
        user: str | None,
        journal: Sequence[JournalEntry],
        happened: Sequence[Event],
        unsure: int | None = None,
    ) -> list[Event] | Stop:
        """Store that the run waits for a person; return the numbered events. Raises RunLost.

        A run that was asked to stop does not wait: then how is returned, and nothing is stored.
        """
        now = self._clock.now()

        def pause(connection: Connection) -> list[Event] | Stop:
            lock_conversation(connection, run.conversation_id)
            if how := self._held(connection, run.id, run.fence).cancel:
                asked_to_stop: Stop = how
                return asked_to_stop
            approval = insert_approval(
                connection,
                tenant=run.tenant,
                fleet=run.fleet,
                conversation_id=run.conversation_id,
                run_id=run.id,
                user=user,
                request=request,
                now=now,
                default_seconds=self._approval_seconds,
            )
            asked = approval_event(approval)
            waits = Event(type="run", data={**run_data(run), "status": "waiting"})
            numbered = self._append(connection, run, [*happened, asked, waits], now, unsure)
            insert_steps(connection, run.id, journal, now)
            # Decided in the meantime, by an execution that broke off before it heard of it: it goes on.
            status = "waiting" if approval.status == "pending" else "queued"
            connection.execute(_WAIT, {"run": run.id, "at": run.fence, "status": status})
            return numbered

        return await self._database.write(pause)

    async def broke_off(self, run: Run, reason: str, *, pause: float) -> None:
        """Note that an execution broke off, and queue the run again, or end it. Raises RunLost."""

        def note(connection: Connection) -> None:
            row = self._lock(connection, run.id, run.conversation_id, run.fence)
            self._queue_again(connection, row, reason, failed=True, pause=pause)

        await self._database.write(note)

    async def hand_on(self, run: Run) -> None:
        """Queue a run that this process cannot finish, because it is told to end. Raises RunLost."""

        def hand_on(connection: Connection) -> None:
            row = self._lock(connection, run.id, run.conversation_id, run.fence)
            self._queue_again(connection, row, "handed on", failed=False)

        await self._database.write(hand_on)

    # -- within a transaction ----------------------------------------------------------------------

    def _append(
        self, connection: Connection, run: Run, happened: Sequence[Event], now: float, unsure: int | None
    ) -> list[Event]:
        there: list[Event] = []
        if unsure is not None:
            # Only the execution itself stores events of a run that is executed: they are its own.
            lock_conversation(connection, run.conversation_id)
            stored = select_events(connection, run.conversation_id, after=unsure, run_id=run.id)
            there = [one.event for one in stored]
        rest = happened[len(there) :]
        return [*there, *append_events(connection, run.conversation_id, run.id, rest, now)]

    def _held(self, connection: Connection, run_id: str, fence: int) -> Any:
        row = connection.execute(_GET, {"run": run_id, "at": fence}).first()
        if row is None:
            raise RunLost(f"Run {run_id} was taken over by another process.")
        return row

    def _lock(self, connection: Connection, run_id: str, conversation_id: str, fence: int) -> Any:
        lock_conversation(connection, conversation_id)
        return self._held(connection, run_id, fence)

    def _queue_again(
        self, connection: Connection, row: Any, reason: str, *, failed: bool, pause: float = 0.0
    ) -> None:
        """Queue a run again whose conversation is locked.

        One that was asked to stop, or broke off too often, ends.
        """
        now = self._clock.now()
        failures = list(row.attempts)
        if failed:
            failures.append({"attempt": row.attempt, "owner": row.owner, "at": now, "reason": reason})
        status: RunStatus = "queued"
        error: Mapping[str, Any] | None = None
        if row.cancel:
            status, error = "cancelled", stopped_problem(connection, row.id, row.cancel)
        elif failed and breaks(failures) >= self._attempts:
            text = f"The turn broke off {len(failures)} times, and waits for a person. Last: {reason}"
            status, error = "parked", problem(RunInterrupted(text), code="run_parked")
        if error is not None:
            happened = error_event(connection, row.id, row.conversation_id, error)
        else:
            happened = Event(type="run", data={**run_data(run_of(row)), "status": "queued", "reason": reason})
        append_events(connection, row.conversation_id, row.id, [happened], now)
        changes = {
            "status": status,
            "attempts": failures,
            "error": error,
            "owner": "",
            "cancel": None,
            "available_at": now + pause,
            "finished_at": None if error is None else now,
        }
        # The lease too: it may have been renewed since it was looked at.
        held = {"run": row.id, "at": row.fence, "until": row.lease_until}
        if not connection.execute(_QUEUE_AGAIN, {**held, **changes}).rowcount:
            raise RunLost(f"Run {row.id} was taken over by another process.")
        if status == "cancelled":
            withdraw(connection, row.id, now)

    def _forget_steps(self, connection: Connection, run: Run) -> None:
        """Delete the replies of a run that is done, and of those before it that nobody can retry any more."""
        delete_steps(connection, run.id)
        if run.follows_gap:
            named = {"conversation": run.conversation_id, "turn_is": run.turn}
            for row in connection.execute(_BEFORE, named).all():
                if row.status == "done":
                    break
                delete_steps(connection, row.id)


def _came_of(connection: Connection, run: Any) -> dict[str, tuple[str, Mapping[str, Any] | None]]:
    """Return status and outcome of a run's tool calls by id: those that change nothing told it themselves."""
    named = {"run": run.id, "conversation": run.conversation_id}
    came: dict[str, tuple[str, Mapping[str, Any] | None]] = {
        effect.call_id: (effect.status, effect.outcome) for effect in connection.execute(_EFFECTS, named)
    }
    for event in connection.execute(_TOOLS, named):
        if "result" in event.data:
            came.setdefault(event.data["call_id"], ("finished", {"content": event.data["result"]}))
    return came


# Statements are made once: making one costs as much as executing it.
_ROW = [runs.c[name] for name in COLUMNS]
_OTHER = runs.alias("other")
_QUEUED, _RUNNING = (runs.c.status == sa.literal_column(f"'{name}'") for name in ("queued", "running"))
_NONE_ALIVE = ~sa.exists().where(
    _OTHER.c.conversation_id == runs.c.conversation_id, with_status(_OTHER, "running", "waiting")
)
_NONE_BEFORE = ~sa.exists().where(
    _OTHER.c.conversation_id == runs.c.conversation_id,
    _OTHER.c.status == sa.literal_column("'queued'"),
    _OTHER.c.turn < runs.c.turn,
)
_CLAIMABLE = (
    sa.select(runs.c.id, runs.c.conversation_id)
    .where(
        _QUEUED,
        runs.c.fleet == sa.bindparam("fleet_is"),
        runs.c.available_at <= sa.bindparam("now"),
        _NONE_ALIVE,
        _NONE_BEFORE,
    )
    .order_by(runs.c.available_at, runs.c.id)
    .limit(sa.bindparam("most"))
)
_TAKE = (
    runs.update()
    .where(
        runs.c.id == sa.bindparam("run"),
        _QUEUED,
        runs.c.available_at <= sa.bindparam("now"),
        _NONE_ALIVE,
        _NONE_BEFORE,
    )
    .values(
        status="running",
        owner=sa.bindparam("of"),
        lease_until=sa.bindparam("until"),
        fence=runs.c.fence + 1,
        attempt=runs.c.attempt + 1,
    )
    .returning(*_ROW)
)
_RENEW = (
    runs.update()
    .where(
        runs.c.id.in_(sa.bindparam("ids", expanding=True)),
        runs.c.owner == sa.bindparam("of"),
        runs.c.status == "running",
    )
    .values(lease_until=sa.bindparam("until"))
    .returning(runs.c.id, runs.c.fence)
)
_STOPS = sa.select(runs.c.id, runs.c.cancel).where(
    _RUNNING, runs.c.owner == sa.bindparam("of"), runs.c.cancel.is_not(None)
)
_LATE = (
    sa.select(runs.c.id, runs.c.conversation_id, runs.c.fence, runs.c.owner)
    .where(_RUNNING, runs.c.lease_until < sa.bindparam("now"))
    .limit(200)
)
_BEFORE = (
    sa.select(*_ROW)
    .where(runs.c.conversation_id == sa.bindparam("conversation"), runs.c.turn < sa.bindparam("turn_is"))
    .order_by(runs.c.turn.desc())
    .limit(MAX_GAP)
)
_EFFECTS = sa.select(effects.c.call_id, effects.c.status, effects.c.outcome).where(
    effects.c.run_id == sa.bindparam("run"), effects.c.effect != "read"
)
_TOOLS = sa.select(events.c.data).where(
    events.c.conversation_id == sa.bindparam("conversation"),
    events.c.run_id == sa.bindparam("run"),
    events.c.type == "tool",
)
_HELD = (runs.c.id == sa.bindparam("run"), runs.c.fence == sa.bindparam("at"), runs.c.status == "running")
_GET = sa.select(*_ROW, runs.c.owner, runs.c.lease_until).where(*_HELD)
_FINISH = runs.update().where(*_HELD)  # sets what it is executed with besides
_QUEUE_AGAIN = runs.update().where(*_HELD, runs.c.lease_until == sa.bindparam("until"))
_WAIT = runs.update().where(*_HELD).values(status=sa.bindparam("status"), owner="", lease_until=0.0)
_ADD_READS = {
    "sqlite": sqlite.insert(effects).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(effects).on_conflict_do_nothing(),
}
