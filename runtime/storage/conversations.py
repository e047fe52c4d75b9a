"""Conversations, runs and their numbered events, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict, NotFound
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.values import Event, Identity
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import conversations, events, runs

RunStatus = Literal["running", "done", "failed", "cancelled"]

LEASE_SECONDS = 30.0
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
        await self._database.write(lambda c: c.execute(conversations.insert().values(**values)) and None)
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

    async def start_run(self, identity: Identity, conversation_id: str, message: str) -> Run:
        """Begin the next turn: its run and its user message are stored before this returns.

        Raises NotFound, and Conflict while another run of the conversation is alive. A run whose
        process died is marked failed here.
        """
        return await self._database.write(lambda c: self._start_run(c, identity, conversation_id, message))

    def _start_run(
        self, connection: Connection, identity: Identity, conversation_id: str, message: str
    ) -> Run:
        conversation = _get(connection, identity, conversation_id)
        now = self._clock.now()
        self._fail_abandoned(connection, conversation_id, now)
        values: dict[str, Any] = {
            "id": new_id("run"),
            "conversation_id": conversation_id,
            "turn": conversation.turns + 1,
            "status": "running",
            "message": message,
            "answer": None,
            "error": None,
            "started_at": now,
            "finished_at": None,
        }
        try:
            with connection.begin_nested():
                connection.execute(
                    runs.insert().values(owner=self._owner, lease_until=now + LEASE_SECONDS, **values)
                )
        except IntegrityError:
            raise Conflict(
                "The conversation is still answering an earlier message. Wait for its `done` event.",
                conversation_id=conversation_id,
            ) from None
        connection.execute(
            conversations.update()
            .where(conversations.c.id == conversation_id)
            .values(turns=conversation.turns + 1, updated_at=now)
        )
        said = Event(type="message", data={"role": "user", "content": message, "turn": values["turn"]})
        _append(connection, conversation_id, values["id"], [said], now)
        return Run(**values)

    def _fail_abandoned(self, connection: Connection, conversation_id: str, now: float) -> None:
        error = {"title": "The process that was answering ended.", "code": "run_interrupted"}
        connection.execute(
            runs.update()
            .where(
                runs.c.conversation_id == conversation_id,
                runs.c.status == "running",
                runs.c.lease_until < now,
            )
            .values(status="failed", error=error, finished_at=now)
        )

    async def renew(self, run_ids: Sequence[str]) -> None:
        """Keep runs of this process alive for another lease."""
        until = self._clock.now() + LEASE_SECONDS
        query = runs.update().where(runs.c.id.in_(run_ids), runs.c.status == "running")
        await self._database.write(lambda c: c.execute(query.values(lease_until=until)) and None)

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
            changed = connection.execute(
                runs.update()
                .where(runs.c.id == run.id, runs.c.status == "running", runs.c.owner == self._owner)
                .values(status=status, answer=answer, error=error, finished_at=now)
            ).rowcount
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


def _get(connection: Connection, identity: Identity, conversation_id: str) -> Conversation:
    row = connection.execute(
        sa.select(conversations).where(
            conversations.c.id == conversation_id, conversations.c.tenant == identity.tenant
        )
    ).first()
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
    last: int = connection.execute(
        conversations.update()
        .where(conversations.c.id == conversation_id)
        .values(events=conversations.c.events + len(happened), updated_at=now)
        .returning(conversations.c.events)
    ).scalar_one()
    first = last - len(happened) + 1
    connection.execute(
        events.insert(),
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
