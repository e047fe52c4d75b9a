"""Conversations in SQL: whose they are, how far they have come. What happens in them: runs, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.clock import SystemClock
from admiralty.core.errors import NotFound
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.values import Identity
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.events import StoredEvent, select_events
from admiralty.runtime.storage.tables import conversations


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A conversation's row."""

    id: str
    tenant: str
    user: str | None
    fleet: str
    metadata: Mapping[str, Any]
    turns: int
    events: int
    """Events so far: the number of the last one."""
    created_at: float
    updated_at: float


class ConversationStore:
    """The conversations of one database. All access names the tenant: others' do not exist for it."""

    def __init__(self, database: Database, *, clock: Clock | None = None) -> None:
        self._database = database
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
            "events": 0,
            "created_at": now,
            "updated_at": now,
        }
        await self._database.write(lambda c: c.execute(_ADD_CONVERSATION, values) and None)
        return Conversation(**values)

    async def get(self, identity: Identity, conversation_id: str) -> Conversation:
        """Return a conversation of the caller's tenant. Raises NotFound."""
        return await self._database.read(lambda c: get_conversation(c, identity, conversation_id))

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

    async def events(
        self,
        identity: Identity,
        conversation_id: str,
        *,
        after: int = 0,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """Return stored events with a number above ``after``, or only those of one run. Raises NotFound."""

        def select(connection: Connection) -> list[StoredEvent]:
            get_conversation(connection, identity, conversation_id)
            return select_events(connection, conversation_id, after=after, run_id=run_id, limit=limit)

        return await self._database.read(select)

    async def counters(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the number of the last event for each of the conversations that exist, of any tenant.

        It says only that there is something to look for, with an identity.
        """

        def select(connection: Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for first in range(0, len(ids), _CHUNK):
                rows = connection.execute(_COUNTERS, {"ids": list(ids[first : first + _CHUNK])})
                found.update((row.id, row.events) for row in rows)
            return found

        return await self._database.read(select)


def get_conversation(connection: Connection, identity: Identity, conversation_id: str) -> Conversation:
    """Return a conversation of the caller's tenant. Raises NotFound."""
    named = {"conversation": conversation_id, "of_tenant": identity.tenant}
    row = connection.execute(_GET_CONVERSATION, named).first()
    if row is None:
        raise not_found(conversation_id)
    return _conversation(row)


def not_found(conversation_id: str) -> NotFound:
    """Return the error for a conversation that does not exist, or not for this caller."""
    return NotFound(f"There is no conversation {conversation_id!r}.")


def _conversation(row: Any) -> Conversation:
    return Conversation(**{name: getattr(row, name) for name in Conversation.__dataclass_fields__})


# Statements are made once: making one costs as much as executing it.
_ADD_CONVERSATION = conversations.insert()
_GET_CONVERSATION = sa.select(conversations).where(
    conversations.c.id == sa.bindparam("conversation"), conversations.c.tenant == sa.bindparam("of_tenant")
)
_COUNTERS = sa.select(conversations.c.id, conversations.c.events).where(
    conversations.c.id.in_(sa.bindparam("ids", expanding=True))
)
_CHUNK = 500
"""Names in one statement."""
