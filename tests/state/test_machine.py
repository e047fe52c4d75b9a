"""Every order of writes, deletions, transactions, locks and jumps of the clock, beside a plain model."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from admiralty.core.errors import Locked, LockLost, VersionConflict
from admiralty.core.state import Check, Lock, Who, Write
from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.storage import Database

from .conftest import ANN, CLERK, RIVAL, HandClock

T = TypeVar("T")

HISTORY = 3
WHO: list[Who] = [ANN, CLERK, RIVAL]
PROCESSES = st.integers(0, 1)
PEOPLE = st.sampled_from(WHO)
PLACES = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"]))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
VALUES = st.none() | st.integers() | TEXTS | st.lists(st.booleans(), max_size=2)
GUESSES = st.none() | st.integers(-2, 1)
"""How far from the present version a write's expectation is; ``None``: it has none."""

Slot = tuple[str, str, str]


@dataclass(frozen=True)
class Version:
    value: Any
    deleted: bool
    agent: str


class Shared(RuleBasedStateMachine):
    """Two processes on one database, and beside them what should be in it."""

    runner: ClassVar[asyncio.Runner]
    database: ClassVar[Database]
    locks = Bundle("locks")

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.stores = [SqlStateStore(self.database, self.clock, history=HISTORY) for _ in range(2)]
        self.versions: dict[Slot, list[Version]] = defaultdict(list)
        self.held: dict[Slot, Lock] = {}
        self.fences: dict[Slot, int] = defaultdict(int)
        self.run(self.database.write(_clear))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def present(self, slot: Slot) -> int:
        made = self.versions[slot]
        return 0 if not made or made[-1].deleted else len(made)

    # -- what can happen --------------------------------------------------------------------------

    @rule(process=PROCESSES, who=PEOPLE, place=PLACES, value=VALUES, guess=GUESSES, delete=st.booleans())
    def write(
        self, process: int, who: Who, place: tuple[str, str], value: Any, guess: int | None, delete: bool
    ) -> None:
        self._transact(process, who, [(place, value, guess, delete)], [], None)

    @rule(
        process=PROCESSES,
        who=PEOPLE,
        writes=st.lists(
            st.tuples(PLACES, VALUES, GUESSES, st.booleans()), max_size=4, unique_by=lambda one: one[0]
        ),
        checks=st.lists(
            st.tuples(PLACES, st.sampled_from([0, 0, 0, 1])), max_size=2, unique_by=lambda one: one[0]
        ),
    )
    def transact(self, process: int, who: Who, writes: list[Any], checks: list[Any]) -> None:
        written = {place for place, *_ in writes}
        self._transact(process, who, writes, [one for one in checks if one[0] not in written], None)

    @rule(process=PROCESSES, who=PEOPLE, place=PLACES, value=VALUES, lock=locks)
    def write_under_a_lock(
        self, process: int, who: Who, place: tuple[str, str], value: Any, lock: Lock
    ) -> None:
        self._transact(process, who, [(place, value, None, False)], [], lock)

    @rule(who=PEOPLE, place=PLACES, numbers=st.lists(st.tuples(PROCESSES, st.integers(1, 9)), max_size=6))
    def update_at_once(self, who: Who, place: tuple[str, str], numbers: list[tuple[int, int]]) -> None:
        slot = (_tenant(who), *place)
        start = self.versions[slot][-1].value if self.present(slot) else 0
        if not isinstance(start, int) or isinstance(start, bool):
            return

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(
                *(
                    self.stores[process].update(who, *place, number.__add__, default=0, attempts=1000)
                    for process, number in numbers
                )
            )

        made = sorted(self.run(all_of_them()), key=lambda one: one.version)
        begun = len(self.versions[slot])
        assert [one.version for one in made] == list(range(begun + 1, begun + len(numbers) + 1))
        assert sorted(
            [b - a for a, b in itertools.pairwise([start, *(one.value for one in made)])]
        ) == sorted(number for _, number in numbers)
        self.versions[slot] += [Version(one.value, False, _agent(who)) for one in made]

    @rule(target=locks, process=PROCESSES, who=PEOPLE, place=PLACES, lease=st.sampled_from([1.0, 50.0]))
    def acquire(self, process: int, who: Who, place: tuple[str, str], lease: float) -> Any:
        slot = (_tenant(who), *place)
        holder = self.held.get(slot)
        try:
            lock = self.run(self.stores[process].acquire(who, *place, lease=lease))
        except Locked:
            assert holder is not None
            assert holder.lease_until > self.clock.time
            return multiple()
        assert holder is None or holder.lease_until <= self.clock.time
        assert lock.fence == self.fences[slot] + 1
        self.fences[slot], self.held[slot] = lock.fence, lock
        return lock

    @rule(target=locks, process=PROCESSES, who=PEOPLE, lock=consumes(locks))
    def renew(self, process: int, who: Who, lock: Lock) -> Lock:
        mine = self._holds(who, lock)
        try:
            renewed = self.run(self.stores[process].renew(who, lock, lease=30.0))
        except LockLost:
            assert not mine
            return lock
        assert mine
        assert (renewed.fence, renewed.lease_until) == (lock.fence, self.clock.time + 30)
        self.held[_tenant(who), lock.namespace, lock.key] = renewed
        return renewed

    @rule(process=PROCESSES, who=PEOPLE, lock=locks)
    def release(self, process: int, who: Who, lock: Lock) -> None:
        if self._holds(who, lock):
            del self.held[_tenant(who), lock.namespace, lock.key]
        self.run(self.stores[process].release(who, lock))

    @rule(seconds=st.sampled_from([0.5, 2.0, 40.0, -5.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.time += seconds

    def _holds(self, who: Who, lock: Lock) -> bool:
        held = self.held.get((_tenant(who), lock.namespace, lock.key))
        return held is not None and held.holder == lock.holder

    def _transact(
        self, process: int, who: Who, writes: list[Any], checks: list[Any], lock: Lock | None
    ) -> None:
        tenant = _tenant(who)
        fits = lock is None or self._holds(who, lock)
        wanted, checked = [], []
        for place, value, guess, delete in writes:
            present = self.present((tenant, *place))
            expected = None if guess is None else max(0, present + guess)
            fits &= expected in (None, present)
            wanted.append(
                Write(namespace=place[0], key=place[1], value=value, expected=expected, delete=delete)
            )
        for place, off in checks:
            present = self.present((tenant, *place))
            fits &= not off
            checked.append(Check(namespace=place[0], key=place[1], expected=present + off))
        work = self.stores[process].transact(who, wanted, checks=checked, locks=[lock] if lock else [])
        try:
            done = self.run(work)
        except LockLost:
            assert lock is not None
            assert not self._holds(who, lock)
            return
        except VersionConflict:
            assert not fits
            assert lock is None or self._holds(who, lock)
            return
        assert fits
        for (place, value, _, delete), version in zip(writes, done.versions, strict=True):
            made = self.versions[tenant, *place]
            if delete and not self.present((tenant, *place)):
                assert version == 0
                continue
            made.append(Version(None if delete else value, delete, _agent(who)))
            assert version == len(made)

    # -- what holds at any time -------------------------------------------------------------------

    @invariant()
    def everybody_reads_what_was_written_and_nothing_else(self) -> None:
        for tenant, who in (("acme", CLERK), ("rival", RIVAL)):
            for number, store in enumerate(self.stores):
                found = []
                for namespace in ("a", "b"):
                    found += self.run(store.find(who, namespace, limit=10))
                assert {(one.namespace, one.key): (one.value, one.version) for one in found} == {
                    slot[1:]: (made[-1].value, len(made))
                    for slot, made in self.versions.items()
                    if slot[0] == tenant and made and not made[-1].deleted
                }, number

    @invariant()
    def history_is_what_happened(self) -> None:
        for (tenant, namespace, key), made in self.versions.items():
            who = RIVAL if tenant == "rival" else ANN
            kept = self.run(self.stores[0].history(who, namespace, key))
            told = [(one.version, one.value, one.deleted, one.writer.agent) for one in reversed(kept)]
            numbered = list(enumerate(made, 1))[-HISTORY - 1 :]
            assert told == [(number, one.value, one.deleted, one.agent) for number, one in numbered]


def _tenant(who: Who) -> str:
    return "rival" if who is RIVAL else "acme"


def _agent(who: Who) -> str:
    return "clerk" if who is CLERK else ""


def _clear(connection: sa.Connection) -> None:
    for name in ("state_values", "state_history", "state_locks"):
        connection.execute(sa.text(f"DELETE FROM {name}"))


@pytest.mark.requirement("state.machine")
def test_in_every_order_of_events_the_store_is_what_a_plain_model_says(database_url: str) -> None:
    opened = Database(database_url)
    with asyncio.Runner() as runner:

        class OnThisDatabase(Shared):
            pass

        OnThisDatabase.runner, OnThisDatabase.database = runner, opened
        case = OnThisDatabase.TestCase
        case.settings = settings(
            max_examples=30 if opened.is_sqlite else 12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            case("runTest").runTest()
        finally:
            runner.run(opened.close())
