"""Watchers of shared state: one look for all of a process, and versions that are asked for together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from admiralty.core.state import Who
from admiralty.core.values import Identity
from admiralty.runtime.polling import Poller
from admiralty.runtime.state.names import Slot, tenant_of
from admiralty.runtime.state.primitives import Primitives

Place = tuple[str, str, str | None, str]
"""Tenant, namespace, and either one key or the beginning of several."""


class Watching:
    """Who watches what in this process."""

    def __init__(self, state: Primitives) -> None:
        self._state = state
        self._poller = Poller(self._positions)

    def following(
        self, who: Who, namespace: str, key: str | None, prefix: str
    ) -> AbstractContextManager[asyncio.Event]:
        """See :meth:`Poller.following`."""
        return self._poller.following((tenant_of(who), namespace, key, "" if key is not None else prefix))

    def written(self, who: Who, namespace: str, key: str) -> None:
        """Tell the watchers at once that this process has written a value."""
        if self._poller.idle:
            return
        tenant = tenant_of(who)
        self._poller.wake((tenant, namespace, key, ""))
        for length in range(len(key) + 1):
            self._poller.wake((tenant, namespace, None, key[:length]))

    async def _positions(self, places: Sequence[Place]) -> Mapping[Place, Mapping[str, int]]:
        found = await asyncio.gather(
            *(
                self._state.positions(Identity(tenant=tenant), namespace, key, prefix)
                for tenant, namespace, key, prefix in places
            )
        )
        return dict(zip(places, found, strict=True))


class Versions:
    """Versions of single values; those that are asked for at one moment are one question."""

    def __init__(self, read: Callable[[Sequence[Slot]], Awaitable[Mapping[Slot, int]]], *, most: int) -> None:
        """``read`` returns the versions of up to ``most`` values that were ever written."""
        self._read = read
        self._most = most
        self._wanted: dict[Slot, asyncio.Future[int]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def of(self, slot: Slot) -> int:
        """Return the present version of a value, 0 where nothing was ever written."""
        if not self._wanted:
            asking = asyncio.create_task(self._ask())
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        future = self._wanted.get(slot)
        if future is None:
            future = self._wanted[slot] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)  # others may wait for it too

    async def _ask(self) -> None:
        wanted, self._wanted = self._wanted, {}
        slots = list(wanted)
        try:
            found: dict[Slot, int] = {}
            for first in range(0, len(slots), self._most):
                found |= await self._read(slots[first : first + self._most])
        except Exception as error:
            for future in wanted.values():
                future.set_exception(error)
        else:
            for slot, future in wanted.items():
                future.set_result(found.get(slot, 0))
        finally:
            for future in wanted.values():  # only where the task was cancelled: its loop ends
                future.cancel()
