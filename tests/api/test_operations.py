"""What operators and newcomers look at: health, metrics, the catalog, the docs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from admiralty.runtime.api import create_app
from admiralty.runtime.api.catalog import AgentList

from .conftest import Api, OpenApi, order_status, small_fleet


async def scraped(client: httpx.AsyncClient) -> Callable[..., float]:
    """A function that returns the sum of the samples of a name with these labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    families = list(text_string_to_metric_families(answer.text))

    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return value


@pytest.mark.requirement("api.metrics")
async def test_metrics_add_up_with_what_the_conversations_report(open_api: OpenApi) -> None:
    async with open_api() as api, api.client() as client:
        paths = []
        for content in ("hello", "my order?", "fail"):
            path = (await client.post("/v1/conversations")).headers["location"]
            await client.post(f"{path}/messages", json={"content": content})
            paths.append(path)
        seen = [(await client.get(path)).json() for path in paths]
        value = await scraped(client)
    lines = [line for item in seen for line in item["usage_by"]]
    for agent in ("front", "clerk"):
        own = [line for line in lines if line["agent"] == agent]
        assert value("admiralty_model_calls_total", agent=agent) == sum(line["model_calls"] for line in own)
        tokens = sum(line["output_tokens"] for line in own)
        assert value("admiralty_tokens_total", agent=agent, kind="output") == tokens
        cost = sum(float(line["cost_usd"]) for line in own)
        assert value("admiralty_cost_usd_total", agent=agent) == pytest.approx(cost)
    assert value("admiralty_model_calls_total", model="scripted:one") == 5
    assert value("admiralty_turns_total", status="done") == 2
    assert value("admiralty_turns_total", status="failed") == 1
    assert value("admiralty_unpriced_model_calls_total") == 0
    async with open_api() as again, again.client() as client:
        value = await scraped(client)
    assert value("admiralty_turns_total", status="done") == 2, "SQL keeps them over a restart"


@pytest.mark.requirement("api.metrics")
async def test_requests_are_counted_by_route_and_not_by_path(api: Api) -> None:
    async with api.client() as client:
        for number in range(3):
            await client.get(f"/v1/conversations/conv_{number}")
            await client.get(f"/no/{number}")
        await client.request("PROPFIND", "/healthz")
        value = await scraped(client)
    name, route = "admiralty_http_requests_total", "/v1/conversations/{conversation_id}"
    assert value(name, route=route, status="404", method="GET", process="test") == 3
    assert value(name, route="unmatched", status="404") == 3
    assert value(name, method="other", status="405") == 1
    assert value("admiralty_http_request_seconds_count", route=route) == 3
    assert value("process_resident_memory_bytes", process="test") > 0


@pytest.mark.requirement("api.health")
async def test_health_is_open_and_readiness_names_what_is_missing(api: Api) -> None:
    ready = {"scheduler": True, "memory": False}

    async def readiness() -> Mapping[str, bool]:
        return ready

    async def hanging() -> Mapping[str, bool]:
        await asyncio.Event().wait()
        return {}

    async with httpx.AsyncClient(base_url=api.url) as stranger:
        assert (await stranger.get("/healthz")).json() == {"status": "ok", "version": "9.9.9"}
        assert (await stranger.get("/readyz")).json() == {"status": "ready", "parts": {"database": True}}
    for check, missing in ((readiness, "memory"), (hanging, "parts")):
        parts = dataclasses.replace(api.parts, readiness=check)
        transport = httpx.ASGITransport(app=create_app(parts))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as stranger:
            assert (await stranger.get("/healthz")).status_code == 200
            answer = await stranger.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["detail"] == f"Not ready: {missing}."
        assert answer.json()["parts"][missing] is False


@pytest.mark.requirement("api.agents")
async def test_agents_are_shown_with_tools_effects_and_versions_but_not_their_prompts(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/agents")
    shown = AgentList.model_validate(answer.json())
    front, clerk = shown.agents
    assert (shown.fleet, shown.entry) == ("desk", "front")
    assert (front.entry, front.handoffs, front.tier) == (True, ["clerk"], "small")
    assert clerk.version == small_fleet().agent("clerk").version
    [tool] = clerk.tools
    assert (tool.name, tool.effect) == ("order_status", "read")
    assert tool.parameters == order_status.schema["function"]["parameters"]
    assert clerk.prompt.digest == small_fleet().agent("clerk").instructions.digest
    assert "Look orders up" not in answer.text


@pytest.mark.requirement("api.docs")
async def test_the_openapi_document_is_whole(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.url) as stranger:
        document = (await stranger.get("/openapi.json")).json()
    for reference in _references(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    tags = {tag["name"] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert set(operation["tags"]) <= tags
            assert "422" not in operation["responses"]
            if path not in ("/healthz", "/readyz"):
                assert operation["security"] == [{"bearer": []}, {"api-key": []}]
    turn = document["paths"]["/v1/conversations/{conversation_id}/messages"]["post"]["responses"]
    assert set(turn["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(turn["4XX"]["content"]) == {"application/problem+json"}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
