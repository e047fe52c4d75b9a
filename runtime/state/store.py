"""The StateStore port, made of primitives: in the database's process, or beyond a hop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

from admiralty.core.clock import SystemClock
from admiralty.core.errors import AdmiraltyError, InvalidRequest, Locked, LockLost
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.core.state import (
    Check,
    Committed,
    Completion,
    Lock,
    Merge,
    StateChange,
    StateValue,
    Who,
    Write,
)
from admiralty.runtime.state.primitives import Primitives
from admiralty.runtime.state.reads import Reads
from admiralty.runtime.state.sql import SqlState
from admiralty.runtime.state.updates import Updates
from admiralty.runtime.state.watching import Watching
from admiralty.runtime.storage import Database

LOCK_SECONDS = 0.1
"""How often a lock that is taken is tried again."""


class ComposedStateStore:
    """Shared state over primitives."""

    def __init__(self, state: Primitives) -> None:
        self.primitives = state
        self._reads = Reads(state)
        self._updates = Updates(state, self._reads)
        self._watching = Watching(state)
        self._late: set[asyncio.Task[None]] = set()

    async def get_many(self, who: Who, names: Sequence[tuple[str, str]]) -> list[StateValue | None]:
        return await self._reads.read(who, names)

    async def find(
        self, who: Who, namespace: str, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> list[StateValue]:
        return await self.primitives.find(who, namespace, prefix, after, limit)

    async def transact(
        self,
        who: Who,
        writes: Sequence[Write],
        *,
        checks: Sequence[Check] = (),
        locks: Sequence[Lock] = (),
        completes: Completion | None = None,
    ) -> Committed:
        committed = await self.primitives.transact(who, writes, checks, locks, completes)
        for write in writes:
            self._watching.written(who, write.namespace, write.key)
        return committed

    async def update(
        self, who: Who, namespace: str, key: str, merge: Merge, *, default: Any = None, attempts: int = 50
    ) -> StateValue:
        updated = await self._updates.update(who, namespace, key, merge, default, attempts)
        self._watching.written(who, namespace, key)
        return updated

    async def history(
        self, who: Who, namespace: str, key: str, *, before: int | None = None, limit: int = 100
    ) -> list[StateChange]:
        return await self.primitives.history(who, namespace, key, before, limit)

    async def watch(
        self, who: Who, namespace: str, *, key: str | None = None, prefix: str = "", after: int | None = None
    ) -> AsyncGenerator[StateChange, None]:
        if after is not None and (after < 0 or (key is None and after)):
            raise InvalidRequest(
                f"after = {after}: a version of one key; for several, 0 tells all that is kept.",
                param="after",
            )
        known = await self.primitives.positions(who, namespace, key, prefix)
        if after is not None:
            known = {} if key is None else {key: after}
        return self._follow(who, namespace, key, prefix, known)

    async def _follow(
        self, who: Who, namespace: str, key: str | None, prefix: str, known: dict[str, int]
    ) -> AsyncGenerator[StateChange, None]:
        with self._watching.following(who, namespace, key, prefix) as news:
            while True:
                news.clear()
                changes = await self.primitives.changes(who, namespace, key, prefix, known)
                for change in changes:
                    known[change.key] = change.version
                    yield change
                if not changes:
                    await news.wait()

    async def acquire(self, who: Who, namespace: str, key: str, *, lease: float, wait: float = 0.0) -> Lock:
        holder, until = new_id("lock"), time.monotonic() + wait
        while True:
            try:
                return await self._try(who, namespace, key, holder, lease)
            except Locked:
                left = until - time.monotonic()
                if left <= 0:
                    raise
            await self.primitives.until_changed(who, namespace, min(left, LOCK_SECONDS))

    async def renew(self, who: Who, lock: Lock, *, lease: float) -> Lock:
        return await self.primitives.renew(who, lock, lease)

    async def release(self, who: Who, lock: Lock) -> None:
        with suppress(LockLost):
            await self.primitives.release(who, lock)

    async def _try(self, who: Who, namespace: str, key: str, holder: str, lease: float) -> Lock:
        taking = asyncio.ensure_future(self.primitives.try_acquire(who, namespace, key, holder, lease))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # It may have been taken by now, for somebody who has left.
            late = asyncio.create_task(self._give_back(who, taking))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise

    async def _give_back(self, who: Who, taking: asyncio.Future[Lock]) -> None:
        with suppress(AdmiraltyError):
            await self.release(who, await taking)


class SqlStateStore(ComposedStateStore):
    """Shared state in a database, whose values all processes on that database share."""

    def __init__(self, database: Database, clock: Clock | None = None, *, history: int = 100) -> None:
        """Keep ``history`` versions of each value besides its present one."""
        super().__init__(SqlState(database, clock or SystemClock(), history=history))
