"""Models' replies of a run, in SQL: what an execution that broke off had asked is not asked again.

Knows nothing of who may write for a run: callers check the fence in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from langchain_core.messages import message_to_dict, messages_from_dict
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.values import JournalEntry, ModelReply, Usage
from admiralty.runtime.storage.tables import steps

_TEXT = "$text"
"""Key of what stands for a value that is no plain JSON: its text, as Python writes and reads it."""

_INSERT = {
    "sqlite": sqlite.insert(steps).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(steps).on_conflict_do_nothing(),
}
_SELECT = (
    sa.select(steps.c.key, steps.c.reply, steps.c.session, steps.c.outcomes)
    .where(steps.c.run_id == sa.bindparam("run"))
    .order_by(steps.c.at)
)
_DELETE = sa.delete(steps).where(steps.c.run_id == sa.bindparam("run"))

Row = Mapping[str, Any]


def insert_steps(connection: Connection, run_id: str, entries: Sequence[JournalEntry], at: float) -> None:
    """Keep ``entries``; one whose key is there already stays as it is."""
    # A microsecond apart, so that they come back in their order.
    rows = [step_row(run_id, entry, at + number * 1e-6) for number, entry in enumerate(entries)]
    insert_rows(connection, rows)


def step_row(run_id: str, entry: JournalEntry, at: float) -> Row:
    """Return the row of an entry."""
    return {
        "run_id": run_id,
        "key": entry.key,
        "reply": None if entry.reply is None else _plain(encode_reply(entry.reply)),
        "session": _plain(dict(entry.session)),
        "outcomes": _plain({key: dict(outcome) for key, outcome in entry.outcomes.items()}),
        "at": at,
    }


def insert_rows(connection: Connection, rows: Sequence[Row]) -> None:
    """Store rows of :func:`step_row`."""
    if rows:
        connection.execute(_INSERT[connection.dialect.name], list(rows))


def load_steps(connection: Connection, run_id: str) -> dict[str, JournalEntry]:
    """Return what is kept of a run, by key, in the order in which it came."""
    return {
        row.key: JournalEntry(
            key=row.key,
            session=_read(row.session),
            outcomes=_read(row.outcomes),
            reply=None if row.reply is None else decode_reply(_read(row.reply)),
        )
        for row in connection.execute(_SELECT, {"run": run_id})
    }


def delete_steps(connection: Connection, run_id: str) -> None:
    """Forget what is kept of a run: it has ended, and is never executed again."""
    connection.execute(_DELETE, {"run": run_id})


def encode_reply(reply: ModelReply) -> dict[str, Any]:
    """Return ``reply`` as JSON; :func:`decode_reply` returns it as it was."""
    return {
        "message": message_to_dict(reply.message),
        "model": reply.model,
        "tier": reply.tier,
        "usage": asdict(reply.usage),
        "cost": reply.cost,
        "seconds": reply.seconds,
        "finish_reason": reply.finish_reason,
        "metadata": dict(reply.metadata),
    }


def decode_reply(data: Mapping[str, Any]) -> ModelReply:
    """Return the reply that :func:`encode_reply` was given."""
    [message] = messages_from_dict([data["message"]])
    return ModelReply(**{**data, "message": message, "usage": Usage(**data["usage"])})


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return ``value`` as databases take it, whatever models and tools have put in.

    Their JSON is ASCII with escapes, also for NUL and half surrogates, so texts are kept as they are; but
    PostgreSQL takes no NaN, and nothing takes what is no JSON, which is kept as its text.
    """
    try:
        json.dumps(value, allow_nan=False)
        plain = value.keys() != {_TEXT}
    except (TypeError, ValueError):
        plain = False
    return value if plain else {_TEXT: json.dumps(value, default=str)}


def _read(value: dict[str, Any]) -> dict[str, Any]:
    if value.keys() == {_TEXT}:
        plain: dict[str, Any] = json.loads(value[_TEXT])
        return plain
    return value
