"""Runs as those see them who execute them: claimed, kept alive, written for, handed on, ended.

Whatever is written for a run checks its fence in the same transaction. A conversation's row is always
locked before those of its runs: two orders would be a deadlock.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from admiralty.core.errors import Retryable, RunInterrupted, RunLost
from admiralty.core.ports import Clock
from admiralty.core.values import ApprovalRequest, Event, JournalEntry, Recorded
from admiralty.runtime.approvals import expire, insert_approval, verdicts, withdraw
from admiralty.runtime.approvals.values import Approval
from admiralty.runtime.durable.runs import STOPPED, lock_conversation
from admiralty.runtime.durable.steps import delete_steps, insert_steps, load_steps
from admiralty.runtime.durable.values import COLUMNS, Run, RunStatus, Stop, run_data, run_of
from admiralty.runtime.problems import problem
from admiralty.runtime.storage.checkpoints import prune_thread
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.events import append_events
from admiralty.runtime.storage.fences import check_fence
from admiralty.runtime.storage.tables import effects, runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an execution ends its run."""

    status: RunStatus
    answer: str | None = None
    error: Mapping[str, Any] | None = None
    happened: Sequence[Event] = ()
    """What is not stored yet; the last tells of the end."""
    reads: Sequence[Mapping[str, Any]] = ()
    """Rows of effects for the tool calls that changed nothing."""


