"""Reads that arrive while others are under way, and go together: one question for all of them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from admiralty.core.errors import InvalidRequest
from admiralty.core.state import StateValue, Who
from admiralty.runtime.state.names import slot_of, tenant_of
from admiralty.runtime.state.primitives import MAX_NAMES, Primitives

MAX_READERS = 2
"""Questions of one tenant that are under way at once: one that takes long does not hold up the others."""


@dataclass(kw_only=True, slots=True)
class _Wanted:
    who: Who
    names: Sequence[tuple[str, str]]
    future: asyncio.Future[list[StateValue | None]]


class Reads:
    """Reads from one process. None is answered by what was read before it was asked for."""

    def __init__(self, state: Primitives) -> None:
        self._state = state
        self._queues: dict[str, deque[_Wanted]] = {}
        self._running: Counter[str] = Counter()
        self._readers: set[asyncio.Task[None]] = set()

    async def read(self, who: Who, names: Sequence[tuple[str, str]]) -> list[StateValue | None]:
        """Return values by ``(namespace, key)``, copies of the caller's own."""
        if len(names) > MAX_NAMES:
            raise InvalidRequest(f"names: {len(names)} at once; {MAX_NAMES} are possible.")
        for namespace, key in names:
            slot_of(who, namespace, key)  # a wrong name is its own caller's trouble only
        tenant = tenant_of(who)
        future: asyncio.Future[list[StateValue | None]] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(_Wanted(who=who, names=names, future=future))
        if self._running[tenant] < MAX_READERS:
            self._running[tenant] += 1
            reader = asyncio.create_task(self._run(tenant))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        return await future

    async def _run(self, tenant: str) -> None:
        taken: list[_Wanted] = []
        try:
            while taken := self._take(tenant):
                try:
                    # All are of one tenant, and nothing else about who asks matters to a reader.
                    names = [name for wanted in taken for name in wanted.names]
                    found = iter(await self._state.read(taken[0].who, names))
                except Exception as error:
                    for wanted in taken:
                        if not wanted.future.done():
                            wanted.future.set_exception(error)
                    continue
                for wanted in taken:
                    values = [next(found) for _ in wanted.names]
                    if not wanted.future.done():
                        wanted.future.set_result(values)
        finally:
            for wanted in taken:  # only where the task was cancelled: its loop ends
                wanted.future.cancel()
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]
                self._queues.pop(tenant, None)

    def _take(self, tenant: str) -> list[_Wanted]:
        """Return what waits, as much as can be asked for at once; at least one of them."""
        queue, taken, size = self._queues[tenant], list[_Wanted](), 0
        while queue and (not taken or size + len(queue[0].names) <= MAX_NAMES):
            taken.append(queue.popleft())
            size += len(taken[-1].names)
        return taken
