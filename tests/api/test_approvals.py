"""What clients see of approvals, who may decide them, and what they may send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from admiralty.core.values import ApprovalRequest
from admiralty.runtime.approvals import Approval, insert_approval
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import conversations, runs

from .conftest import JSON, Api, check_problem, opened_app


@dataclass
class Desk:
    """The app, keys of all kinds, and calls that wait."""

    api: Api
    database: Database
    app: Any
    admin: str
    stranger: str
    number: int = 0

    def client(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        return self.api.client(key or self.admin, transport=httpx.ASGITransport(self.app), **options)

    async def ask(self, tenant: str = "first", **values: Any) -> Approval:
        """Write down a call that waits."""
        self.number += 1
        conversation, run = f"conv_{self.number}", f"run_{self.number}"
        given: dict[str, Any] = {"call_id": "call_1", "digest": "d", "kind": "tool", "agent": "clerk"}
        given |= {"agent_version": "v1", "tool": "order_status", "arguments": {"order_id": "W1"}}
        request = ApprovalRequest(**given | {"reason": "It is private."} | values)

        def add(connection: sa.Connection) -> Approval:
            row: dict[str, Any] = {"id": conversation, "tenant": tenant, "fleet": "desk", "metadata": {}}
            connection.execute(conversations.insert(), row | {"created_at": 1.0, "updated_at": 1.0})
            row = {
                "id": run,
                "conversation_id": conversation,
                "turn": 1,
                "tenant": tenant,
                "fleet": "elsewhere",
            }
            row |= {"status": "waiting", "owner": "", "lease_until": 0.0, "message": "m", "started_at": 1.0}
            connection.execute(runs.insert(), row)
            return insert_approval(
                connection,
                tenant=tenant,
                fleet="desk",
                conversation_id=conversation,
                run_id=run,
                user="ann",
                request=request,
                now=self.api.parts.clock.now(),
                default_seconds=3600.0,
            )

        return await self.database.write(add)

    async def status_of(self, run: str) -> str:
        query = sa.select(runs.c.status).where(runs.c.id == run)
        return str(await self.database.read(lambda c: c.execute(query).scalar_one()))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened_app(tmp_path / "home") as (app, api):
        database = Database.of(api.parts.settings)
        admin, _ = await api.keys.create(tenant="first", admin=True)
        stranger, _ = await api.keys.create(tenant="second", admin=True)
        yield Desk(api=api, database=database, app=app, admin=admin, stranger=stranger)
        await database.close()


@pytest.mark.requirement("approvals.api")
async def test_an_admin_sees_what_waits_edits_it_and_lets_it_go_on(desk: Desk) -> None:
    made = await desk.ask()
    async with desk.client(headers={"X-End-User": "boss"}) as client:
        listed = (await client.get("/v1/approvals", params={"status": "pending"})).json()
        assert [one["id"] for one in listed["data"]] == [made.id]
        assert listed["counts"]["pending"] == 1
        shown = (await client.get(f"/v1/approvals/{made.id}")).json()
        assert shown == listed["data"][0]
        assert (shown["tool"], shown["arguments"], shown["reason"], shown["user"]) == (
            "order_status", {"order_id": "W1"}, "It is private.", "ann",
        )  # fmt: skip
        body = {"verdict": "approve", "arguments": {"order_id": "W2"}, "reason": "That one."}
        answer = await client.post(f"/v1/approvals/{made.id}/decide", json=body)
        assert answer.status_code == 200, answer.text
        decided = answer.json()
        assert (decided["status"], decided["edited"], decided["decision_reason"]) == (
            "approved", {"order_id": "W2"}, "That one.",
        )  # fmt: skip
        assert decided["decided_by"].startswith("key_")
        assert decided["decided_by"].endswith(" (boss)")
        assert await desk.status_of(made.run_id) == "queued"
        again = await client.post(f"/v1/approvals/{made.id}/decide", json=body)
        assert (again.status_code, again.json()) == (200, decided)
        other = await client.post(f"/v1/approvals/{made.id}/decide", json={"verdict": "reject"})
        check_problem(other, 409)
        assert (other.json()["approval_status"], other.json()["decided_by"]) == (
            "approved", decided["decided_by"],
        )  # fmt: skip


@pytest.mark.requirement("approvals.api")
async def test_other_keys_of_the_tenant_see_that_something_waits_but_not_with_what(desk: Desk) -> None:
    made = await desk.ask()
    async with desk.client(desk.api.key) as client:
        (listed,) = (await client.get("/v1/approvals")).json()["data"]
        shown = (await client.get(f"/v1/approvals/{made.id}")).json()
        assert shown == listed
        assert (shown["status"], shown["arguments"], shown["edited"]) == ("pending", None, None)
        for verdict in ("approve", "reject"):
            answer = await client.post(
                f"/v1/approvals/{made.id}/decide", json={"verdict": verdict}, headers={"X-End-User": "ann"}
            )
            check_problem(answer, 403)
            assert "--admin" in answer.json()["detail"]
        unknown = await client.post("/v1/approvals/appr_x/decide", json={"verdict": "approve"})
        check_problem(unknown, 403)
    assert await desk.status_of(made.run_id) == "waiting"


@pytest.mark.requirement("approvals.api", "approvals.tenants")
async def test_to_another_tenants_admin_it_looks_as_if_there_were_nothing(desk: Desk) -> None:
    made = await desk.ask()
    async with desk.client(desk.stranger) as client:
        listed = (await client.get("/v1/approvals")).json()
        assert (listed["data"], sum(listed["counts"].values())) == ([], 0)
        filtered = await client.get("/v1/approvals", params={"conversation_id": made.conversation_id})
        assert filtered.json()["data"] == []
        check_problem(await client.get("/v1/approvals", params={"after": made.id}), 400)
        there = await client.get(f"/v1/approvals/{made.id}")
        check_problem(there, 404)
        nowhere = await client.get("/v1/approvals/appr_nowhere")
        assert there.text.replace(made.id, "") == nowhere.text.replace("appr_nowhere", "")
        for body in ({"verdict": "approve"}, {"verdict": "approve", "arguments": {"order_id": 1}}):
            check_problem(await client.post(f"/v1/approvals/{made.id}/decide", json=body), 404)
    async with desk.client("adm_wrong") as client:
        check_problem(await client.post(f"/v1/approvals/{made.id}/decide", json={"verdict": "approve"}), 401)
    assert await desk.status_of(made.run_id) == "waiting"


WRONG: dict[str, tuple[Any, int, str]] = {
    "no verdict": ({}, 400, "verdict"),
    "an unknown verdict": ({"verdict": "maybe"}, 400, "verdict"),
    "a verdict that is no text": ({"verdict": True}, 400, "verdict"),
    "an unknown field": ({"verdict": "approve", "by": "ann"}, 400, "by"),
    "arguments that are no object": ({"verdict": "approve", "arguments": [1]}, 400, "arguments"),
    "arguments to a no": ({"verdict": "reject", "arguments": {"order_id": "W1"}}, 400, "arguments"),
    "arguments that the tool does not take": (
        {"verdict": "approve", "arguments": {"order": "W1"}}, 400, "order_id: Field required",
    ),
    "arguments of another type": ({"verdict": "approve", "arguments": {"order_id": {}}}, 400, "order_id"),
    "a reason that is no text": ({"verdict": "approve", "reason": 7}, 400, "reason"),
    "a reason without end": ({"verdict": "approve", "reason": "x" * 4001}, 400, "reason"),
}  # fmt: skip


@pytest.mark.requirement("approvals.api")
@pytest.mark.parametrize("case", WRONG)
async def test_what_is_no_decision_is_refused_and_changes_nothing(desk: Desk, case: str) -> None:
    body, status, told = WRONG[case]
    made = await desk.ask()
    async with desk.client() as client:
        answer = await client.post(f"/v1/approvals/{made.id}/decide", json=body)
        check_problem(answer, status)
        assert told in answer.text
        assert (await client.get(f"/v1/approvals/{made.id}")).json()["status"] == "pending"
    assert await desk.status_of(made.run_id) == "waiting"


@pytest.mark.requirement("approvals.api")
@pytest.mark.parametrize(
    "arguments",
    [
        "[" * 40 + "]" * 40,
        '{"a":' * 2000 + "1" + "}" * 2000,
        '{"order_id":"' + "x" * 2_000_000 + '"}',
        '{"order_id":NaN}',
        '{"order_id":"\\u0000"}',
        '{"order_id":"\\ud800"}',
        '{"order_id":' + "9" * 5000 + "}",
    ],
    ids=["nested list", "nested object", "huge", "NaN", "NUL", "surrogate", "number"],
)
async def test_odd_and_huge_arguments_are_refused_as_the_clients_fault(desk: Desk, arguments: str) -> None:
    made = await desk.ask()
    body = f'{{"verdict":"approve","arguments":{arguments}}}'
    async with desk.client() as client:
        answer = await client.post(f"/v1/approvals/{made.id}/decide", content=body, headers=JSON)
        assert 400 <= answer.status_code < 500, answer.text[:500]
    assert await desk.status_of(made.run_id) == "waiting"


@pytest.mark.requirement("approvals.api")
async def test_arguments_for_a_tool_of_another_fleet_are_left_to_that_fleet(desk: Desk) -> None:
    made = await desk.ask(tool="elsewhere")
    async with desk.client() as client:
        body = {"verdict": "approve", "arguments": {"anything": [1]}}
        answer = await client.post(f"/v1/approvals/{made.id}/decide", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["edited"] == {"anything": [1]}


@pytest.mark.requirement("approvals.api")
async def test_approvals_come_a_page_at_a_time_by_filters_that_must_make_sense(desk: Desk) -> None:
    made = [(await desk.ask(tool="a" if number % 2 else "b")).id for number in range(5)]
    await desk.ask("second")
    async with desk.client() as client:

        async def page(**params: Any) -> Any:
            answer = await client.get("/v1/approvals", params=params)
            assert answer.status_code == 200, answer.text
            return answer.json()

        first = await page(limit=3)
        assert [one["id"] for one in first["data"]] == made[:1:-1]
        assert first["has_more"]
        rest = await page(limit=3, after=made[2])
        assert [one["id"] for one in rest["data"]] == [made[1], made[0]]
        assert not rest["has_more"]
        assert [one["id"] for one in (await page(tool="a"))["data"]] == [made[3], made[1]]
        assert (await page(agent="nobody\0"))["data"] == []
        for params in (
            {"status": "open"}, {"limit": 0}, {"limit": 201}, {"after": "../x"}, {"after": "appr_x"},
            {"conversation_id": "a b"}, {"tool": "x" * 65},
        ):  # fmt: skip
            check_problem(await client.get("/v1/approvals", params=params), 400)
        check_problem(await client.get("/v1/approvals/a%20b"), 404)
        check_problem(await client.get("/v1/approvals/" + "x" * 5000), 404)