Remains = tuple[Run, Mapping[str, JournalEntry], Mapping[str, tuple[str, Mapping[str, Any] | None]]]
"""A run, the models' replies that it was given, and status and outcome of its effects by call id."""


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
        now = self._clock.now()
        named = {"fleet_is": fleet, "now": now, "most": limit}
        found = await self._database.read(lambda c: [row.id for row in c.execute(_CLAIMABLE, named)])
        taken = []
        for run_id in found:
            try:
                run = await self._database.write(partial(self._take, run_id=run_id))
            except IntegrityError:  # another run of the conversation has become alive in between
                continue
            if run is not None:
                taken.append(run)
        return taken

    def _take(self, connection: Connection, run_id: str) -> Run | None:
        now = self._clock.now()
        named = {"run": run_id, "of": self._owner, "until": now + self.lease, "now": now}
        row = connection.execute(_TAKE, named).first()
        return None if row is None else run_of(row)

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
            reason = f"The process that was answering ({row.owner}) was not heard of for {self.lease:g} s."

            def reap(connection: Connection, row: Any = row, reason: str = reason) -> None:
                at = self._clock.now()
                self._broke_off(connection, row.id, row.conversation_id, row.fence, reason, at, late=True)

            try:
                await self._database.write(reap)
            except RunLost:  # another process was faster, or it lives
                continue
            logger.warning("run %s: %s", row.id, reason)
        return len(late)

    async def expire_approvals(self) -> list[str]:
        """Let requests to persons run out; return the runs that go on for it."""
        now = self._clock.now()
        return await self._database.write(lambda c: expire(c, now))

    # -- writing -----------------------------------------------------------------------------------

    async def recorded(self, run: Run) -> Recorded:
        """Return what earlier executions of the run have left."""

        def load(connection: Connection) -> Recorded:
            return Recorded(replies=load_steps(connection, run.id), verdicts=verdicts(connection, run.id))

        return await self._database.read(load)

    async def gap(self, run: Run) -> list[Remains]:
        """Return what the turns right before ``run`` have left that ended without an answer, in order."""

        def load(connection: Connection) -> list[Remains]:
            named = {"conversation": run.conversation_id, "turn_is": run.turn}
            found: list[Remains] = []
            for row in connection.execute(_BEFORE, named):
                if row.status == "done":
                    break
                changing = connection.execute(_EFFECTS, {"run": row.id})
                known = {effect.call_id: (effect.status, effect.outcome) for effect in changing}
                found.append((run_of(row), load_steps(connection, row.id), known))
            return found[::-1]

        return await self._database.read(load)

    async def has_written(self, run: Run) -> bool:
        """Return whether the run has changed something, or may have."""
        found = await self._database.read(lambda c: c.execute(_EFFECTS, {"run": run.id}).first())
        return found is not None

    async def append(self, run: Run, happened: Sequence[Event]) -> list[Event]:
        """Store events; return them with their numbers. Raises RunLost."""

        def append(connection: Connection) -> list[Event]:
            numbered = append_events(connection, run.conversation_id, run.id, happened, self._clock.now())
            check_fence(connection, run.id, run.fence)
            return numbered

        return await self._database.write(append)

    async def finish(self, run: Run, ending: Ending) -> list[Event]:
        """Store a run's end with all that belongs to it; return the numbered events. Raises RunLost."""
        now = self._clock.now()

        def finish(connection: Connection) -> list[Event]:
            numbered = append_events(connection, run.conversation_id, run.id, ending.happened, now)
            outcome = {"status": ending.status, "answer": ending.answer, "error": ending.error}
            changed = connection.execute(
                _FINISH, {"run": run.id, "at": run.fence, "finished_at": now, "cancel": None, **outcome}
            ).rowcount
            if not changed:
                raise RunLost(f"Run {run.id} was taken over by another process; its end was not written.")
            if ending.reads:
                connection.execute(_ADD_READS[connection.dialect.name], list(ending.reads))
            if ending.status == "done":
                delete_steps(connection, run.id)
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
    ) -> tuple[Approval, list[Event]]:
        """Store that the run waits for a person. Raises RunLost."""
        now = self._clock.now()

        def pause(connection: Connection) -> tuple[Approval, list[Event]]:
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
            asked = Event(type="approval", data=_approval_data(approval))
            waits = Event(type="run", data={**run_data(run), "status": "waiting"})
            numbered = append_events(connection, run.conversation_id, run.id, [*happened, asked, waits], now)
            insert_steps(connection, run.id, journal, now)
            # Decided in the meantime, by an execution that broke off before it heard of it: it goes on.
            status = "waiting" if approval.status == "pending" else "queued"
            changed = connection.execute(_WAIT, {"run": run.id, "at": run.fence, "status": status})
            if not changed.rowcount:
                raise RunLost(f"Run {run.id} was taken over by another process; it does not wait.")
            return approval, numbered

        return await self._database.write(pause)

    async def broke_off(self, run: Run, reason: str, *, pause: float) -> bool:
        """Note that an execution broke off, and queue the run again; return whether it ended instead.

        Raises RunLost.
        """

        def note(connection: Connection) -> bool:
            now = self._clock.now()
            return self._broke_off(
                connection, run.id, run.conversation_id, run.fence, reason, now, pause=pause
            )

        return await self._database.write(note)

    async def hand_on(self, run: Run) -> None:
        """Queue a run that this process cannot finish, because it is told to end. Raises RunLost."""
        now = self._clock.now()
        handed = {"run": run.id, "at": run.fence, "now": now}

        def hand_on(connection: Connection) -> None:
            event = Event(type="run", data={**run_data(run), "status": "queued", "reason": "handed on"})
            append_events(connection, run.conversation_id, run.id, [event], now)
            if not connection.execute(_HAND_ON, handed).rowcount:
                raise RunLost(f"Run {run.id} was taken over by another process.")

        await self._database.write(hand_on)

    def _broke_off(
        self,
        connection: Connection,
        run_id: str,
        conversation_id: str,
        fence: int,
        reason: str,
        now: float,
        *,
        pause: float = 0.0,
        late: bool = False,
    ) -> bool:
        lock_conversation(connection, conversation_id)
        row = connection.execute(_GET, {"run": run_id, "at": fence}).first()
        if row is None or (late and row.lease_until >= now):
            raise RunLost(f"Run {run_id} is another process's.")
        failures = [*row.attempts, {"attempt": row.attempt, "owner": row.owner, "at": now, "reason": reason}]
        status: RunStatus = "parked" if len(failures) >= self._attempts else "queued"
        error: Mapping[str, Any] | None = None
        if row.cancel:
            text, code = STOPPED[row.cancel]
            status, error = "cancelled", problem(Retryable(text), code=code)
        elif status == "parked":
            text = f"The turn broke off {len(failures)} times, and waits for a person. Last: {reason}"
            error = problem(RunInterrupted(text), code="run_parked")
        if error is not None:
            happened = Event(type="error", data={**error, "run_id": run_id})
        else:
            happened = Event(type="run", data={**run_data(run_of(row)), "status": "queued", "reason": reason})
        append_events(connection, conversation_id, run_id, [happened], now)
        changed = connection.execute(
            _BROKE_OFF,
            {
                "run": run_id,
                "at": fence,
                "until": row.lease_until,
                "status": status,
                "attempts": failures,
                "error": error,
                "owner": "",
                "available_at": now + pause,
                "finished_at": None if status == "queued" else now,
            },
        ).rowcount
        if not changed:
            raise RunLost(f"Run {run_id} was taken over by another process.")
        return status != "queued"


