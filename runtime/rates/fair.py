"""Who goes next where many wait: tenants in turn, within a tenant by priority, then by arrival.

Start-time fair queueing: each tenant has a virtual time that grows with the cost of what it was given, and
the tenant with the least goes next. One who comes anew starts at the present virtual time, so a tenant with
a thousand calls waiting delays another's single call by one of its calls. Pure: no clock, no event loop.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

LEAST_COST = 1e-6
"""So that turns go round also where calls cost nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ticket:
    """A call that waits. Two are never the same."""

    tenant: str
    keys: Sequence[str]
    """The accounts that may serve it."""
    tokens: int = 0
    cost: float = 0.0
    """Seconds of the accounts' capacity that it takes: what turns are counted in."""
    priority: int = 0
    """The higher goes first, among those of its tenant."""


_Place = tuple[int, int, Ticket]
"""Priority (negated) and arrival, which is unique: tickets themselves are never compared."""


@dataclass(slots=True)
class _Tenant:
    time: float
    waiting: list[_Place] = field(default_factory=list)
    work: float = 0.0  # the cost of all who wait: kept, because it is asked for at every arrival


class FairQueue:
    """Tickets in the order in which they shall be served."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._places: dict[Ticket, _Place] = {}
        self._arrivals = 0
        self._time = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def push(self, ticket: Ticket) -> None:
        """Add a ticket."""
        self._arrivals += 1
        place = (-ticket.priority, self._arrivals, ticket)
        self._places[ticket] = place
        tenant = self._tenants.setdefault(ticket.tenant, _Tenant(self._time))
        if not tenant.waiting:
            tenant.time = max(tenant.time, self._time)
        insort(tenant.waiting, place)
        tenant.work += ticket.cost

    def first(self) -> Ticket | None:
        """Return who is next, without taking it out."""
        waiting = [tenant for tenant in self._tenants.values() if tenant.waiting]
        if not waiting:
            return None
        return min(waiting, key=lambda tenant: (tenant.time, tenant.waiting[0][1])).waiting[0][2]

    def remove(self, ticket: Ticket, *, served: bool = False) -> bool:
        """Take a ticket out, wherever it stands; return whether it was there. ``served``: it had its turn."""
        place = self._places.pop(ticket, None)
        if place is None:
            return False
        tenant = self._tenants[ticket.tenant]
        del tenant.waiting[bisect_left(tenant.waiting, place)]
        tenant.work = tenant.work - ticket.cost if tenant.waiting else 0.0
        if served:
            self._time = max(self._time, tenant.time)
            tenant.time += max(ticket.cost, LEAST_COST)
        # A tenant that is gone is remembered only while it is ahead of the others.
        for name in [n for n, t in self._tenants.items() if not t.waiting and t.time <= self._time]:
            del self._tenants[name]
        if not self._places:
            self._tenants.clear()
            self._time = 0.0
        return True

    def ahead(self, ticket: Ticket) -> float:
        """Return the seconds of capacity that are served before ``ticket``, which is not in the queue yet.

        Of its own tenant all that has its priority or a higher one; of each other tenant no more than that,
        because turns go round.
        """
        own = self._tenants.get(ticket.tenant)
        before = 0.0
        if own is not None and own.waiting:
            if own.waiting[-1][0] <= -ticket.priority:
                before = own.work
            else:
                before = sum(other.cost for rank, _, other in own.waiting if -rank >= ticket.priority)
        turn = before + ticket.cost
        return before + sum(min(t.work, turn) for t in self._tenants.values() if t is not own and t.waiting)
