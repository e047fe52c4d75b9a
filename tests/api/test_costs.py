"""What a turn cost, and which budget refused it, wherever a client may look."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from admiralty.agents import Agent, Fleet
from admiralty.tools import tool

from .conftest import CHAT, SHORT, Api, OpenApi, read_events
from .test_operations import scraped


@tool(effect="read", price="0.002")
def order_status(order_id: str) -> dict[str, str]:
    """Return where an order is; the carrier wants money for it.

    Args:
        order_id: The order's number.
    """
    return {"order_id": order_id, "status": "shipped"}


def desk() -> Fleet:
    """The desk, whose clerk's tool has a price."""
    front = Agent("front", prompt="Greet.", description="The front desk", handoffs=["clerk"])
    clerk = Agent("clerk", prompt="Look up.", description="Knows", tier="mid", tools=[order_status])
    return Fleet("desk", agents=[front, clerk], entry="front")


@pytest.fixture
async def api(open_api: OpenApi) -> AsyncIterator[Api]:
    async with open_api(fleet=desk()) as api:
        yield api


async def begin(api: Api) -> str:
    async with api.client() as client:
        return str((await client.post("/v1/conversations")).headers["location"])


def chat(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "desk", "messages": [{"role": "user", "content": content}], **more}


COST = "0.00200375"
"""Three model calls and one call of the tool."""


@pytest.mark.requirement("cost.everywhere", "cost.tools")
async def test_a_turns_cost_is_in_result_header_events_and_conversation_by_model_and_tool(api: Api) -> None:
    path = await begin(api)
    async with api.client() as client:
        answer = await client.post(
            f"{path}/messages", json={"content": "my order?"}, headers={"accept": "application/json"}
        )
        streamed = await client.post(f"{path}/messages", json={"content": "my order?"})
        whole = await client.post(CHAT, json=chat("my order?"))
        seen = (await client.get(path)).json()
    assert answer.json()["cost_usd"] == answer.headers["x-cost-usd"] == COST
    assert whole.json()["admiralty"]["cost_usd"] == whole.headers["x-cost-usd"] == COST
    events = read_events(streamed.text)
    assert json.loads(events[-1].data)["cost_usd"] == COST
    costs = [json.loads(event.data) for event in events if event.event == "cost"]
    assert [(cost["agent"], cost.get("tool")) for cost in costs] == [
        ("front", None),
        ("clerk", None),
        ("clerk", "order_status"),
        ("clerk", None),
    ]
    assert seen["usage"]["cost_usd"] == "0.0040075"
    assert (seen["usage"]["model_calls"], seen["usage"]["tool_calls"]) == (6, 2)
    lines = {(line["agent"], line["tier"], line["model"], line["tool"]): line for line in seen["usage_by"]}
    assert lines["clerk", "mid", "scripted:one", None]["model_calls"] == 4
    paid = lines["clerk", "", "", "order_status"]
    assert (paid["cost_usd"], paid["tool_calls"], paid["model_calls"]) == ("0.004", 2, 0)


@pytest.mark.requirement("cost.refusals", "cost.failed")
async def test_a_spent_budget_is_a_402_that_names_the_budget_and_what_was_spent_till_then(api: Api) -> None:
    path = await begin(api)
    async with api.client() as client:
        answer = await client.post(
            f"{path}/messages", json={"content": "broke order"}, headers={"accept": "application/json"}
        )
        events = read_events((await client.post(f"{path}/messages", json={"content": "broke order"})).text)
        seen = (await client.get(path)).json()
    assert answer.status_code == 402
    assert answer.headers["x-cost-usd"] == "0.0020025"
    last = json.loads(events[-1].data)
    assert events[-1].event == "error"
    for document in (answer.json(), last):
        assert document["type"] == "urn:admiralty:problem:budget_exceeded"
        assert {name: document[name] for name in SHORT} == SHORT
        assert (document["agent"], document["cost_usd"]) == ("clerk", "0.0020025")
    assert seen["runs"][0]["error"]["scope"] == "tenant:first"


@pytest.mark.requirement("cost.refusals")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_spent_budget_is_an_error_that_openais_client_understands(api: Api, stream: bool) -> None:
    client = openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.key, max_retries=0)
    async with client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**chat("broke", stream=stream))
    assert refused.value.status_code == 402
    assert (refused.value.type, refused.value.code) == ("insufficient_quota", "budget_exceeded")
    body: Any = refused.value.body
    assert body["details"] == {**SHORT, "agent": "front"}
    assert refused.value.response.headers["x-cost-usd"] == "0"


@pytest.mark.requirement("cost.refusals")
async def test_a_refusal_before_anything_was_said_is_a_status_though_other_agents_worked(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post(CHAT, json=chat("fail", stream=True))
        late = await client.post(CHAT, json=chat("fail late", stream=True))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert late.status_code == 200, "something had been said"
    last = json.loads(read_events(late.text)[-2].data)
    assert last["error"]["code"] == "provider_unavailable"
    assert set(last["admiralty"]) == {"conversation_id", "run_id", "cost_usd", "unpriced_calls"}


@pytest.mark.requirement("cost.metrics")
async def test_metrics_count_tools_refusals_and_budgets(api: Api) -> None:
    path = await begin(api)
    async with api.client() as client:
        for content in ("my order?", "broke", "fail"):
            await client.post(f"{path}/messages", json={"content": content})
        value = await scraped(client)
    assert value("admiralty_paid_tool_calls_total", agent="clerk", tool="order_status") == 1
    assert value("admiralty_tool_cost_usd_total", agent="clerk") == pytest.approx(0.002)
    assert value("admiralty_refused_calls_total", agent="front", kind="model", reason="budget_exceeded") == 1
    assert value("admiralty_refused_calls_total", agent="front", kind="model", reason="rate_limited") == 1


@pytest.mark.requirement("access.denied")
async def test_a_denied_tool_shows_its_reason_in_the_conversation(open_api: OpenApi, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "carrier.cedar").write_text(
        '@id("no-carrier")\n'
        '@message("The carrier is not asked at night.")\n'
        'forbid (principal, action == Action::"tool:call", resource == Tool::"order_status");\n'
    )
    async with open_api(fleet=desk(), policies=policies) as api, api.client() as client:
        path = await begin(api)
        answer = await client.post(
            f"{path}/messages", json={"content": "broke order"}, headers={"accept": "application/json"}
        )
        seen = (await client.get(path)).json()
        value = await scraped(client)
    assert answer.status_code == 402, "the turn went on: the clerk was told, and asked again"
    [call] = [made for made in seen["tools"] if made["name"] == "order_status"]
    assert (call["status"], call["error"]["code"]) == ("denied", "denied")
    [reason] = call["error"]["reasons"]
    assert "no-carrier" in reason
    assert call["result"].startswith("Error: ")
    assert "The carrier is not asked at night." in call["result"]
    assert value("admiralty_refused_calls_total", agent="clerk", kind="tool", reason="denied") == 1
    assert value("admiralty_paid_tool_calls_total") == 0
