"""Conversations, runs and their numbered events, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict, NotFound
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.values import Event, Identity
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import conversations, events, runs

RunStatus = Literal["running", "done", "failed", "cancelled"]

LEASE_SECONDS = 15.0
"""A run whose process has not renewed it for so long counts as dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A conversation's row."""

    id: str
    tenant: str
    user: str | None
    fleet: str
    metadata: Mapping[str, Any]
    turns: int
    created_at: float
    updated_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run's row: one execution of one turn."""

    id: str
    conversation_id: str
    turn: int
    status: RunStatus
    message: str
    answer: str | None
    error: Mapping[str, Any] | None
    started_at: float
    finished_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """An event with its number in the conversation, counted from 1 without gaps."""

    seq: int
    run_id: str
    event: Event
    at: float


class ConversationStore:
    """The conversations of one database. All access names the tenant: others' do not exist for it."""

    def __init__(self, database: Database, *, owner: str, clock: Clock | None = None) -> None:
        self._database = database
        self._owner = owner
        self._clock = clock or SystemClock()

    async def create(
        self, identity: Identity, fleet: str, metadata: Mapping[str, Any] | None = None
    ) -> Conversation:
        """Make a new, empty conversation."""
        now = self._clock.now()
        values: dict[str, Any] = {
            "id": new_id("conv"),
            "tenant": identity.tenant,
            "user": identity.user,
            "fleet": fleet,
            "metadata": dict(metadata or {}),
            "turns": 0,
            "created_at": now,
            "updated_at": now,
        }
        await self._database.write(lambda c: c.execute(_ADD_CONVERSATION, values) and None)
        return Conversation(**values)

    async def get(self, identity: Identity, conversation_id: str) -> Conversation:
        """Return a conversation of the caller's tenant. Raises NotFound."""
        return await self._database.read(lambda c: _get(c, identity, conversation_id))

    async def recent(self, identity: Identity, *, limit: int = 50) -> list[Conversation]:
        """Return the tenant's conversations, last changed first."""
        query = (
            sa.select(conversations)
            .where(conversations.c.tenant == identity.tenant)
            .order_by(conversations.c.updated_at.desc())
            .limit(limit)
        )

        def select(connection: Connection) -> list[Conversation]:
            return [_conversation(row) for row in connection.execute(query)]

        return await self._database.read(select)

    async def start_run(
        self, identity: Identity, conversation_id: str, message: str, *, fleet: str | None = None
    ) -> Run:
        """Begin the next turn: its run and its user message are stored before this returns.

        Raises NotFound, and Conflict while another run of the conversation is alive, or if it is not
        ``fleet``'s. A run whose process died is marked failed here.
        """
        return await self._database.write(
            lambda c: self._start_run(c, identity, conversation_id, message, fleet)
        )

    def _start_run(
        self,
        connection: Connection,
        identity: Identity,
        conversation_id: str,
        message: str,
        fleet: str | None,
    ) -> Run:
        now = self._clock.now()
        conversation = _get(connection, identity, conversation_id)
        if fleet is not None and conversation.fleet != fleet:
            raise Conflict(
                f"The conversation belongs to the fleet {conversation.fleet}, and this is {fleet}.",
                conversation_id=conversation_id,
            )
        turn = conversation.turns + 1
        values: dict[str, Any] = {
            "id": new_id("run"),
            "conversation_id": conversation_id,
            "turn": turn,
            "status": "running",
            "message": message,
            "answer": None,
            "error": None,
            "started_at": now,
            "finished_at": None,
        }
        add = _ADD_RUN[connection.dialect.name]
        row = {"owner": self._owner, "lease_until": now + LEASE_SECONDS, **values}
        if connection.execute(add, row).first() is None:
            connection.execute(_FAIL_ABANDONED, {"conversation": conversation_id, "now": now})
            if connection.execute(add, row).first() is None:
                raise Conflict(
                    "The conversation is still answering an earlier message. Wait for its `done` event.",
                    conversation_id=conversation_id,
                )
        # The conversation comes after its run, here as in finish_run: two orders would be a deadlock.
        counted = {"conversation": conversation_id, "turn": turn, "now": now}
        last: int = connection.execute(_COUNT_TURN, counted).scalar_one()
        said = Event(type="message", data={"role": "user", "content": message, "turn": turn})
        _insert_events(connection, conversation_id, values["id"], [said], now, last=last)
        return Run(**values)

    async def renew(self, run_ids: Sequence[str]) -> None:
        """Keep runs of this process alive for another lease."""
        until = self._clock.now() + LEASE_SECONDS
        query = runs.update().where(runs.c.id.in_(run_ids), runs.c.status == "running")
        await self._database.write(lambda c: c.execute(query.values(lease_until=until)) and None)

    async def give_up_abandoned(self) -> int:
        """Mark the runs failed whose processes have died, in all conversations; return how many."""
        now = self._clock.now()
        return await self._database.write(
            lambda connection: connection.execute(_FAIL_ALL_ABANDONED, {"now": now}).rowcount
        )

    async def finish_run(
        self,
        run: Run,
        *,
        status: RunStatus,
        answer: str | None,
        error: Mapping[str, Any] | None,
        happened: Sequence[Event],
    ) -> bool:
        """Store a run's end and its events, in one transaction; return whether that was done.

        A run that is no longer this process's own (its lease ran out and it was given up) is left
        as it is.
        """
        now = self._clock.now()

        def finish(connection: Connection) -> bool:
            outcome = {"status": status, "answer": answer, "error": error, "finished_at": now}
            named = {"run": run.id, "of": self._owner}
            changed = connection.execute(_FINISH_RUN, named | outcome).rowcount
            if changed:
                _append(connection, run.conversation_id, run.id, happened, now)
            return bool(changed)

        return await self._database.write(finish)

    async def runs(self, identity: Identity, conversation_id: str) -> list[Run]:
        """Return a conversation's runs in order. Raises NotFound."""

        def select(connection: Connection) -> list[Run]:
            _get(connection, identity, conversation_id)
            query = sa.select(*(runs.c[name] for name in Run.__dataclass_fields__))
            rows = connection.execute(
                query.where(runs.c.conversation_id == conversation_id).order_by(runs.c.turn)
            )
            return [Run(**row._mapping) for row in rows]

        return await self._database.read(select)

    async def count_runs(self) -> dict[str, int]:
        """Return the number of runs in each status, of all tenants."""
        query = sa.select(runs.c.status, sa.func.count()).group_by(runs.c.status)
        return await self._database.read(lambda c: {row[0]: row[1] for row in c.execute(query)})

    async def events(self, identity: Identity, conversation_id: str, *, after: int = 0) -> list[StoredEvent]:
        """Return a conversation's stored events with a number above ``after``. Raises NotFound."""

        def select(connection: Connection) -> list[StoredEvent]:
            _get(connection, identity, conversation_id)
            rows = connection.execute(
                sa.select(events)
                .where(events.c.conversation_id == conversation_id, events.c.seq > after)
                .order_by(events.c.seq)
            )
            return [
                StoredEvent(
                    seq=row.seq, run_id=row.run_id, at=row.at, event=Event(type=row.type, data=row.data)
                )
                for row in rows
            ]

        return await self._database.read(select)


