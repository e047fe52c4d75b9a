"""LangGraph's checkpointer for our database: what a conversation's graph keeps between turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from sqlalchemy.engine import URL

from admiralty.core.errors import ConfigurationError

_LOCK = 0x41444D43  # "ADMC": taken while the checkpointer's own tables are made


@asynccontextmanager
async def open_checkpointer(url: URL) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """Open LangGraph's checkpointer in the database at ``url``, its tables made if they are missing."""
    if url.get_backend_name() == "postgresql":
        async with _postgres(url) as saver:
            yield saver
    elif url.database in (None, "", ":memory:"):
        yield InMemorySaver(serde=JsonPlusSerializer())
    else:
        async with _sqlite(str(url.database)) as saver:
            yield saver


@asynccontextmanager
async def _sqlite(path: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with aiosqlite.connect(path, timeout=30.0) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            await connection.execute(f"PRAGMA {pragma}")
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        yield saver


@asynccontextmanager
async def _postgres(url: URL) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool
    except ImportError as error:
        raise ConfigurationError(
            f"database_url names PostgreSQL, but {error}. Run: pip install 'admiralty[postgres]'."
        ) from error
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(dsn, max_size=8, min_size=1, kwargs=options, open=False) as pool:
        saver = AsyncPostgresSaver(cast("Any", pool))
        async with pool.connection() as connection:
            # Its migrations are not made for two processes at once. They create indexes concurrently,
            # which waits for every running statement: one that waits for the lock would never end.
            while not await _locked(connection):  # noqa: ASYNC110 - another process holds it
                await asyncio.sleep(0.05)
            try:
                await saver.setup()
            finally:
                await connection.execute(f"SELECT pg_advisory_unlock({_LOCK})")
        yield saver


async def _locked(connection: Any) -> bool:
    row = await (await connection.execute(f"SELECT pg_try_advisory_lock({_LOCK}) AS locked")).fetchone()
    return bool(row["locked"])
