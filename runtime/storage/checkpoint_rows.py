"""The SQL of checkpoints: rows in and out, inside whatever transaction the caller has.

Knows a checkpoint as bytes under (thread, namespace, id), with writes that belong to it; ids grow with
time, so that the latest is the greatest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.runtime.storage.tables import thread_checkpoints, thread_writes

Row = Mapping[str, Any]


def find(connection: Connection, thread_id: str, namespace: str, checkpoint_id: str | None) -> Any | None:
    """Return a checkpoint's row, the namespace's latest without an id; None if there is none."""
    given = {"thread": thread_id, "namespace": namespace}
    if not checkpoint_id:
        return connection.execute(_LATEST, given).first()
    return connection.execute(_ONE, {**given, "id": checkpoint_id}).first()


def select(
    connection: Connection,
    *,
    thread_id: str | None = None,
    checkpoint_ns: str | None = None,
    checkpoint_id: str | None = None,
    before: str | None = None,
    limit: int | None = None,
) -> Sequence[Any]:
    """Return keys and metadata of the checkpoints that match what is given, newest first."""
    query = sa.select(_C.thread_id, _C.checkpoint_ns, _C.checkpoint_id, _C.metadata)
    equal = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns, "checkpoint_id": checkpoint_id or None}
    for name, value in equal.items():
        if value is not None:
            query = query.where(_C[name] == value)
    if before:
        query = query.where(_C.checkpoint_id < before)
    return connection.execute(query.order_by(_C.checkpoint_id.desc()).limit(limit)).all()


def writes_of(connection: Connection, thread_id: str, namespace: str, checkpoint_id: str) -> Sequence[Any]:
    """Return the writes that belong to a checkpoint, in no order."""
    given = {"thread": thread_id, "namespace": namespace, "id": checkpoint_id}
    return connection.execute(_WRITES, given).all()


def put(connection: Connection, row: Row) -> None:
    """Keep a checkpoint. One with its id is replaced, but keeps its parent."""
    connection.execute(_PUT[connection.dialect.name], row)


def put_writes(connection: Connection, given: Sequence[Row], *, replace: bool) -> None:
    """Keep writes; those that are there already are replaced, or stay as they are."""
    statements = _REPLACE_WRITES if replace else _ADD_WRITES
    connection.execute(statements[connection.dialect.name], given)


def delete_thread(connection: Connection, thread_id: str) -> None:
    """Delete everything that a thread keeps."""
    for statement in _DELETE_THREAD:
        connection.execute(statement, {"thread": thread_id})


def delete_runs(connection: Connection, run_ids: Sequence[str]) -> None:
    """Delete the checkpoints that runs have made, and the writes that belong to them."""
    if run_ids:
        for statement in _DELETE_RUNS:
            connection.execute(statement, {"runs": list(run_ids)})


def copy_thread(connection: Connection, source: str, target: str) -> None:
    """Add everything that a thread keeps to another one."""
    for statement in _COPY[connection.dialect.name]:
        connection.execute(statement, {"source": source, "target": target})


def prune_thread(connection: Connection, thread_id: str) -> None:
    """Keep a thread's latest checkpoint of each namespace with its writes, and what that one is read from."""
    found: dict[str, list[Any]] = {}
    for row in connection.execute(_KEYS, {"thread": thread_id}):
        found.setdefault(row.checkpoint_ns, []).append(row)
    for namespace, newest_first in found.items():
        kept = _needed(newest_first)
        given = {"thread": thread_id, "namespace": namespace, "latest": newest_first[0].checkpoint_id}
        if len(kept) < len(newest_first):
            connection.execute(_DELETE_OLDER, {**given, "kept": kept})
        # Also where no checkpoint goes: what broke off may have left writes to one that never came.
        # Those to a later one than the latest stay: their checkpoint may come in the next commit.
        connection.execute(_DELETE_OLDER_WRITES, {**given, "kept": kept})


