"""What the ledger's parts pass to each other. Amounts are nano-dollars, times seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from admiralty.core.money import ZERO, Nanos
from admiralty.core.values import Caller, CallStatus, Usage

Window = Literal["total", "day", "week", "month", "rolling"]
"""``day``, ``week`` (from Monday) and ``month`` are calendar windows in the budget's time zone;
``rolling`` is the last ``seconds`` at any time; ``total`` never ends."""

WINDOWS: tuple[Window, ...] = ("total", "day", "week", "month", "rolling")

EntryKind = Literal["model", "tool", "correction"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A limit on what a scope may spend in a window."""

    id: str
    scope: str
    """As :mod:`~admiralty.runtime.ledger.scopes` writes it: ``tenant:acme``, ``user:acme/ann``; with ``*``
    for the name it applies to each user, each conversation by itself."""
    name: str = ""
    limit: Nanos
    window: Window = "total"
    seconds: float | None = None
    """Length of a rolling window."""
    timezone: str = "UTC"
    hard: bool = True
    """Whether calls are refused at the limit; a soft budget only tells."""
    thresholds: Sequence[float] = (0.5, 0.8, 1.0)
    """Shares of the limit at which an alert goes out, once in each window."""
    webhook: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    archived_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counter:
    """What is spent and held of a budget in one window, for one subject."""

    spent: int = 0
    held: int = 0
    unproven: int = 0
    """The part of ``held`` whose price is still a guess."""


class Charge(NamedTuple):
    """A counter that a hold or an entry counts in. A tuple, as many of them are keys."""

    budget_id: str
    subject: str
    """The concrete scope of a budget that applies to each of many; empty otherwise."""
    window: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """What a call can cost at most: ``fixed`` and ``per_million`` for a million output tokens."""

    fixed: int
    per_million: int = 0
    seconds: float | None = None
    """For models priced by time: how long the call may take for the price."""

    def amount(self, output_tokens: int) -> Nanos:
        """Return the price of the call with so much output, rounded up."""
        return Nanos(self.fixed + -(-output_tokens * self.per_million // 1_000_000))

    def output_within(self, amount: int) -> int:
        """Return the output tokens that ``amount`` pays for; negative if it does not pay for ``fixed``."""
        if amount < self.fixed:
            return -1
        if self.per_million == 0:
            return 1 << 62
        return (amount - self.fixed) * 1_000_000 // self.per_million


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A row of the ledger: what a call or a tool cost, to whom, and how that is known."""

    id: str
    call_id: str
    kind: EntryKind
    caller: Caller
    model: str = ""
    tier: str = ""
    tool: str = ""
    status: CallStatus
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: Nanos | None
    """``None`` only in entries of before there were prices for everything."""
    held: Nanos = ZERO
    debt: Nanos = ZERO
    """What it cost above its hold, or after that had expired."""
    estimated: bool = False
    """Whether the cost is a bound or a guess, because nobody was told what was used."""
    measure: int = 0
    """What the input can count at most, by rule: see ``estimate.measure``."""
    expected_input: int = 0
    """Input tokens that were held for; 0: not known."""
    output_limit: int = 0
    """Output tokens that were held for and that the provider was given as its limit; 0: none."""
    factor: float = 1.0
    """What the hold was multiplied with: see ``HoldRequest.factor``."""
    price_book: str = ""
    """Version and hash of the prices that were used."""
    policy: str = ""
    """Hash of the policy bundle that permitted it."""
    charges: Sequence[Charge] = ()
    seconds: float = 0.0
    at: float = 0.0
    corrects: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldRequest:
    """A wish for money, for one attempt of one call."""

    id: str
    quote: Quote
    wanted: int = 0
    """Output tokens wished for."""
    floor: int = 0
    """Output tokens below which the call is not worth making."""
    entry: Entry
    """What the ledger will say if nobody comes back: its cost is filled in with the amount held."""
    scopes: Mapping[str, str]
    """Every scope that the caller has, with its subject: see ``scopes.scopes_of``."""
    priority: int = 0
    deadline: float | None = None
    factor: float = 1.0
    """By how much such calls have cost more than their holds: amounts are multiplied with it."""
    unproven: bool = False
    """Whether too little is known of such calls to trust the amount: few are then let through at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Money set aside."""

    id: str
    amount: Nanos
    output_tokens: int
    """What the amount pays for: the limit that the provider is given."""
    charges: Sequence[Charge]
    request: HoldRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """Why money was refused: the budget with the least left."""

    budget: Budget
    subject: str
    window: str
    counter: Counter
    needed: Nanos
    resets_at: float | None
    waited: float = 0.0
