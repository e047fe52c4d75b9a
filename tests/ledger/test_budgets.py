"""Budgets in SQL: what they may say, who may see them, how they stand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.errors import Conflict, Denied, InvalidRequest, NotFound
from admiralty.core.money import Nanos, from_dollars
from admiralty.core.values import Identity
from admiralty.runtime.ledger.budgets import MAX_PER_SCOPE, Budgets
from admiralty.runtime.ledger.values import Charge
from admiralty.runtime.ledger.viewer import OPERATOR, Viewer
from admiralty.runtime.ledger.windows import HELD, rolling_bucket
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import alerts

from .conftest import NOON, HandClock, put_counter

ACME = Viewer(tenant="acme")


@pytest.fixture
def store(database: Database, clock: HandClock) -> Budgets:
    return Budgets(database, clock)


def given(**values: Any) -> dict[str, Any]:
    return {"scope": "tenant:acme", "limit_usd": "25", "window": "month"} | values


@pytest.mark.requirement("money.budgets")
async def test_a_budget_is_kept_as_it_was_made(store: Budgets) -> None:
    made = await store.create(
        **given(
            scope="user:acme/ann smith", limit_usd="0.000000001", name=" Ann ", timezone="Europe/Berlin",
            hard=False, thresholds=[1, 0.5, 0.5], webhook="https://example.com/hook",
        )
    )  # fmt: skip
    state = await store.state(made.id)
    assert state.budget == made
    assert (made.limit, made.name, made.hard, made.thresholds) == (Nanos(1), "Ann", False, (0.5, 1.0))
    assert (state.window, state.spent, state.held, state.left) == ("2026-11", 0, 0, 1)
    assert not state.applies_to_each


@pytest.mark.requirement("money.budgets")
@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"limit_usd": "-1"}, "limit_usd"),
        ({"limit_usd": "1.0000000001"}, "limit_usd"),
        ({"limit_usd": "9000000000"}, "limit_usd"),
        ({"limit_usd": "1e3"}, "limit_usd"),
        ({"limit_usd": "NaN"}, "limit_usd"),
        ({"limit_usd": ""}, "limit_usd"),
        ({"window": "year"}, "window"),
        ({"window": "rolling"}, "seconds"),
        ({"window": "day", "seconds": 60}, "seconds"),
        ({"window": "rolling", "seconds": 59.9}, "seconds"),
        ({"window": "rolling", "seconds": 367 * 86400}, "seconds"),
        ({"window": "rolling", "seconds": float("nan")}, "seconds"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"thresholds": [0]}, "thresholds"),
        ({"thresholds": [10.1]}, "thresholds"),
        ({"thresholds": [float("nan")]}, "thresholds"),
        ({"thresholds": [number / 20 for number in range(1, 12)]}, "thresholds"),
        ({"webhook": "http://127.0.0.1/"}, "webhook"),
        ({"webhook": "file:///etc/passwd"}, "webhook"),
        ({"scope": "planet:acme"}, "scope"),
        ({"name": "x" * 201}, "name"),
    ],
)
async def test_what_no_budget_can_be_is_refused_with_the_name_of_the_part(
    values: dict[str, Any], param: str, sqlite_url: str
) -> None:
    database = Database(sqlite_url)
    try:
        with pytest.raises(InvalidRequest) as refused:
            await Budgets(database).create(**given(**values))
        assert refused.value.details["param"] == param
        assert await Budgets(database).states() == []
    finally:
        await database.close()


@pytest.mark.requirement("money.budgets")
async def test_a_tenant_governs_and_sees_its_own_budgets_only(store: Budgets) -> None:
    theirs = await store.create(**given(scope="tenant:rival"))
    everybody = await store.create(**given(scope="user:*/*"))
    for scope in ("tenant:rival", "tenant:*", "user:rival/ann", "user:*/*", "tag:*/project=x"):
        with pytest.raises(Denied):
            await store.create(**given(scope=scope), viewer=ACME)
    mine = await store.create(**given(scope="user:acme/*"), viewer=ACME)
    assert [state.budget.id for state in await store.states(viewer=ACME)] == [mine.id]
    assert len(await store.states()) == 3
    for hidden in (theirs, everybody):
        with pytest.raises(NotFound):
            await store.state(hidden.id, viewer=ACME)
        with pytest.raises(NotFound):
            await store.change(hidden.id, {"limit_usd": "1000000"}, viewer=ACME)
    assert (await store.state(theirs.id)).budget == theirs


@pytest.mark.requirement("money.budgets")
async def test_a_teams_key_sees_its_teams_budgets_and_an_admin_the_tenants(store: Budgets) -> None:
    blue = await store.create(**given(scope="team:acme/blue"))
    for scope in ("team:acme/red", "tenant:acme", "team:acme/*", "team:rival/blue"):
        await store.create(**given(scope=scope))
    member = Identity(tenant="acme", team="blue")
    assert [state.budget.id for state in await store.states(viewer=Viewer.of(member))] == [blue.id]
    admin = Viewer.of(Identity(tenant="acme", team="blue", admin=True))
    assert len(await store.states(viewer=admin)) == 4
    assert Viewer.of(Identity(tenant="acme")) == ACME
    assert OPERATOR.team_scope is None


@pytest.mark.requirement("money.budgets")
async def test_a_change_made_on_what_somebody_else_has_changed_since_is_refused(store: Budgets) -> None:
    made = await store.create(**given())
    changed = await store.change(made.id, {"limit_usd": "30", "hard": False}, expected=made.updated_at)
    assert (changed.limit, changed.hard) == (from_dollars(30), False)
    assert changed.updated_at > made.updated_at
    with pytest.raises(Conflict):
        await store.change(made.id, {"limit_usd": "20"}, expected=made.updated_at)
    with pytest.raises(InvalidRequest, match="scope"):
        await store.change(made.id, {"scope": "tenant:rival"})
    cleared = await store.change(made.id, {"webhook": None, "name": "x", "thresholds": []})
    assert (cleared.name, cleared.thresholds, cleared.limit) == ("x", (), from_dollars(30))


@pytest.mark.requirement("money.budgets")
async def test_an_archived_budget_is_kept_and_can_come_back(store: Budgets) -> None:
    made = await store.create(**given())
    assert (await store.change(made.id, {"archived": True})).archived_at == NOON
    assert await store.states() == []
    assert [state.budget.id for state in await store.states(archived=True)] == [made.id]
    assert (await store.change(made.id, {"archived": False})).archived_at is None


@pytest.mark.requirement("money.budgets")
async def test_a_scope_has_a_bounded_number_of_budgets(store: Budgets) -> None:
    made = await asyncio.gather(*(store.create(**given()) for _ in range(MAX_PER_SCOPE)))
    with pytest.raises(Conflict, match="Archive one"):
        await store.create(**given())
    await store.change(made[0].id, {"archived": True})
    await store.create(**given())
    with pytest.raises(Conflict):
        await store.change(made[0].id, {"archived": False})


@pytest.mark.requirement("money.budgets")
async def test_budgets_are_listed_page_by_page(store: Budgets) -> None:
    ids = [(await store.create(**given(scope=f"user:acme/{number}"))).id for number in range(5)]
    first = await store.states(limit=3)
    rest = await store.states(limit=3, after=first[-1].budget.id)
    assert sorted(ids) == [state.budget.id for state in [*first, *rest]]
    (found,) = await store.states(scope="user:acme/3")
    assert found.budget.scope == "user:acme/3"


@pytest.mark.requirement("money.budgets")
async def test_a_budget_stands_as_its_present_window_says(
    store: Budgets, database: Database, clock: HandClock
) -> None:
    made = await store.create(**given(limit_usd="0.000001"))
    await put_counter(database, Charge(made.id, "", "2026-10"), spent=77)
    await put_counter(database, Charge(made.id, "", "2026-11"), spent=600, held=500)
    state = await store.state(made.id)
    assert (state.spent, state.held, state.left) == (600, 500, -100)
    clock.time = state.resets_at or 0
    assert (await store.state(made.id)).left == 1000


@pytest.mark.requirement("money.budgets")
async def test_a_rolling_budget_stands_as_its_last_buckets_say(
    store: Budgets, database: Database, clock: HandClock
) -> None:
    made = await store.create(**given(limit_usd="0.000001", window="rolling", seconds=3600.0))
    for minutes, spent in ((200, 1), (59, 20), (0, 300)):
        bucket = rolling_bucket(made, NOON - 60 * minutes)
        await put_counter(database, Charge(made.id, "", bucket), spent=spent)
    await put_counter(database, Charge(made.id, "", HELD), held=7)
    state = await store.state(made.id)
    assert (state.spent, state.held, state.left) == (320, 7, 673)
    clock.time += 3590
    assert (await store.state(made.id)).spent == 300


@pytest.mark.requirement("money.budgets")
async def test_of_a_budget_for_each_the_highest_spenders_are_shown(
    store: Budgets, database: Database
) -> None:
    made = await store.create(**given(scope="user:acme/*"))
    for number in range(25):
        await put_counter(
            database, Charge(made.id, f"user:acme/{number:02d}", "2026-11"), spent=number, held=1
        )
    state = await store.state(made.id)
    assert (state.subject_count, state.spent, state.held, state.left) == (25, 300, 25, None)
    assert [(one.subject, one.spent) for one in state.subjects[:2]] == [
        ("user:acme/24", 24),
        ("user:acme/23", 23),
    ]
    assert len(state.subjects) == 20
    ((listed),) = await store.states()
    assert listed.subjects == ()


@pytest.mark.requirement("money.alerts")
async def test_a_threshold_that_a_change_leaves_behind_alerts_at_once_and_no_other(
    store: Budgets, database: Database
) -> None:
    made = await store.create(**given(limit_usd="0.000001", thresholds=[0.5, 0.8]))
    await put_counter(database, Charge(made.id, "", "2026-11"), spent=600)
    await store.change(made.id, {"name": "other"})
    await store.change(made.id, {"limit_usd": "0.0000007"})
    await store.change(made.id, {"limit_usd": "0.0000009"})
    rows = await database.read(lambda connection: connection.execute(sa.select(alerts)).all())
    assert [(row.threshold, row.spent_nanos, row.limit_nanos) for row in rows] == [(0.8, 600, 700)]
