"""The ledger as callers meet it: money set aside and paid, by several processes, on both databases."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.clock import SystemClock
from admiralty.core.errors import BudgetExceeded, Retryable
from admiralty.core.values import Caller
from admiralty.runtime.ledger.batch import HeldMoney, Settlement
from admiralty.runtime.ledger.journal import Journal
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.values import Budget, Entry, Hold, HoldRequest
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import counters, holds, waiters
from admiralty.runtime.storage.tables import ledger as entries

from .money import CALLER, add_budget, budget, paid, request


class Clock(SystemClock):
    """Runs as the system's, ahead of it by what a test says."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


class House:
    """Ledgers of one database, as processes would have them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database = Database(url)
        self.databases = [self.database]
        self.url = url
        self.folder = folder
        self.clock = Clock()
        self.ledgers: list[Ledger] = []

    async def ledger(self, *, journal: bool = True, **more: Any) -> Ledger:
        owner = f"p{len(self.ledgers)}"
        database = Database(self.url)
        self.databases.append(database)
        made = Ledger(
            database,
            owner=owner,
            clock=self.clock,
            journal=Journal(self.folder, owner) if journal else None,
            **{"server_clock": False} | more,
        )
        self.ledgers.append(made)
        return made

    async def budgets(self, *given: Budget) -> None:
        for each in given:
            await self.database.write(partial(add_budget, given=each))

    async def rows(self, table: sa.Table) -> list[Any]:
        return await self.database.read(lambda c: list(c.execute(sa.select(table)).mappings()))

    async def count(self, table: sa.Table, number: int) -> bool:
        return len(await self.rows(table)) == number

    async def has_spent(self, budget_id: str, amount: int) -> bool:
        return await self.spent(budget_id) == (amount, 0)

    async def spent(self, budget_id: str) -> tuple[int, int]:
        rows = [row for row in await self.rows(counters) if row["budget_id"] == budget_id]
        return sum(row["spent"] for row in rows), sum(row["held"] for row in rows)


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    made = House(database_url, tmp_path / "journal")
    yield made
    for one in made.ledgers:
        await one.close()
    for database in made.databases:
        await database.close()


async def call(
    ledger: Ledger, wanted: HoldRequest, *, cost: int | None = None, seconds: float = 0.0
) -> Entry:
    hold = await ledger.reserve(wanted)
    await asyncio.sleep(seconds)
    return await ledger.settle(paid(wanted, hold.amount if cost is None else cost), hold)


async def outcomes(*calls: Any) -> list[Any]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*calls, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait until a condition holds in the database: nothing tells of that."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.requirement("money.exact")
async def test_of_500_calls_at_once_in_two_processes_exactly_the_50_that_fit_are_made(house: House) -> None:
    await house.budgets(
        budget("tenant:acme", 50_000, id="tenant"),
        budget("user:acme/*", 10**12, id="user", window="day"),
        budget("agent:acme/support.triage", 10**12, id="agent", window="rolling", seconds=3600),
        budget("conversation:acme/conv_1", 10**12, id="conversation", window="month"),
    )
    both = [await house.ledger(), await house.ledger()]
    results = await outcomes(*(call(both[n % 2], request(fixed=1_000), seconds=0.01) for n in range(500)))
    made = [result for result in results if isinstance(result, Entry)]
    refused = [result for result in results if isinstance(result, BudgetExceeded)]
    assert (len(made), len(refused)) == (50, 450)
    for name in ("tenant", "user", "agent", "conversation"):
        assert await house.spent(name) == (50_000, 0)
    assert not await house.rows(holds)
    assert not await house.rows(waiters)
    assert len(await house.rows(entries)) == 50


@pytest.mark.requirement("money.wait")
async def test_calls_wait_for_held_money_so_that_every_affordable_one_is_made(house: House) -> None:
    """Each holds four times what it costs; a gateway that refuses at once would make 12 of 48."""
    await house.budgets(budget("tenant:acme", 48_000 + 3_000, id="b"))
    both = [await house.ledger(), await house.ledger()]
    results = await outcomes(
        *(call(both[n % 2], request(fixed=4_000), cost=1_000, seconds=0.005) for n in range(48))
    )
    assert [result for result in results if not isinstance(result, Entry)] == []
    assert await house.spent("b") == (48_000, 0)


@pytest.mark.requirement("money.fair")
async def test_who_waits_is_served_by_priority_and_then_in_order_of_arrival(house: House) -> None:
    await house.budgets(budget("tenant:acme", 10_000, id="b"))
    ledger = await house.ledger()
    other = await house.ledger()
    first = await ledger.reserve(request(fixed=10_000))
    served: list[str] = []

    async def one(name: str, through: Ledger, cost: int, priority: int = 0) -> None:
        wanted = request(fixed=cost, priority=priority)
        hold = await through.reserve(wanted)
        served.append(name)
        await through.settle(paid(wanted, 0), hold)

    tasks = []
    for name, through, cost, priority in (
        ("large", ledger, 9_000, 0),
        ("small", other, 2_000, 0),
        ("urgent", ledger, 9_500, 5),
        ("last", other, 9_000, 0),
    ):
        tasks.append(asyncio.create_task(one(name, through, cost, priority)))
        await until(lambda: house.count(waiters, len(tasks)))
    await ledger.settle(paid(first.request, 0), first)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert served == ["urgent", "large", "small", "last"]


@pytest.mark.requirement("money.refusal")
async def test_a_refusal_names_the_budget_and_what_is_spent_held_and_needed(house: House) -> None:
    await house.budgets(budget("user:acme/*", 1_500_000_000, id="b", window="day", name="daily"))
    ledger = await house.ledger()
    await call(ledger, request(fixed=1_000_000_000))
    with pytest.raises(BudgetExceeded) as caught:
        await ledger.reserve(request(fixed=600_000_000))
    told = caught.value.details
    assert told | {"resets_at": None} == {
        "budget_id": "b",
        "scope": "user:acme/ann",
        "window": "day",
        "limit_usd": "1.5",
        "spent_usd": "1",
        "held_usd": "0",
        "needed_usd": "0.6",
        "resets_at": None,
    }
    assert 0 < told["resets_at"] - time.time() <= 86_400
    other = replace(CALLER, identity=replace(CALLER.identity, user="bob"))
    assert (await ledger.reserve(request(fixed=600_000_000, caller=other))).amount == 600_000_000


@pytest.mark.requirement("money.wait")
async def test_a_call_that_waits_is_refused_at_its_deadline_and_leaves_no_trace(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    ledger = await house.ledger()
    standing = await ledger.reserve(request(fixed=900))
    with pytest.raises(BudgetExceeded, match="Others held the rest"):
        await ledger.reserve(request(fixed=200, deadline=time.time() + 0.2))
    gone = asyncio.create_task(ledger.reserve(request(fixed=200)))
    await until(lambda: house.count(waiters, 1))
    gone.cancel()
    await until(lambda: house.count(waiters, 0))
    await ledger.settle(paid(standing.request, 900), standing)
    assert await house.spent("b") == (900, 0)


@pytest.mark.requirement("money.shrink")
async def test_the_last_of_the_money_buys_a_smaller_output_down_to_the_floor(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    ledger = await house.ledger()
    await call(ledger, request(fixed=100, wanted=500))
    hold = await ledger.reserve(request(fixed=100, wanted=500, floor=200))
    assert (hold.amount, hold.output_tokens) == (400, 300)
    await ledger.settle(paid(hold.request, 400), hold)
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(request(fixed=0, wanted=10, floor=1))


@pytest.mark.requirement("money.debt")
async def test_what_costs_more_than_its_hold_is_recorded_as_debt(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    ledger = await house.ledger()
    entry = await call(ledger, request(fixed=800), cost=3_200)
    assert (entry.held, entry.debt, entry.cost) == (800, 2_400, 3_200)
    assert await house.spent("b") == (3_200, 0)
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(request(fixed=1))


@pytest.mark.requirement("money.idempotent")
async def test_settling_twice_changes_nothing_also_by_another_process(house: House) -> None:
    await house.budgets(budget("tenant:acme", 10_000, id="b"))
    first, second = await house.ledger(), await house.ledger()
    wanted = request(fixed=1_000)
    hold = await first.reserve(wanted)
    again = [paid(wanted, 700), paid(wanted, 900), paid(wanted, 0, status="error")]
    await outcomes(first.settle(again[0], hold))
    await outcomes(*(side.settle(entry, hold) for side in (first, second) for entry in again))
    assert await house.spent("b") == (700, 0)
    assert len(await house.rows(entries)) == 1


@pytest.mark.requirement("money.expired")
async def test_a_hold_whose_process_died_is_charged_at_its_worst_case_and_marked(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    dead, alive = await house.ledger(), await house.ledger()
    hold = await dead.reserve(request(fixed=600))
    waiting = asyncio.create_task(alive.reserve(request(fixed=500)))
    await alive.sweep()
    assert await house.spent("b") == (0, 600)
    house.clock.ahead = 31.0
    await alive.sweep()
    with pytest.raises(BudgetExceeded):
        async with asyncio.timeout(5):
            await waiting
    [entry] = await house.rows(entries)
    assert (entry["status"], entry["estimated"], entry["cost_nanos"]) == ("expired", True, 600)
    assert await house.spent("b") == (600, 0)
    # It was not dead: what it says late corrects the estimate, once.
    for cost in (250, 250):
        await dead.settle(paid(hold.request, cost), hold)
    assert await house.spent("b") == (250, 0)
    assert sorted((row["kind"], row["cost_nanos"]) for row in await house.rows(entries)) == [
        ("correction", -350),
        ("model", 600),
    ]


@pytest.mark.requirement("money.expired")
async def test_a_call_that_takes_longer_than_a_lease_keeps_its_hold(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    slow, other = await house.ledger(), await house.ledger()
    hold = await slow.reserve(request(fixed=600))
    for _ in range(4):
        house.clock.ahead += 20.0
        await slow.sweep()
        await other.sweep()
    assert await house.spent("b") == (0, 600)
    await slow.settle(paid(hold.request, 100), hold)
    [entry] = await house.rows(entries)
    assert (entry["cost_nanos"], entry["estimated"]) == (100, False)


@pytest.mark.requirement("money.journal")
async def test_what_a_killed_process_knew_is_settled_from_its_journal(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    alive = await house.ledger()
    dead = await house.ledger(journal=False)
    hold = await dead.reserve(request(fixed=600))
    journal = Journal(house.folder, "killed")
    held = HeldMoney(id=hold.id, amount=hold.amount, charges=hold.charges)
    journal.add([Settlement(entry=paid(hold.request, 150), hold=held)])
    await alive.sweep()
    assert await house.spent("b") == (0, 600)  # its process lives: the file is locked
    assert journal._file is not None
    os.close(journal._file)  # as the kernel does for a process that is killed
    await alive.sweep()
    assert await house.spent("b") == (150, 0)
    assert not (house.folder / "killed.jsonl").exists()


@pytest.mark.requirement("money.journal")
async def test_answers_given_while_the_database_hangs_are_settled_after_kill_9(house: House) -> None:
    await house.budgets(budget("tenant:acme", 10_000, id="b"))
    dying, alive = await house.ledger(patience=0.1), await house.ledger()
    reserved = [await dying.reserve(request(fixed=600)) for _ in range(4)]
    database = house.databases[1]
    database.submit = lambda work: Future()  # type: ignore[method-assign]
    for hold in reserved:  # the first is under way when the others come
        assert (await dying.settle(paid(hold.request, 150), hold)).cost == 150
    journal = dying._journal
    assert journal is not None
    assert journal._file is not None
    os.close(journal._file)  # as the kernel does for a process that is killed
    house.ledgers.remove(dying)
    assert dying._sweeper is None
    await alive.sweep()
    assert await house.spent("b") == (600, 0)
    assert [row["estimated"] for row in await house.rows(entries)] == [False] * 4


@pytest.mark.requirement("money.journal")
async def test_a_journal_with_lines_that_are_no_entries_stops_nobody(house: House) -> None:
    (house.folder).mkdir(exist_ok=True)
    (house.folder / "odd.jsonl").write_text('123\n{"entry":{"id":"x"},"hold":null}\nbroken off')
    ledger = await house.ledger()
    await ledger.start()
    assert not (house.folder / "odd.jsonl").exists()


@pytest.mark.requirement("money.wait")
async def test_a_ledger_that_is_not_to_wait_decides_at_once(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    ledger = await house.ledger(max_wait=0.0)
    hold = await ledger.reserve(request(fixed=900))
    with pytest.raises(BudgetExceeded, match="Others held"):
        await ledger.reserve(request(fixed=200))
    await ledger.settle(paid(hold.request, 0), hold)


@pytest.mark.requirement("money.release")
async def test_a_hold_that_came_too_late_for_its_caller_is_given_back(house: House) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    ledger = await house.ledger()
    tasks = [asyncio.create_task(ledger.reserve(request(fixed=10))) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await outcomes(*tasks)
    for _ in range(2):  # batches come one after the other: what was under way has ended by then
        await call(ledger, request(fixed=10), cost=0)
    await until(lambda: house.count(holds, 0))
    assert await house.spent("b") == (0, 0)
    assert len(await house.rows(entries)) == 2


@pytest.mark.requirement("money.closed")
async def test_without_its_database_the_ledger_lets_nothing_through_and_forgets_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.budgets(budget("tenant:acme", 1_000, id="b"))
    ledger = await house.ledger(patience=0.2)
    hold = await ledger.reserve(request(fixed=600))
    broken = house.databases[-1]
    submit = broken.submit

    def away(work: Any) -> Any:
        raise Retryable("The database does not answer: gone")

    broken.submit = away  # type: ignore[method-assign]
    with pytest.raises(Retryable):
        await ledger.reserve(request(fixed=1))
    with caplog.at_level(logging.WARNING):
        entry = await ledger.settle(paid(hold.request, 200), hold)
    assert entry.cost == 200
    broken.submit = submit  # type: ignore[method-assign]
    await until(lambda: house.has_spent("b", 200))
    assert not await house.rows(holds)


@pytest.mark.requirement("money.hostile")
async def test_an_entry_that_cannot_be_stored_does_not_take_its_neighbours_along(house: House) -> None:
    await house.budgets(budget("tenant:acme", 100_000, id="b"))
    ledger = await house.ledger()
    wanted = [request(fixed=10) for _ in range(20)]
    reserved = [await ledger.reserve(each) for each in wanted]
    costs: list[Any] = [10] * 20
    costs[7] = 1 << 80  # no database has room for it
    results = await outcomes(
        *(
            ledger.settle(paid(each, cost), hold)
            for each, cost, hold in zip(wanted, costs, reserved, strict=True)
        )
    )
    failed = [index for index, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [7]
    assert await house.spent("b") == (190, 10)


@pytest.mark.requirement("money.scopes")
async def test_tenants_with_confusing_names_never_share_a_budget(house: House) -> None:
    await house.budgets(budget("user:acme/ann", 100, id="b"), budget("tenant:*", 10**9, id="all"))
    ledger = await house.ledger()

    async def spend(tenant: str, user: str) -> Hold:
        who = replace(CALLER.identity, tenant=tenant, user=user)
        return await ledger.reserve(request(fixed=60, caller=_with(who)))

    await spend("acme", "ann")
    for tenant, user in (
        ("acme/ann", "x"),
        ("acme%2Fann", "x"),
        ("*", "ann"),
        ("acme", "*"),
        ("Acme", "ann"),
    ):
        await spend(tenant, user)
    assert await house.spent("b") == (0, 60)
    assert await house.spent("all") == (0, 360)


def _with(who: Any) -> Caller:
    return replace(CALLER, identity=who)
