"""Budgets, spending and the ledger over HTTP: who may, who sees what, and what is told."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from admiralty.core.money import Nanos
from admiralty.core.values import Caller, Identity, Usage
from admiralty.runtime.ledger.rows import entry_row
from admiralty.runtime.ledger.values import Entry
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import counters, ledger

from .conftest import Api, check_problem, opened_app, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = {"scope": "user:acme/*", "limit_usd": "2.50", "window": "month"}


@dataclass(frozen=True, kw_only=True)
class House:
    """The app, and keys of every kind."""

    api: Api
    database: Database
    admin: str
    member: str
    blue: str
    rival: str

    def client(self, key: str) -> httpx.AsyncClient:
        return self.api.client(key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> AsyncIterator[House]:
    async with opened_app(tmp_path_factory.mktemp("money")) as (app, api), served(app, free_port()) as url:
        admin, _ = await api.keys.create(tenant="acme", admin=True, team="blue")
        member, _ = await api.keys.create(tenant="acme")
        blue, _ = await api.keys.create(tenant="acme", team="blue")
        rival, _ = await api.keys.create(tenant="rival", admin=True)
        database = api.parts.budgets._database
        yield House(
            api=replace(api, url=url), database=database, admin=admin, member=member, blue=blue, rival=rival
        )


@pytest_asyncio.fixture(loop_scope="module")
async def admin(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client(house.admin) as client:
        yield client


async def made(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    answer = await client.post("/v1/budgets", json=NEW | values)
    assert answer.status_code == 201, answer.text
    budget: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/budgets/{budget['id']}"
    return budget


# -- budgets --------------------------------------------------------------------------------------


@pytest.mark.requirement("api.budgets")
async def test_a_budget_is_made_shown_changed_and_archived(house: House, admin: httpx.AsyncClient) -> None:
    budget = await made(admin, name="Users", webhook="https://hooks.example.com/T0/secret")
    row = {"budget_id": budget["id"], "window": budget["current_window"], "unproven": 0}
    rows = [
        row | {"subject": "user:acme/ann", "spent": 2_000_000_001, "held": 0},
        row | {"subject": "user:acme/bob", "spent": 5, "held": 7},
    ]
    await house.database.write(lambda connection: connection.execute(counters.insert(), rows) and None)
    shown = (await admin.get(f"/v1/budgets/{budget['id']}")).json()
    assert (shown["spent_usd"], shown["held_usd"], shown["left_usd"]) == ("2.000000006", "0.000000007", None)
    assert shown["subjects"] == [
        {"subject": "user:acme/ann", "spent_usd": "2.000000001", "held_usd": "0", "left_usd": "0.499999999"},
        {
            "subject": "user:acme/bob",
            "spent_usd": "0.000000005",
            "held_usd": "0.000000007",
            "left_usd": "2.499999988",
        },
    ]
    assert shown["resets_at"] > shown["created_at"]
    assert shown["webhook"] == "https://hooks.example.com/T0/secret"

    change = {"limit_usd": "40", "if_updated_at": budget["updated_at"]}
    changed = (await admin.patch(f"/v1/budgets/{budget['id']}", json=change)).json()
    assert (changed["limit_usd"], changed["name"], changed["hard"]) == ("40", "Users", True)
    check_problem(await admin.patch(f"/v1/budgets/{budget['id']}", json=change), 409)

    assert (await admin.delete(f"/v1/budgets/{budget['id']}")).json()["archived_at"]
    listed = (await admin.get("/v1/budgets", params={"limit": 200})).json()["data"]
    assert budget["id"] not in [one["id"] for one in listed]


@pytest.mark.requirement("api.budgets")
async def test_only_admin_keys_change_budgets_and_only_their_tenants(
    house: House, admin: httpx.AsyncClient
) -> None:
    budget = await made(admin, scope="tenant:acme")
    path = f"/v1/budgets/{budget['id']}"
    for key, status in ((house.member, 403), (house.blue, 403), (house.rival, 404)):
        async with house.client(key) as client:
            if status == 403:
                check_problem(await client.post("/v1/budgets", json=NEW), 403)
            check_problem(await client.patch(path, json={"limit_usd": "1000000"}), status)
            check_problem(await client.delete(path), status)
    for scope in ("tenant:rival", "tenant:*", "user:*/*", "tag:rival/project=x"):
        check_problem(await admin.post("/v1/budgets", json=NEW | {"scope": scope}), 403)
    assert (await admin.get(path)).json()["limit_usd"] == "2.5"


@pytest.mark.requirement("api.budgets")
async def test_other_keys_look_at_what_concerns_them_and_no_secret_of_it(
    house: House, admin: httpx.AsyncClient
) -> None:
    hook = "https://hooks.example.com/T0/secret"
    whole = await made(admin, scope="tenant:acme", webhook=hook)
    blue = await made(admin, scope="team:acme/blue")

    async def seen(key: str) -> dict[str, Any]:
        async with house.client(key) as client:
            data = (await client.get("/v1/budgets", params={"limit": 200})).json()["data"]
            return {one["id"]: one for one in data}

    member, team, rival = await seen(house.member), await seen(house.blue), await seen(house.rival)
    assert {whole["id"], blue["id"]} <= set(member)
    assert member[whole["id"]]["webhook"] == "https://hooks.example.com/…"
    assert set(team) == {blue["id"]}
    assert rival == {}
    async with house.client(house.blue) as client:
        check_problem(await client.get(f"/v1/budgets/{whole['id']}"), 404)


@pytest.mark.requirement("api.budgets")
async def test_budgets_come_in_pages(house: House, admin: httpx.AsyncClient) -> None:
    ids = {(await made(admin, scope="tag:acme/page=one"))["id"] for _ in range(5)}
    found: list[str] = []
    params: dict[str, Any] = {"scope": "tag:acme/page=one", "limit": 2}
    while True:
        page = (await admin.get("/v1/budgets", params=params)).json()
        found += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        params["after"] = found[-1]
    assert found == sorted(ids)


@pytest.mark.requirement("api.bad_input")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"limit_usd": 2.5},
        {"limit_usd": "-1"},
        {"limit_usd": "1e5"},
        {"window": "fortnight"},
        {"window": "rolling", "seconds": 10},
        {"timezone": "Nowhere"},
        {"timezone": "\u0000"},
        {"thresholds": ["0.5"]},
        {"thresholds": [-1]},
        {"webhook": "http://169.254.169.254/latest/meta-data"},
        {"webhook": "http://localhost:8265/"},
        {"scope": "user:acme"},
        {"scope": ""},
        {"surprise": 1},
        {"tenant": "rival"},
    ],
)
async def test_a_budget_that_cannot_be_is_refused(admin: httpx.AsyncClient, body: dict[str, Any]) -> None:
    check_problem(await admin.post("/v1/budgets", json=NEW | body if body else {}), 400)


@pytest.mark.requirement("api.bad_input")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/budgets/nosuch", 404),
        ("GET", "/v1/budgets/a%00b", 404),
        ("PATCH", "/v1/budgets/budget_x", 404),
        ("DELETE", "/v1/budgets/" + "x" * 300, 404),
        ("GET", "/v1/budgets?limit=0", 400),
        ("GET", "/v1/budgets?scope=planet:x", 400),
        ("GET", "/v1/budgets?after=%27", 400),
        ("GET", "/v1/spend?group_by=planet", 400),
        ("GET", "/v1/spend?group_by=tag:%22", 400),
        ("GET", "/v1/spend?since=yesterday", 400),
        ("GET", "/v1/spend?interval=century", 400),
        ("GET", "/v1/ledger?format=xls", 400),
        ("GET", "/v1/ledger?until=later", 400),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(
    admin: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    check_problem(await admin.request(method, path, json={} if method == "PATCH" else None), status)


# -- spending and the ledger ----------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spent(house: House) -> None:
    """Four entries: two teams of one tenant, and another tenant."""

    def entry(number: int, tenant: str, team: str | None, cost: int) -> Entry:
        caller = Caller(
            identity=Identity(tenant=tenant, team=team, tags={"project": f"p{number % 2}"}),
            fleet="desk",
            agent="clerk",
            agent_version="v",
            conversation_id="conv_money",
            run_id="run_money",
        )
        return Entry(
            id=f"call_money_{number}", call_id="c", kind="model", caller=caller, model="openai:x",
            tier="small", status="ok", usage=Usage(input_tokens=10, output_tokens=5), cost=Nanos(cost),
            at=1_000.0 + number,
        )  # fmt: skip

    given = [("acme", "blue", 1), ("acme", "red", 20), ("acme", None, 300), ("rival", None, 4000)]
    rows = [entry_row(entry(number, *values)) for number, values in enumerate(given)]
    await house.database.write(lambda connection: connection.execute(ledger.insert(), rows) and None)


@pytest.mark.requirement("api.spend")
@pytest.mark.usefixtures("spent")
async def test_spending_is_told_by_groups_to_whom_it_concerns(house: House) -> None:
    params = {"group_by": "team,tag:project", "until": "2000"}
    for key, total, lines in ((house.admin, 321, 3), (house.member, 321, 3), (house.blue, 1, 1)):
        async with house.client(key) as client:
            told = (await client.get("/v1/spend", params=params)).json()
        assert told["group_by"] == ["team", "tag:project"]
        assert told["total"]["cost_usd"] == f"0.{total:09d}"
        assert len(told["data"]) == lines
        assert not told["truncated"]
    assert told["data"][0]["group"] == {"team": "blue", "tag:project": "p0"}
    async with house.client(house.rival) as client:
        told = (await client.get("/v1/spend?group_by=tenant&interval=day&until=2000")).json()
    assert [(line["period"], line["group"], line["calls"]) for line in told["data"]] == [
        ("1970-01-01", {"tenant": "rival"}, 1)
    ]


@pytest.mark.requirement("api.spend")
@pytest.mark.usefixtures("spent")
async def test_the_ledger_is_a_file_in_three_formats(house: House) -> None:
    time = {"since": "1000", "until": "2000"}
    async with house.client(house.member) as client:
        plain = await client.get("/v1/ledger", params=time)
        lines = await client.get("/v1/ledger", params=time | {"format": "jsonl"})
        focus = await client.get("/v1/ledger", params=time | {"format": "focus"})
    assert plain.headers["content-type"] == "text/csv; charset=utf-8"
    assert plain.headers["content-disposition"].startswith('attachment; filename="ledger-')
    assert [row["cost_usd"] for row in csv.DictReader(io.StringIO(plain.text))] == [
        "0.000000001",
        "0.00000002",
        "0.0000003",
    ]
    assert [json.loads(line)["team"] for line in lines.text.splitlines()] == ["blue", "red", None]
    assert {row["BillingAccountId"] for row in csv.DictReader(io.StringIO(focus.text))} == {"acme"}
    async with house.client(house.blue) as client:
        own = (await client.get("/v1/ledger", params=time | {"format": "jsonl"})).text
    assert [json.loads(line)["team"] for line in own.splitlines()] == ["blue"]
