"""Every decision, kept: allows soon and many at once, denials before the refusal goes out.

A buffer in memory stands between decisions and database. It is bounded: while the database does not
keep up, the oldest allows are dropped, and counted. Denials are never dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.clock import SystemClock
from admiralty.core.errors import InvalidRequest, Retryable
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.values import Access, Action, Decision
from admiralty.runtime.policy.records import DecisionRecord, Verdict, question, record_of, row_of
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import decisions

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
MAX_ALLOWS = 4096
CHUNK = 64
"""Rows in one insert: holds and entries wait behind it in the writer's queue."""

# A write whose answer was lost is tried again: it may be there already.
_INSERTS = {
    "sqlite": sqlite.insert(decisions).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(decisions).on_conflict_do_nothing(),
}


class _Kept(NamedTuple):
    id: str
    at: float
    question: Mapping[str, Any]
    access: Access
    decision: Decision


class DecisionLog:
    """The decisions of one database. For one event loop."""

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        max_allows: int = MAX_ALLOWS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._max_allows = max_allows
        self._flush_seconds = flush_seconds
        self._allows: deque[_Kept] = deque()
        self._denials: deque[_Kept] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Decisions that were never written: allows for which the buffer had no room."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Decisions that are not written yet."""
        return len(self._allows) + len(self._denials)

    def add(self, access: Access, decision: Decision) -> None:
        """Keep a decision; it is written within ``flush_seconds``. Costs no wait."""
        self._buffer(self._kept(access, decision))

    async def write(self, access: Access, decision: Decision) -> None:
        """Keep a decision now. Where the database does not take it, it is tried again later."""
        kept = self._kept(access, decision)
        try:
            await self._insert([kept])
        except Retryable as error:
            logger.warning("decision %s waits for the database: %s", kept.id, error)
            self._buffer(kept)

    async def flush(self) -> None:
        """Write what is buffered. Raises Retryable; what is not written stays buffered."""
        while chunk := self._take():
            try:
                await self._insert(chunk)
            except Retryable:
                for kept in reversed(chunk):
                    self._buffer_of(kept).appendleft(kept)
                raise

    async def close(self) -> None:
        """Write what is buffered, and say so if that fails."""
        self._closing.set()
        if self._writer is not None:
            await self._writer
        try:
            await self.flush()
        except Retryable:
            logger.exception("%d decisions could not be written", self.waiting)

    # -- reading ----------------------------------------------------------------------------------

    async def find(
        self,
        *,
        tenant: str | None = None,
        since: float | None = None,
        until: float | None = None,
        decision: Verdict | None = None,
        action: Action | None = None,
        conversation: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[DecisionRecord]:
        """Return recorded decisions, newest first; those behind ``after`` (an id), where one is given.

        ``None`` for the tenant means all. Raises InvalidRequest for an ``after`` that is none of them.
        """
        table = decisions.c
        conditions = [
            column == value
            for column, value in (
                (table.tenant, tenant),
                (table.decision, decision),
                (table.action, action),
                (table.conversation_id, conversation),
            )
            if value is not None
        ]
        if since is not None:
            conditions.append(table.at >= since)
        if until is not None:
            conditions.append(table.at < until)

        def select(connection: Connection) -> list[DecisionRecord]:
            query = sa.select(decisions).where(*conditions)
            if after is not None:
                place = sa.select(table.at).where(table.id == after)
                if tenant is not None:
                    place = place.where(table.tenant == tenant)
                at = connection.execute(place).scalar()
                if at is None:
                    raise InvalidRequest(f"after = {after[:50]!r}: there is no such decision.", param="after")
                query = query.where(sa.tuple_(table.at, table.id) < sa.tuple_(at, after))
            query = query.order_by(table.at.desc(), table.id.desc()).limit(limit)
            return [record_of(row) for row in connection.execute(query)]

        return await self._database.read(select)

    # -- writing ----------------------------------------------------------------------------------

    def _kept(self, access: Access, decision: Decision) -> _Kept:
        # The facts are copied now: tools go on changing them.
        return _Kept(new_id("dec"), self._clock.now(), question(access), access, decision)

    def _buffer_of(self, kept: _Kept) -> deque[_Kept]:
        return self._allows if kept.decision.allowed else self._denials

    def _buffer(self, kept: _Kept) -> None:
        self._buffer_of(kept).append(kept)
        while len(self._allows) > self._max_allows:
            self._allows.popleft()
            self._dropped += 1
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_soon())

    def _take(self) -> list[_Kept]:
        chunk: list[_Kept] = []
        for buffer in (self._denials, self._allows):
            while buffer and len(chunk) < CHUNK:
                chunk.append(buffer.popleft())
        return chunk

    async def _write_soon(self) -> None:
        while self.waiting and not self._closing.is_set():
            try:
                async with asyncio.timeout(self._flush_seconds):
                    await self._closing.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
            except Retryable as error:
                logger.warning("%d decisions wait for the database: %s", self.waiting, error)

    async def _insert(self, chunk: Sequence[_Kept]) -> None:
        """Write rows. Raises Retryable; a row that no database takes is told in the log instead."""

        def insert(connection: Connection) -> None:
            rows = [row_of(*kept) for kept in chunk]
            connection.execute(_INSERTS[connection.dialect.name], rows)

        try:
            await self._database.write(insert)
        except Retryable:
            raise
        except Exception:
            if len(chunk) == 1:
                self._dropped += 1
                lost = chunk[0]  # without the facts: logs are read by more people than the database
                logger.exception(
                    "a decision (%s on %s, allowed %s) cannot be written",
                    lost.access.action,
                    lost.access.resource,
                    lost.decision.allowed,
                )
                return
            for kept in chunk:
                await self._insert([kept])
