"""One database: a writer thread that commits many waiting writes at once, and pooled readers.

A commit is what costs (a flush to disk, a round trip), not the statements; so writes that arrive
while one is being committed share the next commit. Each write that shares runs in a savepoint: one that
fails takes nothing of its neighbours with it. ``write`` returns after the commit, never before.
"""

from __future__ import annotations

import asyncio
import json
import math
import queue
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from admiralty.core.errors import ConfigurationError, Retryable
from admiralty.core.settings import Settings

T = TypeVar("T")
Work = Callable[[Connection], T]

MAX_GROUP = 256
"""Most writes in one commit: bounds how long the first of them waits for the last."""

GROUP_SECONDS, ALONE_SECONDS = 0.05, 2.0
"""How long a write waits for a lock that another process has: among others, and then once more by itself."""

STOPPED_SECONDS = 10.0
"""After which PostgreSQL ends a transaction whose process does nothing, so that others get its locks."""

CONNECT_SECONDS = 10
"""How long a PostgreSQL server may take to answer at all."""


class Database:
    """A SQL database, SQLite or PostgreSQL, opened and migrated."""

    def __init__(self, url: str, *, synchronous: str = "NORMAL") -> None:
        """Open ``url``; ``synchronous`` is SQLite's setting: NORMAL survives kill -9, FULL a power cut too.

        Raises ConfigurationError if the URL is wrong or a driver is missing, Retryable if the
        server cannot be reached.
        """
        self.url = database_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        """Whether it lives in this process only, on one connection."""
        self._engine = _engine(self.url, self.is_sqlite, synchronous)
        self._writing = self._engine if self.is_sqlite else _writing_engine(self.url)
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._migrate()
        self._writer = threading.Thread(target=self._write_loop, name="admiralty-writer", daemon=True)
        self._writer.start()

    @classmethod
    def of(cls, settings: Settings) -> Database:
        """Open the database that the settings name."""
        return cls(settings.resolved_database_url, synchronous=settings.sqlite_synchronous)

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in the next commit and return its result once that is done."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue ``work`` for the next commit."""
        future: Future[T] = Future()
        with self._closing:  # nothing may come behind the end mark: it would wait for ever
            if self._closed:
                raise Retryable("The database is closed: this process is shutting down.")
            self._queue.put((work, future))
        return future

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a pooled connection, in a thread."""
        if self.in_memory:  # one connection only, and the writer has it
            return await self.write(work)
        return await asyncio.to_thread(self._read, work)

    async def close(self) -> None:
        """Finish what is queued, then let go of all connections."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        self._writing.dispose()
        self._engine.dispose()

    def _read(self, work: Work[T]) -> T:
        try:
            with self._engine.execution_options(immediate=False).connect() as connection:
                return work(connection)
        except (OperationalError, sa.exc.TimeoutError) as error:
            raise _unavailable(error) from error

    def _write_loop(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            ends = False
            while len(group) < MAX_GROUP:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    ends = True
                    break
                group.append(item)
            self._commit(group)
            if ends:
                return

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        group = [item for item in group if item[1].set_running_or_notify_cancel()]
        for work, future in self._commit_together(group):
            if self._commit_together([(work, future)], patience=ALONE_SECONDS):
                busy = Retryable("Too many processes write the same at once.", retry_after=1.0)
                future.set_exception(busy)

    def _commit_together(
        self, group: list[tuple[Work[Any], Future[Any]]], *, patience: float | None = None
    ) -> list[tuple[Work[Any], Future[Any]]]:
        """Do a group's writes in one transaction; return those for which others' locks were in the way.

        Writes of one group hold their locks until all are committed: two processes whose groups meet the
        same rows in different orders would wait for each other, though each write by itself has a good
        order. So none waits for long here. ``patience``: seconds that one waits by itself, holding nothing.
        """
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        later: list[tuple[Work[Any], Future[Any]]] = []
        try:
            with self._writing.connect() as connection, connection.begin() as transaction:
                if patience is not None:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{patience:g}s'")
                for work, future in group:
                    try:
                        # A savepoint costs two statements; a write on its own can do without.
                        with connection.begin_nested() if len(group) > 1 else nullcontext():
                            outcomes.append((future, work(connection), None))
                    except Exception as error:
                        if self._transaction_is_lost(connection, error):
                            raise _first(error) from None
                        if len(group) == 1:
                            transaction.rollback()
                        if _is_locked(error):
                            later.append((work, future))
                            continue
                        failure = _unavailable(error) if isinstance(error, OperationalError) else error
                        outcomes.append((future, None, failure))
        except BaseException as error:
            lost = _unavailable(error) if isinstance(error, SQLAlchemyError) else error
            for _, future in group:
                future.set_exception(lost)
            return []
        for future, result, problem in outcomes:
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)
        return later

    def _transaction_is_lost(self, connection: Connection, error: Exception) -> bool:
        """Return whether a write's error has ended the transaction that it shares with its neighbours."""
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        # SQLite rolls everything back by itself where a disk is full or fails.
        driver: Any = connection.connection.driver_connection
        return self.is_sqlite and not driver.in_transaction

    def _migrate(self) -> None:
        from admiralty.runtime.storage.migrate import migrate

        try:
            migrate(self._engine)
        except DBAPIError as error:
            if self.is_sqlite and "locked" not in str(error):
                raise ConfigurationError(
                    f"database_url = {str(self.url)!r}: {_reason(error)}. Name a file that can be written, "
                    "or one that is not there yet."
                ) from error
            raise _unavailable(error) from error


