"""Tools' money in the real ledger: granted by one process, settled by any, charged if nobody comes back."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.clock import SystemClock
from admiralty.core.errors import BudgetExceeded, Denied
from admiralty.core.ids import new_id
from admiralty.core.money import Nanos
from admiralty.core.values import Access, Grant
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.scheduler.access import AccessControl
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import counters, holds
from admiralty.runtime.storage.tables import ledger as entries
from admiralty.runtime.testing import OpenGate

from .money import CALLER, add_budget, budget

PRICE = Nanos(2_000_000)


class Measured(list[tuple[str, float, Mapping[str, str]]]):
    """Keeps what is measured."""

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        self.append((name, value, tags))

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        self.append((name, value, tags))


class Process:
    """An access control over a ledger of its own, as a scheduler replica has."""

    def __init__(self, url: str, owner: str, **options: Any) -> None:
        self.database = Database(url)
        self.ledger = Ledger(self.database, owner=owner, clock=SystemClock())
        self.metrics = Measured()
        self.access = AccessControl(
            gate=OpenGate(), ledger=self.ledger, clock=SystemClock(), metrics=self.metrics, **options
        )

    async def close(self) -> None:
        await self.access.close()
        await self.ledger.close()
        await self.database.close()

    async def rows(self, table: sa.Table) -> Sequence[Any]:
        return await self.database.read(lambda connection: connection.execute(sa.select(table)).all())


@pytest.fixture
async def process(database_url: str) -> AsyncIterator[Callable[..., Process]]:
    """Makes processes over one database, with a budget worth two calls."""
    made: list[Process] = []

    def make(**options: Any) -> Process:
        made.append(Process(database_url, f"p{len(made)}", **options))
        return made[-1]

    first = make()
    await first.database.write(lambda c: add_budget(c, budget("tenant:acme", 2 * PRICE, id="bud")))
    yield make
    for each in made:
        await each.close()


def wish(price: Nanos = PRICE, **more: Any) -> Access:
    return Access(
        id=new_id("call"), caller=CALLER, action="tool:call", resource="search", price=price, **more
    )


@pytest.mark.requirement("access.settled_anywhere")
async def test_any_process_settles_what_another_has_granted_once(process: Callable[..., Process]) -> None:
    granting, settling = process(), process()
    grant: Grant = pickle.loads(pickle.dumps(await granting.access.authorize(wish())))
    assert [row.held for row in await granting.rows(counters)] == [PRICE]
    for _ in range(2):
        await settling.access.settle(grant, status="ok", seconds=0.5)
    await granting.access.settle(grant, status="error", seconds=0.5)
    [entry] = await granting.rows(entries)
    assert (entry.kind, entry.tool, entry.status, entry.cost_nanos) == ("tool", "search", "ok", PRICE)
    assert (entry.held_nanos, entry.debt_nanos, entry.estimated) == (PRICE, 0, False)
    assert (entry.policy, entry.price_book, entry.model) == ("open", "tool", "")
    [counter] = await granting.rows(counters)
    assert (counter.spent, counter.held) == (PRICE, 0)
    assert await granting.rows(holds) == []


@pytest.mark.requirement("access.settled_anywhere")
async def test_a_tool_that_failed_gives_its_money_back(process: Callable[..., Process]) -> None:
    only = process()
    await only.access.settle(await only.access.authorize(wish()), status="error", seconds=0.1)
    [counter] = await only.rows(counters)
    assert (counter.spent, counter.held) == (0, 0)
    assert await only.rows(holds) == []


@pytest.mark.requirement("access.expired")
async def test_a_call_of_which_nothing_is_heard_is_charged_at_its_deadline_and_marked(
    process: Callable[..., Process],
) -> None:
    granting = process(longest=0.0, grace=0.0)
    await granting.access.authorize(wish())
    async with asyncio.timeout(10):
        while not (rows := await granting.rows(entries)):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert (rows[0].status, rows[0].cost_nanos, rows[0].estimated) == ("expired", PRICE, True)
    [counter] = await granting.rows(counters)
    assert (counter.spent, counter.held) == (PRICE, 0)


@pytest.mark.requirement("access.budget", "metrics.ray")
async def test_a_refusal_names_the_budget_and_is_counted(process: Callable[..., Process]) -> None:
    only = process()
    for _ in range(2):
        await only.access.settle(await only.access.authorize(wish()), status="ok", seconds=0.1)
    with pytest.raises(BudgetExceeded) as refused:
        await only.access.authorize(wish())
    assert (refused.value.details["scope"], refused.value.details["needed_usd"]) == ("tenant:acme", "0.002")
    tags = {"agent": "triage", "action": "tool:call", "resource": "search"}
    assert ("refused", 1, {**tags, "code": "budget_exceeded"}) in only.metrics
    assert sum(value for name, value, _ in only.metrics if name == "tool_cost_usd") == pytest.approx(0.004)


@pytest.mark.requirement("access.denied")
async def test_what_is_denied_holds_no_money_and_what_is_free_makes_no_entry(
    process: Callable[..., Process],
) -> None:
    only = process()
    free = await only.access.authorize(wish(Nanos(0)))
    await only.access.settle(free, status="ok", seconds=0.1)
    assert not free.priced

    class Closed:
        async def check(self, access: Access) -> Any:
            raise Denied("No.")

    closed = AccessControl(gate=Closed(), ledger=only.ledger, clock=SystemClock(), metrics=only.metrics)
    with pytest.raises(Denied):
        await closed.authorize(wish())
    assert await only.rows(entries) == []
    assert await only.rows(holds) == []
    assert only.metrics[-1][2]["code"] == "denied"
