"""What the ledger's next transaction is made of, and who waits for money that others hold. No I/O."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from admiralty.core.frozen import replace
from admiralty.runtime.ledger.batch import Batch, Key, Order, Reservation, Settlement
from admiralty.runtime.ledger.decide import Wait
from admiralty.runtime.ledger.values import Entry, Hold, HoldRequest

MAX_BATCH = 256
MAX_RETRIED = 32
"""Waiting calls on one counter that are tried at once."""

Refresh = Callable[[], HoldRequest]


@dataclass(kw_only=True, eq=False)
class Pending:
    """A reservation on its way."""

    reservation: Reservation
    future: asyncio.Future[Hold]
    refresh: Refresh | None
    key: Key | None = None
    wait: Wait | None = None
    registered: bool = False
    until: float = 0.0
    """Until when, by the loop's clock, it waits for money that others hold."""
    timer: asyncio.Timeout | None = None

    @property
    def id(self) -> str:
        return self.reservation.request.id


@dataclass(kw_only=True, eq=False)
class Settling:
    """A settlement on its way. Nobody need wait for it: it is tried until it is committed."""

    settlement: Settlement
    future: asyncio.Future[Entry]


@dataclass(kw_only=True)
class Sent:
    """A batch under way, and whose it is."""

    batch: Batch
    reserving: Sequence[Pending] = ()
    settling: Sequence[Settling] = ()


@dataclass(kw_only=True)
class Queues:
    """What the next batch is made of."""

    new: list[Pending] = field(default_factory=list)
    settling: list[Settling] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    waiting: dict[Key, dict[str, Pending]] = field(default_factory=dict)

    def enqueue(self, pending: Pending, key: Key) -> None:
        """Let a call wait for a counter."""
        if pending.key != key:
            self.dequeue(pending)
            pending.key = key
            self.waiting.setdefault(key, {})[pending.id] = pending

    def dequeue(self, pending: Pending) -> None:
        """Let a call wait no longer."""
        if pending.key is None:
            return
        waiting = self.waiting[pending.key]
        del waiting[pending.id]
        if not waiting:
            del self.waiting[pending.key]
        pending.key = None

    def take(self, now: float, *, retry: bool) -> Sent | None:
        """Return the next batch, with the first of those who wait if they are to be tried again."""
        settling, self.settling = self.settling[:MAX_BATCH], self.settling[MAX_BATCH:]
        reserving, self.new = self.new[:MAX_BATCH], self.new[MAX_BATCH:]
        reserving = [pending for pending in reserving if not pending.future.done()]
        if retry:
            for waiting in self.waiting.values():
                reserving += heapq.nsmallest(MAX_RETRIED, waiting.values(), key=_order)
        releases, self.releases = self.releases, []
        withdrawn, self.withdrawn = self.withdrawn, []
        if not (settling or reserving or releases or withdrawn):
            return None
        for pending in reserving:
            if pending.key is not None and pending.refresh is not None:
                request = replace(pending.refresh(), id=pending.id)
                pending.reservation = replace(pending.reservation, request=request)
        queued, registered = self._left_behind({pending.id for pending in reserving})
        batch = Batch(
            now=now,
            settlements=[item.settlement for item in settling],
            releases=releases,
            reservations=[pending.reservation for pending in reserving],
            withdrawn=withdrawn,
            queued=queued,
            registered=registered,
        )
        return Sent(batch=batch, reserving=reserving, settling=settling)

    def _left_behind(self, taken: set[str]) -> tuple[dict[Key, Order], dict[Key, int]]:
        """Return the first of those who wait and are not taken, and how many of them others know of."""
        queued, registered = {}, {}
        for key, waiting in self.waiting.items():
            others = [pending for pending in waiting.values() if pending.id not in taken]
            registered[key] = sum(pending.registered for pending in others)
            if others:
                queued[key] = min(map(_order, others))
        return queued, registered


def _order(pending: Pending) -> Order:
    return pending.reservation.order