# Statements are made once: making one costs as much as executing it.
_ADD_CONVERSATION = conversations.insert()
_GET_CONVERSATION = sa.select(conversations).where(
    conversations.c.id == sa.bindparam("conversation"), conversations.c.tenant == sa.bindparam("of_tenant")
)
_COUNT_TURN = (
    conversations.update()
    .where(conversations.c.id == sa.bindparam("conversation"))
    .values(turns=sa.bindparam("turn"), events=conversations.c.events + 1, updated_at=sa.bindparam("now"))
    .returning(conversations.c.events)
)
# No row is added where a run of the conversation is alive: the index on live runs is in the way.
_ADD_RUN = {
    "sqlite": sqlite.insert(runs).on_conflict_do_nothing().returning(runs.c.id),
    "postgresql": postgresql.insert(runs).on_conflict_do_nothing().returning(runs.c.id),
}
_FAIL_ALL_ABANDONED = (
    runs.update()
    .where(runs.c.status == "running", runs.c.lease_until < sa.bindparam("now"))
    .values(
        status="failed",
        error={"title": "The process that was answering ended.", "code": "run_interrupted"},
        finished_at=sa.bindparam("now"),
    )
)
_FAIL_ABANDONED = _FAIL_ALL_ABANDONED.where(runs.c.conversation_id == sa.bindparam("conversation"))
_FINISH_RUN = (  # sets what it is executed with besides
    runs.update().where(
        runs.c.id == sa.bindparam("run"), runs.c.status == "running", runs.c.owner == sa.bindparam("of")
    )
)
_COUNT_EVENTS = (
    conversations.update()
    .where(conversations.c.id == sa.bindparam("conversation"))
    .values(events=conversations.c.events + sa.bindparam("more"), updated_at=sa.bindparam("now"))
    .returning(conversations.c.events)
)
_ADD_EVENTS = events.insert()


def _get(connection: Connection, identity: Identity, conversation_id: str) -> Conversation:
    named = {"conversation": conversation_id, "of_tenant": identity.tenant}
    row = connection.execute(_GET_CONVERSATION, named).first()
    if row is None:
        raise NotFound(f"There is no conversation {conversation_id!r}.")
    return _conversation(row)


def _conversation(row: Any) -> Conversation:
    return Conversation(**{name: getattr(row, name) for name in Conversation.__dataclass_fields__})


def _append(
    connection: Connection, conversation_id: str, run_id: str, happened: Sequence[Event], now: float
) -> None:
    """Store events under the next numbers; the conversation's counter makes them gapless."""
    if not happened:
        return
    counted = {"conversation": conversation_id, "more": len(happened), "now": now}
    last: int = connection.execute(_COUNT_EVENTS, counted).scalar_one()
    _insert_events(connection, conversation_id, run_id, happened, now, last=last)


def _insert_events(
    connection: Connection,
    conversation_id: str,
    run_id: str,
    happened: Sequence[Event],
    now: float,
    *,
    last: int,
) -> None:
    """Store events under the numbers that end with ``last``."""
    first = last - len(happened) + 1
    connection.execute(
        _ADD_EVENTS,
        [
            {
                "conversation_id": conversation_id,
                "seq": first + offset,
                "run_id": run_id,
                "type": event.type,
                "data": dict(event.data),
                "at": now,
            }
            for offset, event in enumerate(happened)
        ],
    )
