"""Shared state over HTTP: versions as ETags, history, transactions, watching; whose it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from admiralty.core.values import Caller, Identity

from .conftest import Api, check_problem

KEY = "/v1/state/shared/basket"


@pytest.fixture
async def client(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


async def put(client: httpx.AsyncClient, value: object, path: str = KEY, **headers: str) -> httpx.Response:
    return await client.put(path, json={"value": value}, headers=headers)


@pytest.mark.requirement("state.api")
async def test_a_value_is_written_read_and_deleted_with_its_version_as_etag(
    client: httpx.AsyncClient,
) -> None:
    check_problem(await client.get(KEY), 404)
    made = await put(client, {"apples": 1}, **{"If-None-Match": "*"})
    assert (made.status_code, made.headers["etag"], made.json()["version"]) == (201, '"1"', 1)
    shown = await client.get(KEY)
    assert (shown.json()["value"], shown.headers["etag"]) == ({"apples": 1}, '"1"')
    unchanged = await client.get(KEY, headers={"If-None-Match": 'W/"7", "1"'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", '"1"')

    changed = await put(client, {"apples": 2}, **{"If-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert (await client.get(KEY, headers={"If-None-Match": '"1"'})).json()["value"] == {"apples": 2}
    assert (await put(client, None)).json()["version"] == 3
    assert (await put(client, 4, **{"If-Match": "*"})).json()["version"] == 4
    gone = await client.delete(KEY, headers={"If-Match": '"4"'})
    assert (gone.status_code, gone.json()["version"]) == (200, 5)
    check_problem(await client.delete(KEY), 404)
    assert (await put(client, 1, **{"If-None-Match": "*"})).headers["etag"] == '"6"'


@pytest.mark.requirement("state.api")
async def test_a_write_over_another_version_is_refused_with_412_and_the_present_one(
    client: httpx.AsyncClient,
) -> None:
    for headers in ({"If-Match": '"1"'}, {"If-Match": "*"}):
        refused = await put(client, 0, **headers)
        check_problem(refused, 412)
        assert refused.json()["found"] == 0
    await put(client, 1)
    await put(client, 2)
    for refused in (
        await put(client, 3, **{"If-Match": '"1"'}),
        await put(client, 3, **{"If-None-Match": "*"}),
        await client.delete(KEY, headers={"If-Match": '"3"'}),
    ):
        check_problem(refused, 412)
        assert (refused.json()["code"], refused.json()["found"]) == ("version_conflict", 2)
    assert (await client.get(KEY)).json()["value"] == 2


@pytest.mark.requirement("state.api")
async def test_a_transaction_is_made_whole_or_refused_with_409(client: httpx.AsyncClient) -> None:
    body = {
        "writes": [
            {"namespace": "stock", "key": "teapot", "value": 4, "expected": 0},
            {"namespace": "orders", "key": "W1", "value": {"teapots": 1}},
        ],
        "checks": [{"namespace": "shop", "key": "closed", "expected": 0}],
    }
    done = await client.post("/v1/state/transactions", json=body)
    assert [(one["key"], one["version"]) for one in done.json()["data"]] == [("teapot", 1), ("W1", 1)]
    again = await client.post("/v1/state/transactions", json=body)
    check_problem(again, 409)
    assert (again.json()["key"], again.json()["expected"], again.json()["found"]) == ("teapot", 0, 1)
    assert (await client.get("/v1/state/orders/W1")).json()["version"] == 1


@pytest.mark.requirement("state.api")
async def test_values_come_in_pages_and_history_tells_who_wrote(api: Api, client: httpx.AsyncClient) -> None:
    for key in ("a:1", "a:2", "a:3", "b"):
        await put(client, key, f"/v1/state/shared/{key}")
    listed = (await client.get("/v1/state/shared?prefix=a:&limit=2")).json()
    assert ([one["key"] for one in listed["data"]], listed["has_more"]) == (["a:1", "a:2"], True)
    listed = (await client.get("/v1/state/shared?prefix=a:&after=a:2")).json()
    assert ([one["key"] for one in listed["data"]], listed["has_more"]) == (["a:3"], False)

    caller = Caller(
        identity=Identity(tenant="first"), fleet="desk", agent="clerk", agent_version="v1",
        conversation_id="conv_1", run_id="run_1",
    )  # fmt: skip
    assert api.parts.state is not None
    await api.parts.state.update(caller, "shared", "b", lambda text: text + "!")
    history = (await client.get("/v1/state/shared/b/history", headers={"X-End-User": "ann"})).json()["data"]
    assert [(one["version"], one["value"], one["writer"]["agent"]) for one in history] == [
        (2, "b!", "clerk"), (1, "b", ""),
    ]  # fmt: skip
    assert history[1]["writer"]["key_id"].startswith("key_")
    assert (await client.get("/v1/state/shared/b/history?before=2&limit=1")).json()["data"] == history[1:]


@pytest.mark.requirement("state.api")
async def test_a_reader_who_reconnects_with_the_last_id_misses_no_version(client: httpx.AsyncClient) -> None:
    await put(client, 1)

    async def read(number: int, **options: object) -> list[tuple[str, int]]:
        found = []
        async with client.stream("GET", KEY + "/watch", **options) as stream:  # type: ignore[arg-type]
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                if line.startswith("id: "):
                    name = line[4:]
                if line.startswith("data: "):
                    found.append((name, json.loads(line[6:])["value"]))
                    if len(found) == number:
                        break
        return found

    async with asyncio.timeout(20):
        assert await read(1, params={"after": 0}) == [("1", 1)]
        await put(client, 2)
        await put(client, 3)
        reading = asyncio.ensure_future(read(3, headers={"Last-Event-ID": "1"}))
        await put(client, 4)
        assert await reading == [("2", 2), ("3", 3), ("4", 4)]


@pytest.mark.requirement("state.tenants")
async def test_another_tenants_key_sees_and_changes_nothing(api: Api, client: httpx.AsyncClient) -> None:
    await put(client, "ours")
    secret, _ = await api.keys.create(tenant="second", admin=True)
    async with api.client(secret, headers={"X-End-User": "first", "X-Tenant": "first"}) as rival:
        check_problem(await rival.get(KEY), 404)
        assert (await rival.get("/v1/state/shared?tenant=first")).json()["data"] == []
        assert (await rival.get(KEY + "/history")).json()["data"] == []
        check_problem(await put(rival, 1, **{"If-Match": '"1"'}), 412)
        assert (await put(rival, "theirs")).status_code == 201
        check_problem(await rival.put(KEY, json={"value": 1, "tenant": "first"}), 400)
    assert (await client.get(KEY)).json()["value"] == "ours"


@pytest.mark.requirement("api.bad_input")
async def test_a_wrong_question_about_state_is_told_what_is_wrong(client: httpx.AsyncClient) -> None:
    await put(client, 1)
    for method, path, headers, status in (
        ("PUT", KEY, {"If-Match": "3"}, 400),
        ("PUT", KEY, {"If-Match": '"1", "2"'}, 400),
        ("PUT", KEY, {"If-Match": 'W/"1"'}, 400),
        ("PUT", KEY, {"If-Match": '"0"'}, 400),
        ("PUT", KEY, {"If-None-Match": '"1"'}, 400),
        ("PUT", KEY, {"If-None-Match": "*", "If-Match": "*"}, 400),
        ("PUT", "/v1/state/shared/a%2Fb", {}, 404),
        ("PUT", "/v1/state/shared/%00", {}, 400),
        ("PUT", "/v1/state/shared/" + "x" * 201, {}, 400),
        ("POST", KEY, {}, 405),
        ("GET", "/v1/state/shared?limit=0", {}, 400),
        ("GET", "/v1/state/shared?prefix=a/b", {}, 400),
        ("GET", KEY + "/history?before=-1", {}, 400),
        ("GET", KEY + "/watch?after=x", {}, 400),
        ("GET", KEY + "/watch", {"Last-Event-ID": "x"}, 400),
    ):
        body = {"json": {"value": 2}} if method in ("PUT", "POST") else {}
        answer = await client.request(method, path, headers=headers, **body)  # type: ignore[arg-type]
        check_problem(answer, status)
    check_problem(await client.put(KEY, json={}), 400)
    check_problem(await client.put(KEY, json={"value": "x" * 999_990}), 413)
    check_problem(await client.post("/v1/state/transactions", json={"writes": []}), 400)
    assert (await client.get(KEY)).json()["version"] == 1
