"""What becomes of reads and writes that named versions, and of locks: pure, over what stands in the tables.

Whoever calls has the rows to itself until it has written what is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from admiralty.core.errors import Locked, LockLost, VersionConflict
from admiralty.core.state import Completion, Who
from admiralty.runtime.state.names import Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A value's row; the default is that of a name that was never written."""

    version: int = 0
    deleted: bool = True

    @property
    def present(self) -> int:
        """The version that a reader sees: 0 where there is none."""
        return 0 if self.deleted else self.version


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A lock's row; the default is that of a lock that nobody ever had."""

    holder: str = ""
    fence: int = 0
    lease_until: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A write whose value is text already; without one, it deletes."""

    slot: Slot
    text: str | None
    expected: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The claim to hold a lock."""

    slot: Slot
    holder: str
    fence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Transaction:
    """Changes that are all made or none."""

    who: Who
    changes: tuple[Change, ...]
    checks: tuple[tuple[Slot, int], ...] = ()
    claims: tuple[Claim, ...] = ()
    completes: Completion | None = None
    chained: bool = False
    """Whether it was made from what the request before it makes, and is nothing without that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Acquire:
    """The wish to have a lock."""

    who: Who
    slot: Slot
    holder: str
    lease: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Renew:
    """The wish to keep a lock, or with no lease, to give it back."""

    who: Who
    claim: Claim
    lease: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A row of history: what a change has made."""

    who: Who
    slot: Slot
    number: int
    text: str | None


def changed(
    transaction: Transaction, values: Mapping[Slot, Standing], locks: Mapping[Slot, Held]
) -> list[Version | None]:
    """Return what each change makes, ``None`` where there is nothing to delete.

    Raises VersionConflict, LockLost.
    """
    for claim in transaction.claims:
        _check_claim(claim, locks.get(claim.slot, Held()))
    for slot, expected in transaction.checks:
        _check_version(slot, expected, values.get(slot, Standing()))
    made: list[Version | None] = []
    for change in transaction.changes:
        standing = values.get(change.slot, Standing())
        if change.expected is not None:
            _check_version(change.slot, change.expected, standing)
        if change.text is None and standing.deleted:
            made.append(None)
            continue
        # A deleted value's number goes on: whoever read it before can never take the new one for it.
        number = standing.version + 1
        made.append(Version(who=transaction.who, slot=change.slot, number=number, text=change.text))
    return made


def acquired(wish: Acquire, held: Held, now: float) -> Held:
    """Return the lock as it is taken. Raises Locked while somebody has it."""
    if held.holder and held.lease_until > now:
        _, namespace, key = wish.slot
        raise Locked(
            f"Somebody else has the lock {key!r} in {namespace!r}, for {held.lease_until - now:.1f} s "
            "unless they renew it.",
            namespace=namespace,
            key=key,
            lease_until=held.lease_until,
        )
    return Held(holder=wish.holder, fence=held.fence + 1, lease_until=now + wish.lease)


def renewed(wish: Renew, held: Held, now: float) -> Held:
    """Return the lock as it goes on, or free. Raises LockLost if it is not held any more.

    Past its lease it can be renewed while nobody else has taken it: then nobody can have been in between.
    """
    _check_claim(wish.claim, held)
    if wish.lease is None:
        return Held(fence=held.fence)
    return Held(holder=held.holder, fence=held.fence, lease_until=now + wish.lease)


def _check_claim(claim: Claim, held: Held) -> None:
    if held.fence == claim.fence and held.holder == claim.holder:
        return
    _, namespace, key = claim.slot
    raise LockLost(
        f"The lock {key!r} in {namespace!r} is not yours any more: its lease ended and it was taken, or it "
        "was released. Nothing was written.",
        namespace=namespace,
        key=key,
        fence=claim.fence,
    )


def _check_version(slot: Slot, expected: int, standing: Standing) -> None:
    if standing.present == expected:
        return
    _, namespace, key = slot
    found = f"version {standing.present}" if standing.present else "not there"
    raise VersionConflict(
        f"{key!r} in {namespace!r} is {found}, not {f'version {expected}' if expected else 'new'}: "
        "somebody else was first. Read it again.",
        namespace=namespace,
        key=key,
        expected=expected,
        found=standing.present,
    )


def unchained(transaction: Transaction) -> VersionConflict:
    """Return the refusal of a transaction whose foregoing one was refused: its version may be another's."""
    _, namespace, key = transaction.changes[0].slot
    return VersionConflict(
        f"{key!r} in {namespace!r} was not written before it.", namespace=namespace, key=key
    )


def new_slots(requests: Sequence[Transaction | Acquire | Renew]) -> set[Slot]:
    """Return the values that need not be there for their requests to be carried out."""
    found: set[Slot] = set()
    for request in requests:
        if isinstance(request, Transaction):
            found |= {change.slot for change in request.changes if not change.expected}
            found |= {slot for slot, expected in request.checks if not expected}
    return found


def slots_of(requests: Sequence[Transaction | Acquire | Renew]) -> tuple[set[Slot], set[Slot]]:
    """Return the values and the locks that requests concern."""
    values: set[Slot] = set()
    locks: set[Slot] = set()
    for request in requests:
        if isinstance(request, Transaction):
            values |= {change.slot for change in request.changes}
            values |= {slot for slot, _ in request.checks}
            locks |= {claim.slot for claim in request.claims}
        else:
            locks.add(request.slot if isinstance(request, Acquire) else request.claim.slot)
    return values, locks
