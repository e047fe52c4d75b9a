"""Bad requests: each is told what is wrong with it, and none is a 500."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Unauthenticated
from admiralty.runtime.api.auth import KEY_SECONDS, Authenticator
from admiralty.runtime.storage.keys import ApiKey

from .conftest import CHAT, JSON, Api, check_problem, opened_app, served


def said(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "desk", "messages": [{"role": "user", "content": content}], **more}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> AsyncIterator[Api]:
    """One app for the whole file: what is refused leaves nothing behind."""
    async with opened_app(tmp_path_factory.mktemp("door")) as (app, api), served(app, free_port()) as url:
        yield replace(api, url=url)


@pytest_asyncio.fixture(loop_scope="module")
async def client(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.requirement("api.keys")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer adm_wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer adm_" + "x" * 5000},
        {"Authorization": b"Bearer adm_\xff\xfe"},
        {"x-api-key": "sk-proj-1"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/conversations"), ("GET", "/metrics")],
)
async def test_nobody_comes_in_without_a_valid_key(
    api: Api, headers: dict[str, str], method: str, path: str
) -> None:
    async with httpx.AsyncClient(base_url=api.url) as stranger:
        answer = await stranger.request(method, path, headers=headers, content=b"not json")
    check_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.requirement("api.keys")
async def test_every_route_but_health_and_docs_wants_a_key(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.url) as stranger:
        document = (await stranger.get("/openapi.json")).json()
        opened = set()
        for path, operations in document["paths"].items():
            for method in operations:
                filled = path.replace("{conversation_id}", "conv_1").replace("{model}", "desk")
                if (await stranger.request(method, filled)).status_code != 401:
                    opened.add(path)
        assert (await stranger.get("/docs")).status_code == 200
    assert opened == {"/healthz", "/readyz"}


@pytest.mark.requirement("api.keys")
async def test_a_key_works_in_both_headers_from_the_moment_it_is_made(api: Api) -> None:
    secret, _ = await api.keys.create(tenant="second")
    async with httpx.AsyncClient(base_url=api.url) as client:
        for headers in ({"x-api-key": secret}, {"Authorization": f"bearer {secret}"}):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.requirement("api.keys")
async def test_a_revoked_key_is_refused_within_five_seconds() -> None:
    class Clock(SystemClock):
        time = 0.0

        def monotonic(self) -> float:
            return self.time

    looked: list[str] = []
    key = ApiKey(id="key_1", tenant="t", name="n", hint="adm_", created_at=0.0)
    valid: list[ApiKey | None] = [key]

    async def find(secret: str) -> ApiKey | None:
        looked.append(secret)
        return valid[0]

    request = httpx_request({"authorization": "Bearer adm_1"})
    clock = Clock()
    authenticator = Authenticator(find, clock)
    for _ in range(3):
        assert (await authenticator.identify(request)).tenant == "t"
    assert len(looked) == 1
    valid[0] = None
    clock.time = KEY_SECONDS
    with pytest.raises(Unauthenticated):
        await authenticator.identify(request)
    assert KEY_SECONDS <= 5


def httpx_request(headers: dict[str, str]) -> Any:
    from starlette.requests import Request

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


@pytest.mark.requirement("api.end_user")
async def test_the_end_user_is_named_by_header_or_field(api: Api, client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=said(), headers=[(b"x-end-user", "Zoë".encode())])
    await client.post(CHAT, json=said(user="bob"), headers={"X-End-User": "ann"})
    assert [call.caller.identity.user for call in api.provider.asked[-2:]] == ["Zoë", "bob"]
    check_problem(await client.post(CHAT, json=said(user="x" * 201)), 400)
    check_problem(await client.post("/v1/conversations", json={"user": "a\u0007"}), 400)


# -- bodies ---------------------------------------------------------------------------------------


@pytest.mark.requirement("api.bad_input")
@pytest.mark.parametrize("path", [CHAT, "/v1/conversations"])
@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"\xff\xfe\x00", JSON, 400),
        (b'"text"', JSON, 400),
        (b"[1, 2]", JSON, 400),
        (b'{"metadata": {"a": "\\u0000"}}', JSON, 400),
        (b'{"metadata": {"\\u0000": "a"}}', JSON, 400),
        (b'{"metadata": {"a": "\\ud800"}}', JSON, 400),
        (b'{"metadata": {"a": "\xed\xa0\x80"}}', JSON, 400),
        (b'{"metadata": {"a": NaN}}', JSON, 400),
        (b'{"metadata": {"a": 1e999}}', JSON, 400),
        (b'{"metadata": {"a": ' + b"9" * 5000 + b"}}", JSON, 400),
        (b'{"metadata": {"a": ' + b"[" * 50 + b"]" * 50 + b"}}", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        ('{"metadata": {}}'.encode("utf-16"), JSON, 400),
        (b'{"metadata": {"a": "' + b"x" * 20_000 + b'"}}', JSON, 400),
        (b'{"metadata": []}', JSON, 400),
        (b"a=1", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"\x1f\x8b\x08", {**JSON, "content-encoding": "gzip"}, 415),
        (b"\x89PNG\r\n", {"content-type": "image/png"}, 415),
        (b"x" * 1_000_001, JSON, 413),
    ],
)
async def test_a_bad_body_is_refused(
    client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    check_problem(await client.post(path, content=content, headers=headers), status)


@pytest.mark.requirement("api.bad_input")
async def test_a_chunked_body_of_no_declared_length_is_cut_off_at_the_limit(
    client: httpx.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    check_problem(await client.post(CHAT, content=chunks(), headers=JSON), 413)
    assert (await client.post(CHAT, json=said())).status_code == 200


@pytest.mark.requirement("api.bad_input")
async def test_two_megabytes_said_are_refused_and_nothing_is_kept_of_them(client: httpx.AsyncClient) -> None:
    check_problem(await client.post(CHAT, json=said("x" * 2_000_000)), 413)
    made = (await client.post("/v1/conversations")).json()["id"]
    path = f"/v1/conversations/{made}"
    check_problem(await client.post(f"{path}/messages", json={"content": "x" * 2_000_000}), 413)
    assert (await client.get(path)).json()["turns"] == 0


@pytest.mark.requirement("api.bad_input")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"content": ""}, 400),
        ({"content": " \n\t"}, 400),
        ({"content": 7}, 400),
        ({"content": None}, 400),
        ({"content": ["hello"]}, 400),
        ({"content": "hello", "message": "hello"}, 400),
        ({"content": "hello", "agent": "nobody"}, 404),
        ({"content": "hello", "agent": 1}, 400),
    ],
)
async def test_a_message_that_is_none_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    path = (await client.post("/v1/conversations")).headers["location"]
    check_problem(await client.post(f"{path}/messages", json=body), status)
    assert (await client.get(path)).json()["status"] == "idle"


@pytest.mark.requirement("api.bad_input")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/conversations/", 404),
        ("GET", "/v1/conversations/conv_none", 404),
        ("GET", "/v1/conversations/%00", 404),
        ("GET", "/v1/conversations/%ED%A0%80", 404),
        ("GET", "/v1/conversations/" + "x" * 3000, 404),
        ("GET", "/v1/conversations?limit=0", 400),
        ("GET", "/v1/conversations?limit=x", 400),
        ("DELETE", "/v1/conversations/conv_1", 405),
        ("PROPFIND", "/v1/conversations", 405),
        ("GET", CHAT, 405),
        ("POST", "/metrics", 405),
    ],
)
async def test_a_bad_address_is_refused(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    check_problem(answer, status)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.requirement("api.bad_input")
async def test_a_refused_method_is_told_which_there_are(client: httpx.AsyncClient) -> None:
    assert (await client.put("/v1/conversations")).headers["allow"] == "GET, POST"


@pytest.mark.requirement("api.bad_input")
async def test_two_different_conversation_ids_are_refused(client: httpx.AsyncClient) -> None:
    headers = {"X-Conversation-Id": "conv_1"}
    body = said(metadata={"conversation_id": "conv_2"})
    check_problem(await client.post(CHAT, json=body, headers=headers), 400)


@pytest.mark.requirement("api.never_500")
async def test_what_passes_the_door_is_stored_by_postgresql_too(postgres_url: str, tmp_path: Path) -> None:
    async with (
        opened_app(tmp_path, database_url=postgres_url) as (app, api),
        api.client(transport=httpx.ASGITransport(app=app)) as client,
    ):
        odd = "echo \u0001\u007f\ufffe\U0010ffff 💡 \u202e"
        answer = await client.post(CHAT, json=said(odd, metadata={"k": odd}))
        assert answer.status_code == 200, answer.text
        check_problem(await client.post(CHAT, json=said("a\0b")), 400)
        check_problem(await client.get("/v1/conversations/%00"), 404)
        path = f"/v1/conversations/{answer.headers['x-conversation-id']}"
        seen = (await client.get(path)).json()
        metrics = (await client.get("/metrics")).text
    assert [message["content"] for message in seen["messages"]] == [odd, odd[5:]]
    assert seen["metadata"] == {"k": odd}
    assert 'admiralty_turns_total{status="done"} 1.0' in metrics
