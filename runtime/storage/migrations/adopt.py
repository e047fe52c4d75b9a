"""Takes over what LangGraph's own savers kept in a database before there were checkpoints of ours.

Of each thread and namespace the latest checkpoint comes along, with its writes: nothing ever asked for
an earlier one. LangGraph's tables go.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

_THEIRS = {
    "sqlite": ("checkpoints", "writes"),
    "postgresql": ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "checkpoint_migrations"),
}

# SQLite's saver keeps a checkpoint as we do.
_COPY = """
INSERT INTO thread_checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)
SELECT thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, coalesce(metadata, CAST('{}' AS BLOB))
FROM checkpoints c WHERE checkpoint_id = (
  SELECT max(checkpoint_id) FROM checkpoints o
  WHERE o.thread_id = c.thread_id AND o.checkpoint_ns = c.checkpoint_ns
)
"""

# PostgreSQL's keeps its values apart, each version once.
_LATEST = """
SELECT DISTINCT ON (thread_id, checkpoint_ns) thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata
FROM checkpoints ORDER BY thread_id, checkpoint_ns, checkpoint_id DESC
"""
_VALUES = sa.text("""
SELECT b.channel, b.type, b.blob FROM checkpoint_blobs b
JOIN jsonb_each_text(CAST(:versions AS jsonb)) v ON b.channel = v.key AND b.version = v.value
WHERE b.thread_id = :thread_id AND b.checkpoint_ns = :checkpoint_ns AND b.type <> 'empty'
""")
_ADD = sa.text("""
INSERT INTO thread_checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)
VALUES (:thread_id, :checkpoint_ns, :checkpoint_id, :type, :checkpoint, :metadata)
""")

_COPY_WRITES = """
INSERT INTO thread_writes
  (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value)
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, w.channel, w.type, w.{value}
FROM {table} w JOIN thread_checkpoints c USING (thread_id, checkpoint_ns, checkpoint_id)
"""


def adopt_checkpoints(connection: Connection) -> None:
    """Move the checkpoints of LangGraph's savers, if the database has any, to our tables."""
    theirs = _THEIRS[connection.dialect.name]
    there = set(sa.inspect(connection).get_table_names()) & set(theirs)
    if there.issuperset(theirs[:3]):
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(_COPY)
        else:
            _assemble(connection)
        _copy_writes(connection, theirs[1])
    for name in sorted(there):
        connection.exec_driver_sql(f"DROP TABLE {name}")


def _assemble(connection: Connection) -> None:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    serde = JsonPlusSerializer()
    for row in connection.execute(sa.text(_LATEST)).all():
        checkpoint: dict[str, Any] = row.checkpoint
        address = {name: getattr(row, name) for name in ("thread_id", "checkpoint_ns", "checkpoint_id")}
        versions = json.dumps(checkpoint["channel_versions"])
        values = {
            found.channel: serde.loads_typed((found.type, bytes(found.blob)))
            for found in connection.execute(_VALUES, {**address, "versions": versions})
        }
        checkpoint["channel_values"] = {**checkpoint.get("channel_values", {}), **values}
        kind, whole = serde.dumps_typed(checkpoint)
        kept = {"type": kind, "checkpoint": whole, "metadata": json.dumps(row.metadata).encode()}
        connection.execute(_ADD, {**address, **kept})


def _copy_writes(connection: Connection, table: str) -> None:
    names = {column["name"] for column in sa.inspect(connection).get_columns(table)}
    if "task_path" not in names:  # as of an older LangGraph
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN task_path TEXT NOT NULL DEFAULT ''")
    value = "value" if "value" in names else "blob"
    connection.exec_driver_sql(_COPY_WRITES.format(table=table, value=value))
