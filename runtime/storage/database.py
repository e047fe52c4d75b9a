"""One database: a writer thread that commits many waiting writes at once, and pooled readers.

A commit is what costs (a flush to disk, a round trip), not the statements; so writes that arrive
while one is being committed share the next commit. Each write runs in a savepoint: one that fails
takes nothing of its neighbours with it. ``write`` returns after the commit, never before.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from admiralty.core.errors import ConfigurationError, Retryable

T = TypeVar("T")
Work = Callable[[Connection], T]

MAX_GROUP = 256
"""Most writes in one commit: bounds how long the first of them waits for the last."""


class Database:
    """A SQL database, SQLite or PostgreSQL, opened and migrated."""

    def __init__(self, url: str, *, synchronous: str = "NORMAL") -> None:
        """Open ``url``; ``synchronous`` is SQLite's setting: NORMAL survives kill -9, FULL a power cut too.

        Raises ConfigurationError if the URL is wrong or a driver is missing, Retryable if the
        server cannot be reached.
        """
        self.url = database_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        self._engine = _engine(self.url, self.is_sqlite, synchronous)
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._migrate()
        self._writer = threading.Thread(target=self._write_loop, name="admiralty-writer", daemon=True)
        self._writer.start()

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in the next commit and return its result once that is done."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue ``work`` for the next commit."""
        if self._closed:
            raise Retryable("The database is closed: this process is shutting down.")
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a pooled connection, in a thread."""
        if self._in_memory:  # one connection only, and the writer has it
            return await self.write(work)
        return await asyncio.to_thread(self._read, work)

    async def close(self) -> None:
        """Finish what is queued, then let go of all connections."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
            self._engine.dispose()

    def _read(self, work: Work[T]) -> T:
        try:
            with self._engine.execution_options(immediate=False).connect() as connection:
                return work(connection)
        except OperationalError as error:
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
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._engine.connect() as connection, connection.begin():
                for work, future in group:
                    try:
                        with connection.begin_nested():
                            outcomes.append((future, work(connection), None))
                    except OperationalError:
                        raise
                    except Exception as error:
                        outcomes.append((future, None, error))
        except BaseException as error:
            failure = _unavailable(error) if isinstance(error, SQLAlchemyError) else error
            for _, future in group:
                future.set_exception(failure)
            return
        for future, result, problem in outcomes:
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)

    def _migrate(self) -> None:
        from admiralty.runtime.storage.migrate import migrate

        try:
            migrate(self._engine)
        except OperationalError as error:
            raise _unavailable(error) from error


def database_url(url: str) -> URL:
    """Return ``url`` with the driver that we use. Raises ConfigurationError for what is not supported."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            f"database_url = {url!r}: not a URL. Write sqlite:///path/to/file or postgresql://user@host/name."
        ) from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(
            f"database_url = {parsed.render_as_string()!r}: {backend} is not supported. "
            "Use SQLite or PostgreSQL."
        )
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    return parsed


def _engine(url: URL, is_sqlite: bool, synchronous: str) -> Engine:
    if synchronous not in ("NORMAL", "FULL"):
        raise ConfigurationError(f"sqlite_synchronous = {synchronous!r}: use NORMAL or FULL.")
    try:
        if not is_sqlite:
            return sa.create_engine(url, pool_size=5, max_overflow=5, pool_pre_ping=True)
        if url.database in (None, "", ":memory:"):
            # One shared connection: every thread must see the same database in memory.
            engine = sa.create_engine(url, poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
        else:
            engine = sa.create_engine(url, connect_args={"timeout": 30.0, "check_same_thread": False})
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


def _unavailable(error: BaseException) -> Retryable:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return Retryable(f"The database does not answer: {reason}", retry_after=1.0)
