"""What lies outside of the runtime in a chaos run: the effects that tools had, and what models were asked.

A file of its own, with no rule against doubles: whatever is done twice stands there twice. It is what a
remote service would be, and offers what a good one does: to look a call up by its idempotency key, and to
refuse calls of an execution that has been given up (a fencing token).
"""

import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_TABLES = (
    "CREATE TABLE IF NOT EXISTS done (key TEXT, tool TEXT, mark TEXT, fence INTEGER, at REAL)",
    "CREATE INDEX IF NOT EXISTS done_key ON done (key)",
    "CREATE TABLE IF NOT EXISTS fenced (key TEXT PRIMARY KEY, fence INTEGER)",
    "CREATE TABLE IF NOT EXISTS asked (run TEXT, tenant TEXT, agent TEXT, seen INTEGER, at REAL)",
)


class Refused(Exception):
    """The call is of an execution that was given up: nothing was done."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """An effect that took place."""

    key: str
    tool: str
    mark: str
    """What the user asked for, unique to their message."""


class World:
    """The outside, for any number of processes and threads: each call opens the file for itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for statement in _TABLES:
                connection.execute(statement)

    def do(self, *, key: str, tool: str, mark: str, fence: int) -> None:
        """Have an effect. Raises Refused if this execution was given up."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute("SELECT fence FROM fenced WHERE key = ?", (key,)).fetchone()
            if row is not None and fence < row[0]:
                connection.execute("ROLLBACK")
                raise Refused(f"{key} at {fence} was given up at {row[0]}")
            connection.execute(
                "INSERT INTO done VALUES (?, ?, ?, ?, ?)", (key, tool, mark, fence, time.time())
            )
            connection.execute("COMMIT")

    def give_up(self, key: str, fence: int) -> bool:
        """Refuse the call from now on to executions before ``fence``; return whether it was done already."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute("SELECT 1 FROM done WHERE key = ?", (key,)).fetchone()
            connection.execute(
                "INSERT INTO fenced VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET fence = max(fence, excluded.fence)",
                (key, fence),
            )
            connection.execute("COMMIT")
            return found is not None

    def has(self, mark: str, tool: str) -> bool:
        """Tell whether what a message asked for took place: what a person finds who looks."""
        with self._open() as connection:
            query = "SELECT 1 FROM done WHERE mark = ? AND tool = ?"
            return connection.execute(query, (mark, tool)).fetchone() is not None

    def ask(self, *, run: str, tenant: str, agent: str, seen: int) -> None:
        """Note that a model was asked: a provider charges for that."""
        with self._open() as connection:
            connection.execute(
                "INSERT INTO asked VALUES (?, ?, ?, ?, ?)", (run, tenant, agent, seen, time.time())
            )

    def done(self) -> list[Done]:
        """Return all effects in order."""
        with self._open() as connection:
            rows = connection.execute("SELECT key, tool, mark FROM done ORDER BY rowid").fetchall()
        return [Done(key=key, tool=tool, mark=mark) for key, tool, mark in rows]

    def asked_by_tenant(self) -> Counter[str]:
        """Return how often models were asked for each tenant."""
        with self._open() as connection:
            rows = connection.execute("SELECT tenant, count(*) FROM asked GROUP BY tenant").fetchall()
        return Counter(dict(rows))

    def asked_again(self) -> int:
        """Return how many questions were put a second time, with the same history in the same run."""
        with self._open() as connection:
            query = "SELECT count(*), count(DISTINCT run || ' ' || agent || ' ' || seen) FROM asked"
            asked, different = connection.execute(query).fetchone()
        return int(asked) - int(different)

    def _open(self) -> closing[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=20.0, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")  # survives a killed process, as all here must
        return closing(connection)
