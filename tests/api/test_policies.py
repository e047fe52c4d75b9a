"""What clients see of policies and decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from admiralty.core.values import Access, Caller, Decision, Identity
from admiralty.runtime.api import create_app
from admiralty.runtime.policy import CedarPolicy, DecisionLog
from admiralty.runtime.storage import Database

from .conftest import Api, check_problem, opened_app, small_fleet


@pytest.fixture
async def governed(tmp_path: Path) -> AsyncIterator[tuple[Api, httpx.AsyncClient, DecisionLog]]:
    """The app with a policy, and a client with an admin's key of the tenant first."""
    async with opened_app(tmp_path / "home") as (_, api):
        database = Database.of(api.parts.settings)
        log = DecisionLog(database)
        policy = CedarPolicy.of(api.parts.settings, small_fleet())
        app = create_app(dataclasses.replace(api.parts, policy=policy, decisions=log))
        key, _ = await api.keys.create(tenant="first", admin=True)
        async with api.client(key, transport=httpx.ASGITransport(app)) as client:
            yield api, client, log
        await log.close()
        await database.close()


async def decided(log: DecisionLog, tenant: str, number: int, allowed: bool) -> None:
    caller = Caller(
        identity=Identity(tenant=tenant, user="ann"),
        fleet="desk",
        agent="clerk",
        agent_version="v1",
        conversation_id=f"conv_{number}",
        run_id="run_1",
    )
    access = Access(id=f"call_{number}", caller=caller, action="tool:call", resource="order_status")
    reasons = ("declared-tools (default.cedar:7)",) if allowed else ()
    await log.write(access, Decision(allowed=allowed, reasons=reasons, bundle="0123456789ab"))


@pytest.mark.requirement("policy.api")
async def test_any_key_sees_the_policies_in_effect(
    governed: tuple[Api, httpx.AsyncClient, DecisionLog],
) -> None:
    api, client, _ = governed
    answer = await client.get("/v1/policies", headers={"Authorization": f"Bearer {api.key}"})
    assert answer.status_code == 200
    document = answer.json()
    assert len(document["bundle"]) == 12
    assert document["mode"] == "enforce"
    assert document["files"][0]["name"] == "default.cedar"
    assert "declared-tools" in [rule["id"] for rule in document["policies"]]
    assert "/" not in answer.text, "nothing tells where the files lie"
    check_problem(await client.get("/v1/policies", headers={"Authorization": "Bearer adm_wrong"}), 401)


@pytest.mark.requirement("policy.api")
async def test_an_admin_pages_through_the_decisions_of_their_own_tenant(
    governed: tuple[Api, httpx.AsyncClient, DecisionLog],
) -> None:
    api, client, log = governed
    for number in range(5):
        await decided(log, "first", number, allowed=number != 3)
    await decided(log, "second", 9, allowed=True)
    first = (await client.get("/v1/decisions", params={"limit": 3})).json()
    assert [item["call_id"] for item in first["data"]] == ["call_4", "call_3", "call_2"]
    denied = first["data"][1]
    assert (denied["decision"], denied["user"], denied["bundle"]) == ("deny", "ann", "0123456789ab")
    rest = (await client.get("/v1/decisions", params={"limit": 3, "after": first["next"]})).json()
    assert [item["call_id"] for item in rest["data"]] == ["call_1", "call_0"]
    assert rest["next"] is None
    only = (await client.get("/v1/decisions", params={"decision": "deny"})).json()
    assert [item["call_id"] for item in only["data"]] == ["call_3"]
    one = (await client.get("/v1/decisions", params={"conversation_id": "conv_2"})).json()
    assert [item["call_id"] for item in one["data"]] == ["call_2"]
    check_problem(await client.get("/v1/decisions", params={"after": "dec_nothing"}), 400)
    check_problem(await client.get("/v1/decisions", params={"after": "../x"}), 400)
    check_problem(await client.get("/v1/decisions", params={"limit": 0}), 400)
    plain = await client.get("/v1/decisions", headers={"Authorization": f"Bearer {api.key}"})
    check_problem(plain, 403)