def _approval_data(approval: Approval) -> dict[str, Any]:
    return {
        "approval_id": approval.id,
        "agent": approval.agent,
        "kind": approval.kind,
        "tool": approval.tool,
        "call_id": approval.call_id,
        "arguments": dict(approval.arguments),
        "reason": approval.reason,
        "expires_at": approval.expires_at,
        "status": approval.status,
    }


# Statements are made once: making one costs as much as executing it.
_ROW = [runs.c[name] for name in COLUMNS]
_OTHER = runs.alias("other")
_CLAIMABLE = (
    sa.select(runs.c.id)
    .where(
        runs.c.status == "queued",
        runs.c.fleet == sa.bindparam("fleet_is"),
        runs.c.available_at <= sa.bindparam("now"),
        ~sa.exists().where(
            _OTHER.c.conversation_id == runs.c.conversation_id,
            sa.or_(
                _OTHER.c.status.in_(["running", "waiting"]),
                sa.and_(_OTHER.c.status == "queued", _OTHER.c.turn < runs.c.turn),
            ),
        ),
    )
    .order_by(runs.c.available_at, runs.c.id)
    .limit(sa.bindparam("most"))
)
_TAKE = (
    runs.update()
    .where(
        runs.c.id == sa.bindparam("run"),
        runs.c.status == "queued",
        runs.c.available_at <= sa.bindparam("now"),
        ~sa.exists().where(
            _OTHER.c.conversation_id == runs.c.conversation_id, _OTHER.c.status.in_(["running", "waiting"])
        ),
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
    runs.c.status == "running", runs.c.owner == sa.bindparam("of"), runs.c.cancel.is_not(None)
)
_LATE = (
    sa.select(runs.c.id, runs.c.conversation_id, runs.c.fence, runs.c.owner)
    .where(runs.c.status == "running", runs.c.lease_until < sa.bindparam("now"))
    .limit(200)
)
_BEFORE = (
    sa.select(*_ROW)
    .where(runs.c.conversation_id == sa.bindparam("conversation"), runs.c.turn < sa.bindparam("turn_is"))
    .order_by(runs.c.turn.desc())
    .limit(20)
)
_EFFECTS = sa.select(effects.c.call_id, effects.c.status, effects.c.outcome).where(
    effects.c.run_id == sa.bindparam("run"), effects.c.effect != "read"
)
_HELD = (runs.c.id == sa.bindparam("run"), runs.c.fence == sa.bindparam("at"), runs.c.status == "running")
_GET = sa.select(*_ROW, runs.c.owner, runs.c.lease_until).where(*_HELD)
_FINISH = runs.update().where(*_HELD)  # sets what it is executed with besides
_BROKE_OFF = runs.update().where(*_HELD, runs.c.lease_until == sa.bindparam("until"))
_WAIT = runs.update().where(*_HELD).values(status=sa.bindparam("status"), owner="", lease_until=0.0)
_HAND_ON = runs.update().where(*_HELD).values(status="queued", owner="", available_at=sa.bindparam("now"))
_ADD_READS = {
    "sqlite": sqlite.insert(effects).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(effects).on_conflict_do_nothing(),
}
