"""Every interleaving of holds, settlements, deaths and changed limits, over the real SQL."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from sqlalchemy import Connection, Engine

from admiralty.core.values import Caller
from admiralty.runtime.ledger.batch import Batch, HeldMoney, Outcome, Reservation, Settlement
from admiralty.runtime.ledger.books import Books
from admiralty.runtime.ledger.values import Hold
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import budgets, counters, holds, ledger, waiters

from .money import CALLER, add_budget, budget, paid, request

USERS = ["ann", "bob"]
LEASE = 30.0
ROLLING = budget("agent:*/support.triage", 800, id="roll", window="rolling", seconds=600)


SHARES = st.sampled_from([0, 0.5, 1, 1.7])


class Money(RuleBasedStateMachine):
    """Two processes on one database; a model beside it that knows what each call was charged."""

    engine: ClassVar[Engine]
    is_sqlite: ClassVar[bool]
    live = Bundle("live")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.books = [Books(is_sqlite=self.is_sqlite, owner=name, lease=LEASE) for name in ("p1", "p2")]
        self.charged: dict[str, int] = {}
        self.debt: dict[str, int] = defaultdict(int)
        self.numbers = itertools.count()
        with self.transaction() as connection:
            for table in (waiters, holds, counters, ledger, budgets):
                connection.execute(table.delete())
            add_budget(connection, budget("tenant:acme", 1_000, id="whole"))
            add_budget(connection, budget("user:acme/*", 600, id="each", window="day"))
            add_budget(
                connection, budget("agent:*/support.triage", 800, id="roll", window="rolling", seconds=600)
            )
            add_budget(connection, budget("team:acme/desk", 50, id="soft", hard=False))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def apply(self, process: int, **parts: object) -> Outcome:
        with self.transaction() as connection:
            batch = Batch(now=self.now, **parts)  # type: ignore[arg-type]
            return self.books[process].apply(batch, connection)

    # -- what can happen --------------------------------------------------------------------------

    @rule(
        target=live,
        process=st.integers(0, 1),
        calls=st.lists(
            st.tuples(st.sampled_from(USERS), st.integers(1, 300), st.integers(0, 200), st.booleans()),
            min_size=1,
            max_size=4,
        ),
    )
    def reserve(self, process: int, calls: list[tuple[str, int, int, bool]]) -> object:
        wanted = [
            Reservation(
                request=request(
                    id=f"h{next(self.numbers)}",
                    fixed=fixed,
                    wanted=output,
                    floor=output // 2,
                    unproven=unproven,
                    caller=_caller(user),
                ),
                since=self.now,
            )
            for user, fixed, output, unproven in calls
        ]
        outcome = self.apply(process, reservations=wanted)
        given_up = [
            w.request.id for w, v in zip(wanted, outcome.verdicts, strict=True) if not isinstance(v, Hold)
        ]
        self.apply(process, withdrawn=given_up)
        return multiple(*(verdict for verdict in outcome.verdicts if isinstance(verdict, Hold)))

    @rule(
        target=ended, hold=consumes(live), process=st.integers(0, 1), share=st.sampled_from([0, 0.5, 1, 1.7])
    )
    def settle(self, hold: Hold, process: int, share: float) -> Hold:
        self._settle(hold, process, int(hold.amount * share))
        return hold

    @rule(hold=ended, process=st.integers(0, 1), cost=st.integers(0, 400))
    def settle_again(self, hold: Hold, process: int, cost: int) -> None:
        """The second word does not count, whatever it says."""
        before = dict(self.charged)
        self._settle(hold, process, cost)
        assert self.charged == before

    @rule(hold=consumes(live), process=st.integers(0, 1))
    def release(self, hold: Hold, process: int) -> None:
        self.apply(process, releases=[hold.id])

    @rule(hold=live, process=st.integers(0, 1))
    def renew(self, hold: Hold, process: int) -> None:
        with self.transaction() as connection:
            self.books[process].renew(connection, [hold.id], [], self.now)

    @rule(seconds=st.sampled_from([1.0, 20.0, 45.0, 700.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([10.0, 5_000.0]))
    def a_clock_goes_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule(process=st.integers(0, 1))
    def sweep(self, process: int) -> None:
        with self.transaction() as connection:
            expired = self.books[process].expired(connection, self.now, 100)
        self.apply(process, settlements=expired)
        for settlement in expired:
            self.charged[settlement.entry.id] = settlement.entry.cost or 0
        # Another process saw the same rows: there is nothing left to do.
        assert self.apply(1 - process, settlements=expired) is not None

    @rule(target=ended, hold=consumes(live), process=st.integers(0, 1), cost=st.integers(0, 500))
    def come_back_from_the_dead(self, hold: Hold, process: int, cost: int) -> Hold:
        self.now += 45.0
        self.sweep(process)
        self._settle(hold, process, cost)
        return hold

    def _settle(self, hold: Hold, process: int, cost: int) -> None:
        entry = replace(paid(hold.request, cost), at=self.now)
        held = HeldMoney(id=hold.id, amount=hold.amount, charges=hold.charges)
        with self.transaction() as connection:
            known = connection.execute(sa.select(ledger).where(ledger.c.id == hold.id)).mappings().first()
            corrected = connection.execute(sa.select(ledger.c.id).where(ledger.c.corrects == hold.id)).first()
        self.apply(process, settlements=[Settlement(entry=entry, hold=held)])
        if known is None or (known["estimated"] and corrected is None):
            self.charged[hold.id] = cost

    # -- what holds at any time -------------------------------------------------------------------

    @invariant()
    def the_books_add_up(self) -> None:
        with self.transaction() as connection:
            entries = connection.execute(sa.select(ledger)).mappings().all()
            standing = connection.execute(sa.select(holds)).mappings().all()
            counted = connection.execute(sa.select(counters)).mappings().all()
        spent: dict[tuple[str, ...], int] = defaultdict(int)
        held: dict[tuple[str, ...], int] = defaultdict(int)
        unproven: dict[tuple[str, ...], int] = defaultdict(int)
        debts: dict[tuple[str, str], int] = defaultdict(int)
        for entry in entries:
            for charge in entry["charges"]:
                spent[tuple(charge)] += entry["cost_nanos"]
                debts[charge[0], charge[1]] += entry["debt_nanos"]
        for hold in standing:
            for charge in hold["charges"]:
                held[tuple(charge)] += hold["amount"]
                unproven[tuple(charge)] += hold["amount"] if hold["unproven"] else 0
        limits = {"whole": 1_000, "each": 600}
        for row in counted:
            key = (row["budget_id"], row["subject"], row["window"])
            assert row["spent"] == spent.pop(key, 0)
            assert row["held"] == held.pop(key, 0)
            assert row["unproven"] == unproven.pop(key, 0)
            assert min(row["spent"], row["held"], row["unproven"]) >= 0
            if row["budget_id"] in limits:
                limit = limits[row["budget_id"]] + debts[row["budget_id"], row["subject"]]
                assert row["spent"] + row["held"] <= limit
        assert not any(spent.values()), "an entry is in no counter"
        assert not any(held.values()), "a hold is in no counter"

    @invariant()
    def each_hold_has_ended_once_or_stands(self) -> None:
        with self.transaction() as connection:
            entries = connection.execute(sa.select(ledger)).mappings().all()
            standing = set(connection.execute(sa.select(holds.c.id)).scalars())
        totals: dict[str, int] = defaultdict(int)
        for entry in entries:
            totals[entry["corrects"] or entry["id"]] += entry["cost_nanos"]
        assert standing.isdisjoint(totals)
        assert dict(totals) == self.charged
        assert len({entry["id"] for entry in entries}) == len(entries)

    @invariant()
    def nobody_is_left_waiting(self) -> None:
        with self.transaction() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(waiters)).scalar_one() == 0


def _caller(user: str) -> Caller:
    return replace(CALLER, identity=replace(CALLER.identity, user=user))


@pytest.mark.requirement("money.invariants")
def test_in_every_interleaving_the_books_add_up_and_no_limit_is_passed(database_url: str) -> None:
    database = Database(database_url)
    engine = database._writing

    class OnThisDatabase(Money):
        pass

    OnThisDatabase.engine, OnThisDatabase.is_sqlite = engine, database.is_sqlite
    case = OnThisDatabase.TestCase
    case.settings = settings(
        max_examples=40 if database.is_sqlite else 15,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").runTest()
