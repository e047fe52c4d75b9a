"""Updates by merge functions: read, merge, write if nobody was faster.

Updates of one key in one process do not race: one task leads, merges for all who wait, each from what the
one before has made, and writes that in one go. So they contend with other processes only.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import random
from collections import deque
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from admiralty.core.errors import InvalidRequest, VersionConflict
from admiralty.core.state import Committed, Merge, StateValue, Who, Write
from admiralty.runtime.state.names import Slot, decode, encode, slot_of
from admiralty.runtime.state.primitives import Primitives
from admiralty.runtime.state.reads import Reads

MAX_CHAIN = 64
"""Updates that are written in one go."""

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.1
"""Bounds of the random pause after somebody else was faster, in seconds; it doubles with each time."""


@dataclass(kw_only=True, slots=True)
class _Wish:
    who: Who
    merge: Merge
    default: Any
    attempts: int
    future: asyncio.Future[StateValue]
    context: Context = field(default_factory=copy_context)

    def next(self, text: str | None) -> str:
        """Return the value that comes after ``text``. Raises whatever the merge function does."""
        given = copy.deepcopy(self.default) if text is None else decode(text)
        made = self.context.run(self.merge, given)
        if inspect.isawaitable(made):
            if inspect.iscoroutine(made):
                made.close()
            raise InvalidRequest(
                "merge: it is async, but nothing may be waited for in it: it may run several times. "
                "Fetch what it needs before, or use a transaction."
            )
        if made is None:
            raise InvalidRequest(
                "merge: it returned None. Return the new value, also where you changed the old."
            )
        return encode(made)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Present:
    """A value as it stands."""

    version: int
    text: str | None


class Updates:
    """Updates from one process."""

    def __init__(self, state: Primitives, reads: Reads) -> None:
        self._state = state
        self._reads = reads
        self._queues: dict[Slot, deque[_Wish]] = {}
        self._leaders: set[asyncio.Task[None]] = set()

    async def update(
        self, who: Who, namespace: str, key: str, merge: Merge, default: Any, attempts: int
    ) -> StateValue:
        """Replace a value by what ``merge`` makes of it; see the port."""
        if attempts < 1:
            raise InvalidRequest(f"attempts = {attempts!r}: at least 1.")
        slot = slot_of(who, namespace, key)
        future: asyncio.Future[StateValue] = asyncio.get_running_loop().create_future()
        wish = _Wish(who=who, merge=merge, default=default, attempts=attempts, future=future)
        if (queue := self._queues.get(slot)) is not None:
            queue.append(wish)
        else:
            self._queues[slot] = deque([wish])
            leader = asyncio.create_task(self._lead(slot))
            self._leaders.add(leader)
            leader.add_done_callback(self._leaders.discard)
        return await future

    async def _lead(self, slot: Slot) -> None:
        queue = self._queues[slot]
        present: _Present | None = None
        conflicts = 0
        wishes: list[_Wish] = []
        try:
            while queue:
                wishes = [queue.popleft() for _ in range(min(len(queue), MAX_CHAIN))]
                try:
                    if present is None:
                        present = await self._read(slot, wishes[0].who)
                    present, again = await self._write(slot, present, wishes)
                except Exception as error:  # the database, or the way to it
                    present, again = None, []
                    for wish in wishes:
                        _fail(wish, error)
                queue.extendleft(reversed(again))
                conflicts = conflicts + 1 if present is None and again else 0
                if conflicts:
                    await asyncio.sleep(random.uniform(0, min(FIRST_PAUSE * 2**conflicts, LONGEST_PAUSE)))
        finally:
            del self._queues[slot]
            for wish in (*wishes, *queue):  # only where the task was cancelled: its loop ends
                wish.future.cancel()

    async def _read(self, slot: Slot, who: Who) -> _Present:
        [found] = await self._reads.read(who, [slot[1:]])
        if found is None:
            return _Present(version=0, text=None)
        return _Present(version=found.version, text=encode(found.value))

    async def _write(
        self, slot: Slot, present: _Present, wishes: list[_Wish]
    ) -> tuple[_Present | None, list[_Wish]]:
        """Make what is wished; return what stands then, as far as it is known, and whom to try again."""
        _, namespace, key = slot
        merged: list[tuple[_Wish, str]] = []
        writes: list[tuple[Who, Write]] = []
        version, text = present.version, present.text
        for wish in wishes:
            if wish.future.done():  # nobody waits for it any more
                continue
            try:
                text_next = wish.next(text)
            except (Exception, SystemExit) as error:
                _fail(wish, error)
                continue
            write = Write(namespace=namespace, key=key, value=decode(text_next), expected=version)
            # Numbers go on behind a deletion, which is not known here: then only the first goes through.
            text, version = text_next, version + 1
            merged.append((wish, text))
            writes.append((wish.who, write))
        if not writes:
            return present, []
        again: list[_Wish] = []
        standing: _Present | None = None
        for (wish, text), result in zip(merged, await self._state.chain(writes), strict=True):
            if isinstance(result, Committed):
                standing = _Present(version=result.versions[0], text=text)
                _tell(wish, namespace, key, result, text)
                continue
            standing = None
            wish.attempts -= 1
            if isinstance(result, VersionConflict) and wish.attempts:
                again.append(wish)
            else:
                _fail(wish, result)
        return standing, again


def _tell(wish: _Wish, namespace: str, key: str, made: Committed, text: str) -> None:
    if not wish.future.done():
        value = StateValue(
            namespace=namespace, key=key, value=decode(text), version=made.versions[0], updated_at=made.at
        )
        wish.future.set_result(value)


def _fail(wish: _Wish, error: BaseException) -> None:
    if isinstance(error, StopIteration):  # which no future takes
        error = RuntimeError(f"merge raised {error!r}")
    if not wish.future.done():
        wish.future.set_exception(error)