def _needed(newest_first: Sequence[Any]) -> list[str]:
    """Return the ids to keep: the latest, and its ancestors as far as a DeltaChannel's value reaches.

    Such a channel's value is the writes since its last snapshot; metadata counts them, and a checkpoint
    that counts none has all of it.
    """
    by_id = {row.checkpoint_id: row for row in newest_first}
    kept: list[str] = []
    row: Any | None = newest_first[0]
    while row is not None and row.checkpoint_id not in kept:
        kept.append(row.checkpoint_id)
        if not json.loads(row.metadata).get("counters_since_delta_snapshot"):
            break
        row = by_id.get(row.parent_id)
    return kept


# -- statements, made once: making one costs as much as executing it ---------------------------------

_C, _W = thread_checkpoints.c, thread_writes.c
_KEY = ["thread_id", "checkpoint_ns", "checkpoint_id"]
_INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _in_namespace(table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.thread_id == sa.bindparam("thread"), table.c.checkpoint_ns == sa.bindparam("namespace")


_IN_NAMESPACE = sa.select(thread_checkpoints).where(*_in_namespace(thread_checkpoints))
_LATEST = _IN_NAMESPACE.order_by(_C.checkpoint_id.desc()).limit(1)
_ONE = _IN_NAMESPACE.where(_C.checkpoint_id == sa.bindparam("id"))
_WRITES = sa.select(_W.task_id, _W.task_path, _W.idx, _W.channel, _W.type, _W.value).where(
    *_in_namespace(thread_writes), _W.checkpoint_id == sa.bindparam("id")
)
_KEYS = (
    sa.select(_C.checkpoint_ns, _C.checkpoint_id, _C.parent_id, _C.metadata)
    .where(_C.thread_id == sa.bindparam("thread"))
    .order_by(_C.checkpoint_id.desc())
)


def _put(dialect: str) -> Any:
    statement = _INSERTS[dialect](thread_checkpoints)
    changed = ("run_id", "type", "checkpoint", "metadata")
    return statement.on_conflict_do_update(
        index_elements=_KEY, set_={name: statement.excluded[name] for name in changed}
    )


def _replace_writes(dialect: str) -> Any:
    statement = _INSERTS[dialect](thread_writes)
    changed = ("task_path", "channel", "type", "value")
    return statement.on_conflict_do_update(
        index_elements=[*_KEY, "task_id", "idx"], set_={name: statement.excluded[name] for name in changed}
    )


def _copy(dialect: str, table: sa.Table) -> Any:
    names = [column.name for column in table.columns]
    others = [table.c[name] for name in names if name != "thread_id"]
    copied = sa.select(sa.bindparam("target", type_=_C.thread_id.type), *others).where(
        table.c.thread_id == sa.bindparam("source")
    )
    return _INSERTS[dialect](table).from_select(names, copied).on_conflict_do_nothing()


_PUT = {dialect: _put(dialect) for dialect in _INSERTS}
_REPLACE_WRITES = {dialect: _replace_writes(dialect) for dialect in _INSERTS}
_ADD_WRITES = {
    dialect: insert(thread_writes).on_conflict_do_nothing() for dialect, insert in _INSERTS.items()
}
_COPY = {dialect: [_copy(dialect, t) for t in (thread_checkpoints, thread_writes)] for dialect in _INSERTS}

_DELETE_THREAD = [
    table.delete().where(table.c.thread_id == sa.bindparam("thread"))
    for table in (thread_checkpoints, thread_writes)
]
_DELETE_OLDER, _DELETE_OLDER_WRITES = (
    table.delete().where(
        *_in_namespace(table),
        table.c.checkpoint_id < sa.bindparam("latest"),
        table.c.checkpoint_id.not_in(sa.bindparam("kept", expanding=True)),
    )
    for table in (thread_checkpoints, thread_writes)
)
_OF_RUNS = _C.run_id.in_(sa.bindparam("runs", expanding=True))
_DELETE_RUNS = [
    thread_writes.delete().where(sa.exists().where(*(_W[name] == _C[name] for name in _KEY), _OF_RUNS)),
    thread_checkpoints.delete().where(_OF_RUNS),
]
