"""Runs as doors see them: begun, looked at, stopped, retried. Nothing here executes one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.errors import Conflict, NotFound, RateLimited, Retryable
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.values import Event, Identity
from admiralty.runtime.approvals import withdraw
from admiralty.runtime.durable.values import (
    COLUMNS,
    OPEN,
    RETRIED,
    Run,
    RunRequest,
    RunStatus,
    Stop,
    Strategy,
    run_data,
    run_of,
)
from admiralty.runtime.ledger.reports import costs_of_run
from admiralty.runtime.problems import problem
from admiralty.runtime.storage.conversations import get_conversation, not_found
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.events import append_events, insert_events
from admiralty.runtime.storage.tables import conversations, effects, runs

logger = logging.getLogger(__name__)

STOPPED = {
    "cancel": ("The run was cancelled before it had an answer.", "cancelled"),
    "interrupt": ("A newer message took this one's place.", "interrupted"),
    "rollback": ("A newer message took this one's place, and it was forgotten.", "rolled_back"),
}
"""What a run that was stopped says: text and code."""


class RunStore:
    """The runs of one database. All access names the tenant."""

    def __init__(
        self, database: Database, *, owner: str, clock: Clock, lease: float = 15.0, max_queued: int = 16
    ) -> None:
        self._database = database
        self._owner = owner
        self._clock = clock
        self._lease = lease
        self._max_queued = max_queued

    async def start(
        self,
        request: RunRequest,
        conversation_id: str,
        message: str,
        *,
        fleet: str,
        strategy: Strategy = "reject",
        deadline: float | None = None,
    ) -> tuple[Run, list[Event]]:
        """Store the next turn: its run, and the events of its beginning, which are returned with it.

        The run is this process's own (``running``) if nothing else of the conversation is open; else what
        ``strategy`` says, and it is ``queued``. Raises NotFound, Conflict (also if the conversation is
        another fleet's), RateLimited where too many are queued.
        """
        now = self._clock.now()

        def start(connection: Connection) -> tuple[Run, list[Event]]:
            turn, last = _next_turn(connection, request.identity, conversation_id, fleet, now)
            named = {"conversation": conversation_id, "before": turn - 1}
            around = {row.id: row for row in connection.execute(_AROUND, named)}.values()
            open_runs = sorted((row for row in around if row.status in OPEN), key=lambda row: row.turn)
            busy = (
                self._make_way(connection, conversation_id, open_runs, strategy, now) if open_runs else False
            )
            run = Run(
                id=new_id("run"),
                conversation_id=conversation_id,
                turn=turn,
                status="queued" if busy else "running",
                message=message,
                started_at=now,
                fleet=fleet,
                tenant=request.identity.tenant,
                fence=0 if busy else 1,
                attempt=0 if busy else 1,
                request=request.to_json(),
                deadline=deadline,
                last_event=last,
                follows_gap=any(row.turn == turn - 1 and row.status != "done" for row in around),
            )
            self._insert(connection, run, now)
            return run, insert_events(connection, conversation_id, run.id, _beginning(run), now, last=last)[
                1:
            ]

        return await self._database.write(start)

    def _insert(self, connection: Connection, run: Run, now: float) -> None:
        values = {name: getattr(run, name) for name in COLUMNS} | {"attempts": [], "available_at": now}
        owned = {"owner": self._owner, "lease_until": now + self._lease}
        unowned = {"owner": "", "lease_until": 0.0}
        row = values | (owned if run.status == "running" else unowned)
        if connection.execute(_ADD[connection.dialect.name], row).first() is None:
            raise _busy(run.conversation_id)

    def _make_way(
        self,
        connection: Connection,
        conversation_id: str,
        others: Sequence[Any],
        strategy: Strategy,
        now: float,
    ) -> bool:
        """Do with the open runs what ``strategy`` says; return whether one is still being executed."""
        if strategy == "reject":
            raise _busy(conversation_id)
        if strategy == "enqueue":
            if sum(row.status == "queued" for row in others) >= self._max_queued:
                raise RateLimited(
                    f"{self._max_queued} messages are waiting in this conversation already.", retry_after=2.0
                )
            return True
        for row in others:
            if row.status == "running":
                connection.execute(_ASK_TO_STOP, {"run": row.id, "how": strategy})
            else:
                end_stopped(connection, row.id, conversation_id, strategy, now)
        return any(row.status == "running" for row in others)

    async def get(self, identity: Identity, conversation_id: str, run_id: str) -> Run:
        """Return a run of the caller's tenant. Raises NotFound."""

        def select(connection: Connection) -> Run:
            get_conversation(connection, identity, conversation_id)
            row = connection.execute(_GET, {"run": run_id, "conversation": conversation_id}).first()
            if row is None:
                raise NotFound(f"There is no run {run_id!r} in conversation {conversation_id}.")
            return run_of(row)

        return await self._database.read(select)

    async def of_conversation(self, identity: Identity, conversation_id: str) -> list[Run]:
        """Return a conversation's runs in order. Raises NotFound."""

        def select(connection: Connection) -> list[Run]:
            get_conversation(connection, identity, conversation_id)
            return [run_of(row) for row in connection.execute(_ALL, {"conversation": conversation_id})]

        return await self._database.read(select)

    async def recent(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Return runs, the newest first, of a tenant or of all; ``after``: those made before this one."""
        query = sa.select(*(runs.c[name] for name in COLUMNS)).order_by(runs.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(runs.c.tenant == tenant)
        if status is not None:
            query = query.where(runs.c.status == status)
        if after is not None:
            query = query.where(runs.c.id < after)
        return await self._database.read(lambda c: [run_of(row) for row in c.execute(query)])

    async def find(self, run_id: str, *, tenant: str | None = None) -> Run:
        """Return a run by its id alone. Raises NotFound, also for another tenant's."""
        return await self._database.read(lambda c: _find(c, run_id, tenant))

    async def count(self) -> dict[str, int]:
        """Return the number of runs in each status, of all tenants."""
        query = sa.select(runs.c.status, sa.func.count()).group_by(runs.c.status)
        return await self._database.read(lambda c: {row[0]: row[1] for row in c.execute(query)})

    async def stop(self, run_id: str, *, tenant: str | None = None, how: Stop = "cancel") -> Run:
        """Have a run end: at once if nobody executes it, else as soon as its process hears of it.

        A parked one is given up for good. A run that has ended stays as it is. Raises NotFound.
        """
        now = self._clock.now()

        def stop(connection: Connection) -> Run:
            run = _find(connection, run_id, tenant)
            lock_conversation(connection, run.conversation_id)
            run = _find(connection, run_id, tenant)
            if run.status == "running":
                connection.execute(_ASK_TO_STOP, {"run": run_id, "how": how})
            elif run.status in ("queued", "waiting", "parked"):
                end_stopped(connection, run_id, run.conversation_id, how, now)
            return _find(connection, run_id, tenant)

        return await self._database.write(stop)

    async def retry(self, run_id: str, *, tenant: str | None = None, by: str = "") -> Run:
        """Queue a run again that failed, was cancelled or is parked; what it had done is not done again.

        Raises NotFound, and Conflict if it has not ended so, or the conversation has gone on since.
        """
        now = self._clock.now()

        def retry(connection: Connection) -> Run:
            run = _find(connection, run_id, tenant)
            lock_conversation(connection, run.conversation_id)
            run = _find(connection, run_id, tenant)
            if run.status not in ("failed", "parked", "cancelled"):
                raise Conflict(f"Run {run_id} is {run.status}: only what failed or is parked can be retried.")
            if not run.request:
                raise Conflict(f"Run {run_id} is from an older Admiralty, which did not keep who asked.")
            newest: int = connection.execute(_TURNS, {"conversation": run.conversation_id}).scalar_one()
            if newest != run.turn:
                raise Conflict(
                    f"Run {run_id} is of turn {run.turn}, and the conversation has gone on to turn {newest}."
                )
            by_hand = {"attempt": run.attempt, "owner": by, "at": now, "reason": RETRIED}
            connection.execute(_QUEUE_AGAIN, {"run": run_id, "now": now, "all": [*run.attempts, by_hand]})
            again = Event(type="run", data={**run_data(run), "status": "queued", "retried_by": by})
            append_events(connection, run.conversation_id, run_id, [again], now)
            return _find(connection, run_id, tenant)

        return await self._database.write(retry)


def end_stopped(connection: Connection, run_id: str, conversation_id: str, how: Stop, now: float) -> None:
    """End a run that nobody executes, within a transaction that has locked its conversation."""
    error = stopped_problem(connection, run_id, how)
    changed = connection.execute(_END, {"run": run_id, "error_is": error, "now": now}).rowcount
    if changed:
        withdraw(connection, run_id, now)
        last = error_event(connection, run_id, conversation_id, error)
        append_events(connection, conversation_id, run_id, [last], now)


def stopped_problem(connection: Connection, run_id: str, how: Stop) -> dict[str, Any]:
    """Return what is told of a run that was stopped: one that has changed something is not forgotten."""
    text, code = STOPPED["interrupt" if how == "rollback" and has_written(connection, run_id) else how]
    return problem(Retryable(text), code=code)


def has_written(connection: Connection, run_id: str) -> bool:
    """Return whether a run has changed something, or may have."""
    return connection.execute(_WRITTEN, {"run": run_id}).first() is not None


def error_event(connection: Connection, run_id: str, conversation_id: str, error: Mapping[str, Any]) -> Event:
    """Return the last event of a run that nobody executes any more: it may have cost something before."""
    costs = costs_of_run(connection, conversation_id, run_id)
    named = {"cost_usd": costs["cost_usd"], "unpriced_calls": costs["unpriced_calls"]}
    return Event(type="error", data={**error, "run_id": run_id, **named})


def with_status(table: Any, *names: RunStatus) -> sa.ColumnElement[bool]:
    """Return the condition that a run has one of these statuses.

    Written out, not bound: databases use an index on some statuses only where they see which are asked for.
    """
    wanted: sa.ColumnElement[bool] = table.c.status.in_([sa.literal_column(f"'{name}'") for name in names])
    return wanted


def _next_turn(
    connection: Connection, identity: Identity, conversation_id: str, fleet: str, now: float
) -> tuple[int, int]:
    """Count a turn and its two first events; return its number and theirs. Locks the conversation."""
    named = {"conversation": conversation_id, "of_tenant": identity.tenant, "now": now}
    row = connection.execute(_COUNT_TURN, named).first()
    if row is None:
        raise not_found(conversation_id)
    if row.fleet != fleet:
        raise Conflict(
            f"The conversation belongs to the fleet {row.fleet}, and this is {fleet}.",
            conversation_id=conversation_id,
        )
    return row.turns, row.events


def _beginning(run: Run) -> list[Event]:
    return [
        Event(type="message", data={"role": "user", "content": run.message, "turn": run.turn}),
        Event(type="run", data={**run_data(run), "fleet": run.fleet}),
    ]


def _busy(conversation_id: str) -> Conflict:
    return Conflict(
        "The conversation is still answering an earlier message. Wait for its `done` event, or say what is "
        "to become of it with multitask_strategy (enqueue, interrupt, rollback).",
        conversation_id=conversation_id,
    )


def _find(connection: Connection, run_id: str, tenant: str | None) -> Run:
    row = connection.execute(_FIND, {"run": run_id}).first()
    if row is None or (tenant is not None and row.tenant != tenant):
        raise NotFound(f"There is no run {run_id!r}.")
    return run_of(row)


def lock_conversation(connection: Connection, conversation_id: str) -> int:
    """Let nobody else change the conversation's runs until this transaction ends; return its last event."""
    last: int = connection.execute(_LOCK, {"conversation": conversation_id}).scalar_one()
    return last


# Statements are made once: making one costs as much as executing it.
_ROW = sa.select(*(runs.c[name] for name in COLUMNS))
_FIND = _ROW.where(runs.c.id == sa.bindparam("run"))
_GET = _FIND.where(runs.c.conversation_id == sa.bindparam("conversation"))
_ALL = _ROW.where(runs.c.conversation_id == sa.bindparam("conversation")).order_by(runs.c.turn)
_COUNT_TURN = (
    conversations.update()
    .where(
        conversations.c.id == sa.bindparam("conversation"),
        conversations.c.tenant == sa.bindparam("of_tenant"),
    )
    .values(
        turns=conversations.c.turns + 1, events=conversations.c.events + 2, updated_at=sa.bindparam("now")
    )
    .returning(conversations.c.turns, conversations.c.events, conversations.c.fleet)
)
_TURNS = sa.select(conversations.c.turns).where(conversations.c.id == sa.bindparam("conversation"))
_LOCK = (
    conversations.update()
    .where(conversations.c.id == sa.bindparam("conversation"))
    .values(updated_at=conversations.c.updated_at)
    .returning(conversations.c.events)
)
# In three parts, each with an index of its own, so that a long conversation costs no more than a short one.
_PART = sa.select(runs.c.id, runs.c.turn, runs.c.status).where(
    runs.c.conversation_id == sa.bindparam("conversation")
)
_AROUND = sa.union_all(
    _PART.where(with_status(runs, "running", "waiting")),
    _PART.where(runs.c.status == sa.literal_column("'queued'")),
    _PART.where(runs.c.turn == sa.bindparam("before")),
)
_WRITTEN = sa.select(effects.c.call_id).where(
    effects.c.run_id == sa.bindparam("run"), effects.c.effect != "read"
)
# No row is added where a run of the conversation is alive: the index on live runs is in the way.
_ADD = {
    "sqlite": sqlite.insert(runs).on_conflict_do_nothing().returning(runs.c.id),
    "postgresql": postgresql.insert(runs).on_conflict_do_nothing().returning(runs.c.id),
}
_ASK_TO_STOP = (
    runs.update()
    .where(runs.c.id == sa.bindparam("run"), runs.c.status == "running")
    .values(cancel=sa.bindparam("how"))
)
_END = (
    runs.update()
    .where(runs.c.id == sa.bindparam("run"), runs.c.status.in_(["queued", "waiting", "parked"]))
    .values(
        status="cancelled",
        cancel=None,
        error=sa.bindparam("error_is", type_=runs.c.error.type),
        finished_at=sa.bindparam("now"),
    )
)
_QUEUE_AGAIN = (
    runs.update()
    .where(runs.c.id == sa.bindparam("run"))
    .values(
        status="queued",
        owner="",
        cancel=None,
        attempts=sa.bindparam("all", type_=runs.c.attempts.type),
        error=None,
        finished_at=None,
        deadline=None,
        available_at=sa.bindparam("now"),
    )
)
