"""Verification: silent over right books, and of each kind of wrong ones it names the place and the amount."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.clock import SystemClock
from admiralty.core.money import Nanos
from admiralty.runtime.ledger.alerts import record_alerts
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.values import Charge
from admiralty.runtime.ledger.verify import GRACE_SECONDS, MAX_PROBLEMS, Problem, Verifier
from admiralty.runtime.ledger.windows import HELD, rolling_bucket
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import alerts

from .conftest import NOON, HandClock, caller, entry, put_budget, put_counter, put_entries, put_hold
from .money import paid, request

MONTH = Charge("budget_1", "", "2026-11")
EACH = Charge("budget_2", "user:acme/ann", "total")


async def right_books(database: Database) -> None:
    """Two budgets, of which one rolls, with everything that books can have."""
    await put_budget(database)
    await put_budget(database, id="budget_2", scope="user:acme/*", window="total")
    rolling = await put_budget(database, id="budget_3", window="rolling", seconds=3600.0)
    bucket = Charge("budget_3", "", rolling_bucket(rolling, NOON))
    old = Charge("budget_3", "", rolling_bucket(rolling, NOON - 9000))  # cleared away since
    await put_entries(
        database,
        [
            entry(1, 1000, charges=[MONTH, EACH, bucket]),
            entry(2, 300, charges=[MONTH, EACH, bucket], status="expired", estimated=True),
            entry(3, -100, charges=[MONTH, EACH, bucket], kind="correction", corrects="call_000002"),
            entry(4, 77, charges=[old]),
            entry(5, None),
            entry(6, 5),
        ],
    )
    await put_hold(database, "call_7", 40, [MONTH, EACH, Charge("budget_3", "", HELD)])
    await put_hold(database, "call_8", 2, [MONTH], unproven=True, expires_at=NOON - GRACE_SECONDS + 1)
    await put_counter(database, MONTH, spent=1200, held=42, unproven=2)
    await put_counter(database, EACH, spent=1200, held=40)
    await put_counter(database, bucket, spent=1200)
    await put_counter(database, Charge("budget_3", "", HELD), held=40)


async def look(database: Database) -> list[Problem]:
    return (await Verifier(database, HandClock()).verify()).problems


async def run(database: Database, *statements: str) -> None:
    def execute(connection: sa.Connection) -> None:
        for statement in statements:
            connection.execute(sa.text(statement))

    await database.write(execute)


@pytest.mark.requirement("money.verify")
async def test_right_books_are_found_right_and_counted(database: Database) -> None:
    await right_books(database)
    found = await Verifier(database, HandClock()).verify()
    assert found.problems == []
    assert found.is_right
    assert (found.entries, found.counters, found.holds, found.estimated) == (6, 4, 2, 1)
    assert found.spent == Nanos(1000 + 300 - 100 + 77 + 5)


@pytest.mark.requirement("money.verify")
async def test_books_with_nothing_in_them_are_right(database: Database) -> None:
    assert await look(database) == []


def sql(statement: str) -> Callable[[Database], Awaitable[None]]:
    return lambda database: run(database, statement)


async def twice_the_same_id(database: Database) -> None:
    if database.is_sqlite:
        await run(
            database,
            "ALTER TABLE ledger RENAME TO kept",
            "CREATE TABLE ledger AS SELECT * FROM kept",
            "INSERT INTO ledger SELECT * FROM kept WHERE id = 'call_000006'",
        )
    else:
        await run(
            database,
            "ALTER TABLE ledger DROP CONSTRAINT pk_ledger",
            "INSERT INTO ledger SELECT * FROM ledger WHERE id = 'call_000006'",
        )


PLANTED: dict[str, tuple[Callable[[Database], Awaitable[None]], str, str, str]] = {
    "a counter that lost spending": (
        sql("UPDATE counters SET spent = spent - 1 WHERE budget_id = 'budget_1'"),
        "spent", "budget_1 2026-11", "$0.000001199 spent, but its entries add up to $0.0000012",
    ),
    "a counter of one of many": (
        sql("UPDATE counters SET spent = spent + 7 WHERE budget_id = 'budget_2'"),
        "spent", "budget_2 user:acme/ann total", "$0.000001207",
    ),
    "an entry that was changed": (
        sql("UPDATE ledger SET cost_nanos = 999 WHERE id = 'call_000001'"),
        "spent", "budget_1 2026-11", "$0.000001199",
    ),
    "an entry that went away": (
        sql("DELETE FROM ledger WHERE id = 'call_000001'"), "spent", "budget_1 2026-11", "$0.0000002",
    ),
    "an entry that charges other counters": (
        sql("""UPDATE ledger SET charges = '[["budget_1", "", "2026-10"]]' WHERE id = 'call_000006'"""),
        "spent", "budget_1 2026-10", "$0 spent, but its entries add up to $0.000000005",
    ),
    "a rolling counter that counts still": (
        sql("DELETE FROM counters WHERE budget_id = 'budget_3' AND spent > 0"),
        "spent", "budget_3", "$0 spent, but its entries add up to $0.0000012",
    ),
    "a hold that leaked": (
        sql("DELETE FROM holds WHERE id = 'call_8'"),
        "held", "budget_1 2026-11", "$0.000000042 held, but its holds add up to $0.00000004",
    ),
    "a hold that is not counted": (
        sql("UPDATE counters SET held = 0 WHERE budget_id = 'budget_3'"),
        "held", "budget_3 held", "$0 held, but its holds add up to $0.00000004",
    ),
    "an unproven hold that leaked": (
        sql("UPDATE counters SET unproven = 0"), "unproven", "budget_1 2026-11", "$0.000000002",
    ),
    "a counter below zero": (
        sql("UPDATE counters SET spent = -1 WHERE budget_id = 'budget_2'"),
        "negative", "budget_2 user:acme/ann total", "spent $-0.000000001",
    ),
    "an entry below zero": (
        sql("UPDATE ledger SET cost_nanos = -5 WHERE id = 'call_000006'"),
        "negative", "call_000006", "cost $",
    ),
    "a debt below zero": (
        sql("UPDATE ledger SET debt_nanos = -5 WHERE id = 'call_000006'"),
        "negative", "call_000006", "debt $",
    ),
    "a hold below zero": (
        sql("UPDATE holds SET amount = -40 WHERE id = 'call_7'"), "negative", "call_7", "$-0.00000004",
    ),
    "two entries of one id": (twice_the_same_id, "unique", "call_000006", "2 entries"),
    "a hold that is there beside its entry": (
        sql("UPDATE holds SET id = 'call_000006' WHERE id = 'call_8'"),
        "ended twice", "call_000006", "cost $0.000000005",
    ),
    "a correction of nothing": (
        sql("UPDATE ledger SET corrects = 'call_x' WHERE id = 'call_000003'"),
        "corrections", "call_000003", "call_x",
    ),
    "a correction of another tenant's entry": (
        sql("UPDATE ledger SET tenant = 'rival' WHERE id = 'call_000002'"),
        "corrections", "call_000003", "of tenant rival",
    ),
    "a call that claims to correct": (
        sql("UPDATE ledger SET corrects = 'call_000001' WHERE id = 'call_000006'"),
        "corrections", "call_000006", "of kind model",
    ),
    "an estimate that is not marked": (
        sql("UPDATE ledger SET estimated = false WHERE id = 'call_000002'"),
        "estimated", "call_000002", "$0.0000003",
    ),
    "a hold that nobody swept": (
        sql(f"UPDATE holds SET expires_at = {NOON - GRACE_SECONDS - 1}"), "expired", "call_7", "$0.00000004",
    ),
}  # fmt: skip


@pytest.mark.requirement("money.verify")
@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_error_is_found_with_place_and_amount(database: Database, planted: str) -> None:
    plant, check, where, text = PLANTED[planted]
    await right_books(database)
    await plant(database)
    problems = await look(database)
    assert [
        problem
        for problem in problems
        if problem.check == check and problem.where.startswith(where) and text in problem.text
    ], problems


@pytest.mark.requirement("money.verify")
async def test_books_are_looked_at_as_they_were_at_one_moment(database: Database) -> None:
    """Entries are added, each with its counter in one transaction, while verification goes on."""
    await put_budget(database)
    await put_counter(database, MONTH)
    done = asyncio.Event()

    async def spend() -> int:
        number = 0
        while not done.is_set():
            number += 1
            row: dict[str, Any] = {"id": f"c{number}", "cost": number, "at": NOON}
            await run(
                database,
                f"UPDATE counters SET spent = spent + {number}",
                "INSERT INTO ledger (id, kind, call_id, tenant, tags, fleet, agent, agent_version, "
                "conversation_id, run_id, model, tier, tool, status, cost_nanos, estimated, price_book, "
                "policy, charges, seconds, at) VALUES "
                f"('{row['id']}', 'model', 'c', 'acme', '{{}}', 'f', 'a', 'v', 'c', 'r', 'm', 't', '', 'ok', "
                f"{number}, false, '', '', '[[\"budget_1\", \"\", \"2026-11\"]]', 0, {NOON})",
            )
        return number

    spending = asyncio.create_task(spend())
    try:
        async with asyncio.timeout(30):
            for _ in range(20):
                assert await look(database) == []
    finally:
        done.set()
    assert await spending > 5
    assert await look(database) == []


@pytest.mark.requirement("money.verify")
async def test_however_much_is_wrong_the_answer_is_bounded(database: Database) -> None:
    lost = [Charge("budget_1", f"user:acme/{number}", "total") for number in range(MAX_PROBLEMS + 50)]
    await put_entries(
        database, [entry(n, 1, charges=[charge], caller=caller()) for n, charge in enumerate(lost)]
    )
    assert len(await look(database)) == MAX_PROBLEMS


@pytest.mark.requirement("money.verify", "money.alerts")
async def test_what_the_ledger_itself_writes_is_right_and_alerts_as_it_spends(database: Database) -> None:
    """Concurrent calls against budgets of every kind: paid, released, corrected and left to expire."""
    budgets = Budgets(database)
    each: dict[str, Any] = {"limit_usd": "0.000001"}
    made = [
        await budgets.create(scope="tenant:acme", window="month", **each),
        await budgets.create(scope="user:acme/*", window="day", timezone="Asia/Kolkata", **each),
        await budgets.create(scope="team:acme/desk", window="rolling", seconds=3600.0, **each),
        await budgets.create(scope="tag:*/project=*", window="total", **each),
    ]
    ledger = Ledger(database, owner="test", clock=SystemClock(), on_spent=record_alerts)
    await ledger.start()
    try:
        async with asyncio.timeout(30):
            wanted = [request(fixed=50) for _ in range(16)]
            holds = await asyncio.gather(*(ledger.reserve(one) for one in wanted))
            told = [paid(one, 50, estimated=number < 4) for number, one in enumerate(wanted)]
            await asyncio.gather(
                *(ledger.settle(one, hold) for one, hold in zip(told[:15], holds[:15], strict=True))
            )
            for one in wanted[:4]:  # the truth about what had been estimated
                await ledger.settle(paid(one, 20), None)
            await ledger.settle(paid(request(), 70), None)
    finally:
        await ledger.close()
    found = await Verifier(database).verify()
    assert found.problems == []
    assert (found.entries, found.holds, found.spent) == (20, 1, 15 * 50 - 4 * 30 + 70)
    for budget in made:
        state = await budgets.state(budget.id)
        assert (state.spent, state.held) == (700, 50)
    rows = await database.read(lambda connection: connection.execute(sa.select(alerts)).all())
    assert sorted((row.budget_id, row.threshold) for row in rows) == sorted((b.id, 0.5) for b in made)
    assert {row.subject for row in rows} == {"", "user:acme/ann", "tag:acme/project=x"}