def database_url(url: str) -> URL:
    """Return ``url`` with the driver that we use. Raises ConfigurationError for what is not supported."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number is a plain ValueError
        shown = re.sub(r"//[^/@]*@", "//***@", url)
        raise ConfigurationError(
            f"database_url = {shown!r}: not a URL. Write sqlite:///path/to/file or postgresql://user@host/name."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        # Without it, a server that drops packets is waited for for minutes.
        waiting = {} if "connect_timeout" in parsed.query else {"connect_timeout": str(CONNECT_SECONDS)}
        return parsed.set(drivername="postgresql+psycopg").update_query_dict(waiting)
    if backend != "sqlite":
        raise ConfigurationError(
            f"database_url = {parsed.render_as_string()!r}: {backend} is not supported. "
            "Use SQLite or PostgreSQL."
        )
    if parsed.database and parsed.database != ":memory:":
        folder = Path(parsed.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"database_url = {url!r}: {folder} cannot be made: {error.strerror}. Name another folder."
            ) from error
    return parsed


def _engine(url: URL, is_sqlite: bool, synchronous: str) -> Engine:
    if synchronous not in ("NORMAL", "FULL"):
        raise ConfigurationError(f"sqlite_synchronous = {synchronous!r}: use NORMAL or FULL.")
    try:
        if not is_sqlite:
            return sa.create_engine(
                url, pool_size=5, max_overflow=5, pool_pre_ping=True, json_serializer=plain_json
            )
        if url.database in (None, "", ":memory:"):
            # One shared connection: every thread must see the same database in memory.
            given = {"check_same_thread": False}
            engine = sa.create_engine(
                url, poolclass=sa.StaticPool, connect_args=given, json_serializer=plain_json
            )
        else:
            waiting = {"timeout": 30.0, "check_same_thread": False}
            engine = sa.create_engine(url, connect_args=waiting, json_serializer=plain_json)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigurationError(
            f"database_url names {url.drivername}, but {error}. Run: pip install 'admiralty[postgres]'."
        ) from error

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that turns into a write can fail at once with "database is locked".
        immediate = connection.get_execution_options().get("immediate", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _writing_engine(url: URL) -> Engine:
    """Return PostgreSQL's engine for the writer: few statements, again and again, each planned only once.

    By default each is planned anew with its values, which costs more the more rows there are.
    """
    given = url.query.get("options", "")
    options = (
        f"{given if isinstance(given, str) else ' '.join(given)} -c plan_cache_mode=force_generic_plan"
        f" -c lock_timeout={1000 * GROUP_SECONDS:g}"
        f" -c idle_in_transaction_session_timeout={1000 * STOPPED_SECONDS:g}"
    )
    return sa.create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"options": options.strip()},
        json_serializer=plain_json,
    )


def plain_json(value: Any) -> str:
    """Return JSON that every database takes: numbers that are none, which models write too, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _is_locked(error: Exception) -> bool:
    """Return whether PostgreSQL broke a statement off that waited for a lock: a deadlock, or for too long."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, OperationalError) else None
    return state in ("40P01", "55P03")


def _first(error: Exception) -> Exception:
    """Return the error that a failed return to the savepoint hides."""
    first, earlier = error, error.__context__
    while earlier is not None:
        if isinstance(earlier, DBAPIError):
            first = earlier
        earlier = earlier.__context__
    return first


def _unavailable(error: BaseException) -> Retryable:
    return Retryable(f"The database does not answer: {_reason(error)}", retry_after=1.0)


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
