"""Figures for monitoring: right whatever is committed late, and cheap however long the ledger is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from admiralty.core.money import Nanos
from admiralty.core.values import Usage
from admiralty.runtime.ledger.figures import MARGIN, RECOUNT_SECONDS, Figures, Kept, Sums
from admiralty.runtime.ledger.values import Charge
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import ledger

from .conftest import NOON, HandClock, entry, put_budget, put_counter, put_entries, tool_entry

MODEL = ("clerk", "small", "openai:gpt-5.4-nano", "")


@pytest.fixture
def figures(database: Database, clock: HandClock) -> Figures:
    return Figures(database, clock)


@pytest.mark.requirement("metrics.sums")
async def test_sums_tell_models_from_tools_and_never_fall_when_money_is_given_back(
    database: Database, figures: Figures
) -> None:
    back = replace(
        entry(3), id="c", kind="correction", corrects="call_000001", cost=Nanos(-400), usage=Usage()
    )
    late = replace(entry(4, 5_000, estimated=True), debt=Nanos(1_000))
    await put_entries(database, [entry(1), entry(2), back, late, entry(6, None), tool_entry(5)])
    totals = await figures.totals()
    assert totals[MODEL] == Sums(
        calls=4,
        input_tokens=400,
        output_tokens=80,
        cached_tokens=40,
        cost=7_000,
        refunded=400,
        debt=1_000,
        estimated=1,
        unpriced=1,
    )
    assert totals["clerk", "", "", "lookup"] == Sums(calls=1, cost=500)


@pytest.mark.requirement("metrics.sums")
async def test_an_entry_counts_once_however_much_later_than_its_stamp_it_is_committed(
    database: Database, figures: Figures, clock: HandClock
) -> None:
    async def calls() -> int:
        return (await figures.totals()).get(MODEL, Sums()).calls

    assert await calls() == 0
    clock.time = NOON + 100
    await put_entries(database, [entry(90)])
    assert await calls() == 1
    await put_entries(database, [entry(10)])  # stamped before what was counted already
    assert await calls() == 2
    for step in range(1, 8):  # what is kept moves on
        clock.time = NOON + step * MARGIN / 2
        await put_entries(database, [entry(int(step * MARGIN / 2) - 1)])
        assert await calls() == 2 + step
    await put_entries(database, [entry(11)])  # far too late: found when everything is counted anew
    clock.time = NOON + RECOUNT_SECONDS + 100
    assert await calls() in (9, 10)
    async with asyncio.timeout(10):
        while await calls() != 10:  # noqa: ASYNC110 - it is counted beside us
            await asyncio.sleep(0.01)
    clock.time += MARGIN * 3
    assert await calls() == 10


@pytest.mark.requirement("metrics.sums")
async def test_a_scrape_reads_only_what_is_new(
    database: Database, figures: Figures, clock: HandClock
) -> None:
    await put_entries(database, [entry(number) for number in range(50)])
    clock.time = NOON + 2 * MARGIN
    assert (await figures.totals())[MODEL].calls == 50
    # No entry is ever deleted; if these were read again, they would be missed.
    await database.write(lambda connection: connection.execute(sa.delete(ledger)) and None)
    await put_entries(database, [entry(int(2 * MARGIN))])
    assert (await figures.totals())[MODEL].calls == 51


@pytest.mark.requirement("metrics.budgets")
async def test_the_fullest_budgets_come_first_and_archived_ones_not_at_all(
    database: Database, figures: Figures
) -> None:
    for name, spent, more in (
        ("empty", 0, {}),
        ("half", 5, {}),
        ("full", 10, {}),
        ("gone", 10, {"archived_at": 1.0}),
    ):
        await put_budget(database, id=name, limit=Nanos(10), window="total", **more)
        if spent:
            charge = Charge(name, "", "total")
            await put_counter(database, charge, spent=spent - 1, held=1)
    found = await figures.budgets()
    assert [(state.budget.id, state.spent, state.held) for state in found] == [
        ("full", 9, 1),
        ("half", 4, 1),
        ("empty", 0, 0),
    ]


async def test_an_answer_is_kept_as_long_as_it_was_worth_finding_out(clock: HandClock) -> None:
    class Ticking(HandClock):
        ticks = 0.0

        def monotonic(self) -> float:
            return self.ticks

    ticking, asked = Ticking(), 0

    async def find() -> int:
        nonlocal asked
        asked += 1
        ticking.ticks += 1.0  # it takes a second
        return asked

    kept = Kept(find, ticking)
    assert await kept.get() == await kept.get() == 1
    ticking.ticks += 19.0
    assert await kept.get() == 1
    ticking.ticks += 2.0
    assert await kept.get() == 2
