"""What goes into one transaction of the ledger, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from admiralty.core.money import Nanos
from admiralty.runtime.ledger.decide import Refuse, Wait, in_order
from admiralty.runtime.ledger.values import Budget, Charge, Entry, Hold, HoldRequest

Key = tuple[str, str]
"""Budget and subject: what calls wait for."""

Order = tuple[int, float, str]

MAX_REGISTERED = 16
"""Waiting calls of a process on one counter that others need to know of: those that are next."""

WAITER_LEASE = 5.0
"""Seconds after which a waiting call whose process has died no longer stands in others' way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldMoney:
    """What a settlement knows of its hold; the row in ``holds`` is what counts."""

    id: str
    amount: Nanos
    charges: Sequence[Charge]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """An entry to be written, in place of its hold where it has one."""

    entry: Entry
    hold: HeldMoney | None
    expired: bool = False
    """Whether it is written because the hold has expired: nothing is done if that is gone or renewed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """A request in the order of its arrival."""

    request: HoldRequest
    since: float

    @property
    def order(self) -> Order:
        return in_order(self.request, self.since)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one transaction does."""

    now: float
    settlements: Sequence[Settlement] = ()
    releases: Sequence[str] = ()
    """Ids of holds that end without an entry: no provider was ever asked."""
    reservations: Sequence[Reservation] = ()
    withdrawn: Sequence[str] = ()
    """Ids of calls that wait no longer."""
    queued: Mapping[Key, Order] = field(default_factory=dict)
    """The first of this process's waiting calls that are not in the batch."""
    registered: Mapping[Key, int] = field(default_factory=dict)
    """How many of this process's waiting calls, those in the batch left out, other processes know of."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a batch, in the order of its parts."""

    entries: Sequence[Entry]
    verdicts: Sequence[Hold | Wait | Refuse]
    registered: Collection[str] = ()
    """Ids of the waiting calls that other processes know of now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpentChange:
    """A counter whose spending grew: alerts are made of it."""

    budget: Budget
    charge: Charge
    before: int
    after: int


OnSpent = Callable[[Connection, Sequence[SpentChange], float], None]
