"""The numbered events of conversations, in SQL.

A conversation counts its events; who adds some takes the next numbers in the same transaction, so that
they have no gaps, whoever writes. The conversation's row is locked first, before any row of its runs: two
orders would be a deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.frozen import replace
from admiralty.core.values import Event
from admiralty.runtime.storage.tables import conversations, events


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """An event with its number in the conversation, counted from 1 without gaps."""

    seq: int
    run_id: str
    event: Event
    at: float


def append_events(
    connection: Connection, conversation_id: str, run_id: str, happened: Sequence[Event], now: float
) -> list[Event]:
    """Store events under the next numbers; return them with those. Locks the conversation."""
    if not happened:
        return []
    counted = {"conversation": conversation_id, "more": len(happened), "now": now}
    last: int = connection.execute(_COUNT, counted).scalar_one()
    return insert_events(connection, conversation_id, run_id, happened, now, last=last)


def insert_events(
    connection: Connection,
    conversation_id: str,
    run_id: str,
    happened: Sequence[Event],
    now: float,
    *,
    last: int,
) -> list[Event]:
    """Store events under the numbers that end with ``last``, which were counted already."""
    first = last - len(happened) + 1
    numbered = [replace(event, seq=first + offset) for offset, event in enumerate(happened)]
    connection.execute(
        _ADD,
        [
            {
                "conversation_id": conversation_id,
                "seq": event.seq,
                "run_id": run_id,
                "type": event.type,
                "data": dict(event.data),
                "at": now,
            }
            for event in numbered
        ],
    )
    return numbered


def select_events(
    connection: Connection,
    conversation_id: str,
    *,
    after: int = 0,
    run_id: str | None = None,
    limit: int | None = None,
) -> list[StoredEvent]:
    """Return a conversation's events with a number above ``after``, or only those of one run."""
    query = _OF_RUN if run_id else _OF_CONVERSATION
    named: dict[str, object] = {"conversation": conversation_id, "after": after, "run": run_id}
    if limit is not None:
        query, named = (_PAGE_OF_RUN if run_id else _PAGE), {**named, "most": limit}
    rows = connection.execute(query, named)
    return [
        StoredEvent(
            seq=row.seq,
            run_id=row.run_id,
            at=row.at,
            event=Event(type=row.type, data=row.data, seq=row.seq),
        )
        for row in rows
    ]


# Statements are made once: making one costs as much as executing it.
_COUNT = (
    conversations.update()
    .where(conversations.c.id == sa.bindparam("conversation"))
    .values(events=conversations.c.events + sa.bindparam("more"), updated_at=sa.bindparam("now"))
    .returning(conversations.c.events)
)
_ADD = events.insert()
_OF_CONVERSATION = (
    sa.select(events)
    .where(events.c.conversation_id == sa.bindparam("conversation"), events.c.seq > sa.bindparam("after"))
    .order_by(events.c.seq)
)
_OF_RUN = _OF_CONVERSATION.where(events.c.run_id == sa.bindparam("run"))
_PAGE = _OF_CONVERSATION.limit(sa.bindparam("most", type_=sa.Integer))
_PAGE_OF_RUN = _OF_RUN.limit(sa.bindparam("most", type_=sa.Integer))
