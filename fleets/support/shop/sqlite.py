"""The shop's records in a SQLite file, shared safely by all processes of one machine.

Each record is a row with its JSON. The file is seeded once, whoever comes first; a change is one
``BEGIN IMMEDIATE`` transaction that reads again inside, so that two replicas cannot both cancel
one order. Knows no rule of the desk.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from admiralty.core.errors import ConfigurationError
from admiralty.fleets.support.shop.records import Order, Product, User
from admiralty.fleets.support.shop.rules import Change
from admiralty.fleets.support.shop.source import ShopData
from admiralty.fleets.support.shop.store import Records, name_zip
from admiralty.tools import ToolError

BUSY_SECONDS = 10.0
"""How long a statement waits for another's lock. Below the tools' timeout (30 s), so that a call
that was given up cannot still be carried out later."""

SEED_SECONDS = 60.0
"""How long to wait for another process that seeds the same file."""

LAYOUT = 1
"""Version of the tables; part of the file's name, so that another layout never meets old files."""

_TABLES = (
    "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT NOT NULL, first_name TEXT NOT NULL, "
    "last_name TEXT NOT NULL, zip TEXT NOT NULL, body TEXT NOT NULL, original TEXT)",
    "CREATE INDEX users_email ON users (email)",
    "CREATE INDEX users_name ON users (last_name, first_name, zip)",
    "CREATE TABLE orders (id TEXT PRIMARY KEY, body TEXT NOT NULL, original TEXT)",
    "CREATE TABLE products (id TEXT PRIMARY KEY, body TEXT NOT NULL)",
)
"""``original`` is filled at a record's first change with what it was before."""


class SQLiteStore:
    """A ShopStore over a file that :func:`open_store` has seeded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()

    def user(self, user_id: str) -> User | None:
        with self._connection() as connection:
            return _View(connection).user(user_id)

    def order(self, order_id: str) -> Order | None:
        with self._connection() as connection:
            return _View(connection).order(order_id)

    def product(self, product_id: str) -> Product | None:
        with self._connection() as connection:
            return _View(connection).product(product_id)

    def products(self) -> list[Product]:
        with self._connection() as connection:
            rows = connection.execute("SELECT body FROM products ORDER BY rowid").fetchall()
        return [json.loads(body) for (body,) in rows]

    def user_id_by_email(self, email: str) -> str | None:
        return self._first("SELECT id FROM users WHERE email = ? ORDER BY rowid", email.lower())

    def user_id_by_name_zip(self, first_name: str, last_name: str, zip_code: str) -> str | None:
        return self._first(
            "SELECT id FROM users WHERE first_name = ? AND last_name = ? AND zip = ? ORDER BY rowid",
            first_name.lower(),
            last_name.lower(),
            zip_code,
        )

    def change(self, decide: Callable[[Records], Change]) -> Change:
        with self._connection() as connection, _transaction(connection):
            change = decide(_View(connection))
            for order_id, order in change.orders.items():
                connection.execute(
                    "UPDATE orders SET original = coalesce(original, body), body = ? WHERE id = ?",
                    (_json(order), order_id),
                )
            for user_id, user in change.users.items():
                connection.execute(
                    "UPDATE users SET original = coalesce(original, body), email = ?, first_name = ?, "
                    "last_name = ?, zip = ?, body = ? WHERE id = ?",
                    (user["email"].lower(), *name_zip(user), _json(user), user_id),
                )
        return change

    def changed(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        with self._connection() as connection:
            for kind in ("orders", "users"):
                rows = connection.execute(
                    f"SELECT id, body, original FROM {kind} WHERE original IS NOT NULL"  # noqa: S608
                )
                for key, body, original in rows:
                    record = json.loads(body)
                    if record != json.loads(original):
                        found.setdefault(kind, {})[key] = record
        return found

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _first(self, query: str, *parameters: str) -> str | None:
        with self._connection() as connection:
            row = connection.execute(query, parameters).fetchone()
        return str(row[0]) if row else None

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to one thread at a time; there are as many as there were threads at once."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _connect(self._path)
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise ToolError("the shop is busy at the moment; try again") from error
        finally:
            self._idle.append(connection)


class _View:
    """Reads records through one connection, and so inside its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def user(self, user_id: str) -> User | None:
        return cast("User | None", self._body("SELECT body FROM users WHERE id = ?", user_id))

    def order(self, order_id: str) -> Order | None:
        return cast("Order | None", self._body("SELECT body FROM orders WHERE id = ?", order_id))

    def product(self, product_id: str) -> Product | None:
        return cast("Product | None", self._body("SELECT body FROM products WHERE id = ?", product_id))

    def _body(self, query: str, key: str) -> Any:
        row = self._connection.execute(query, (key,)).fetchone()
        return json.loads(row[0]) if row else None


def open_store(data: ShopData, home: Path) -> SQLiteStore:
    """Return the store of this data in the directory ``home``, seeded if nobody has done so yet.

    The file is named by a digest of the data: changed data makes a fresh shop, the same data finds
    all that was written before. Raises ConfigurationError if the file cannot be made or read.
    """
    path = home / f"shop-{data.digest[:16]}-{LAYOUT}.sqlite3"
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Only the lock file makes "switch to WAL, create, seed" one step between processes: SQLite
        # does not wait when two connections change the journal mode at once.
        with _exclusive(path.with_suffix(".lock")):
            connection = _connect(path)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                if connection.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
                    with _transaction(connection):
                        _seed(connection, data)
            finally:
                connection.close()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the shop cannot be kept here ({error.strerror or error}). Give a home directory that "
            "can be written."
        ) from error
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path}: not usable as the shop's file ({error}). Move it away: the shop is then seeded afresh, "
            "without what was written to it."
        ) from error
    return SQLiteStore(path)


def _seed(connection: sqlite3.Connection, data: ShopData) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO users (id, email, first_name, last_name, zip, body) VALUES (?, ?, ?, ?, ?, ?)",
        ((key, user["email"].lower(), *name_zip(user), _json(user)) for key, user in data.users.items()),
    )
    tables: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("orders", data.orders),
        ("products", data.products),
    )
    for table, records in tables:
        connection.executemany(
            f"INSERT INTO {table} (id, body) VALUES (?, ?)",  # noqa: S608
            ((key, _json(record)) for key, record in records.items()),
        )
    # Set in the same transaction: the file counts as seeded only if all of it is there.
    connection.execute(f"PRAGMA user_version = {LAYOUT}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # With WAL, NORMAL survives a killed process; only a power cut may take the last changes.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system lets go of it when its holder dies."""
    deadline = time.monotonic() + SEED_SECONDS
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        None, f"another process has been seeding the shop for {SEED_SECONDS:g} s"
                    ) from None
                time.sleep(0.02)
        yield


def _json(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))
