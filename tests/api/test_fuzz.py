"""Anything at all, sent to the doors: answered or refused, never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import CHAT, JSON, Api, check_problem, opened_app

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "nobody"]) | _VALUES,
        "content": st.text(max_size=20) | _VALUES,
        "tool_calls": _VALUES,
    },
)
_CHAT = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["desk", "desk/clerk", "gpt"]) | _VALUES,
        "messages": st.lists(_MESSAGE, max_size=3) | _VALUES,
        "stream": st.booleans() | _VALUES,
        "metadata": st.dictionaries(st.text(max_size=5), st.text(max_size=5)) | _VALUES,
        "user": _VALUES,
        "n": _VALUES,
        "stop": _VALUES,
        "stream_options": _VALUES,
        "response_format": _VALUES,
        "tools": _VALUES,
        "multitask_strategy": st.sampled_from(["reject", "enqueue"]) | _VALUES,
        "timeout_seconds": st.floats(0.5, 5) | _VALUES,
    },
)
_NATIVE = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text(max_size=20) | _VALUES,
        "agent": _VALUES,
        "metadata": _VALUES,
        "multitask_strategy": st.sampled_from(["interrupt", "rollback"]) | _VALUES,
        "timeout_seconds": st.floats(0.5, 5) | _VALUES,
    },
)
_NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/?#%\\\0"), min_size=1, max_size=50
)
_PLACE = st.tuples(
    st.sampled_from(["", "/events", "/effects", "/cancel", "/retry", "/effects/{name}/resolve"]), _NAME, _NAME
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Api]]:
    """An app without a server, whose failures are raised, on a loop of its own for all examples."""
    with asyncio.Runner() as runner:
        opening = opened_app(tmp_path_factory.mktemp("fuzz"))
        _, api = runner.run(opening.__aenter__())
        yield runner, api
        runner.run(opening.__aexit__(None, None, None))


def send(fuzzed: tuple[asyncio.Runner, Api], path: str, content: bytes) -> httpx.Response:
    runner, api = fuzzed

    async def post() -> httpx.Response:
        async with api.client(transport=httpx.ASGITransport(app=api.app)) as client:
            target = path
            if target == "message":
                target = (await client.post("/v1/conversations")).headers["location"] + "/messages"
            return await client.post(target, content=content, headers=JSON)

    return runner.run(post())


_STATE = st.fixed_dictionaries(
    {},
    optional={
        "value": _VALUES,
        "writes": _VALUES
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "namespace": st.sampled_from(["a", "", "a/b"]) | _VALUES,
                    "key": st.sampled_from(["k", ".."]) | _VALUES,
                    "value": _VALUES,
                    "expected": st.integers() | _VALUES,
                    "delete": st.booleans() | _VALUES,
                },
            ),
            max_size=3,
        ),
        "checks": _VALUES,
    },
)


_FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.requirement("api.never_500")
@_FEW
@given(body=_CHAT)
def test_any_json_to_the_chat_route_is_answered_or_refused(
    fuzzed: tuple[asyncio.Runner, Api], body: dict[str, Any]
) -> None:
    answer = send(fuzzed, CHAT, json.dumps(body).encode())
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, answer.text
        check_problem(answer, answer.status_code)


@pytest.mark.requirement("api.never_500")
@_FEW
@given(body=_NATIVE, path=st.sampled_from(["/v1/conversations", "message"]))
def test_any_json_to_the_native_routes_is_answered_or_refused(
    fuzzed: tuple[asyncio.Runner, Api], body: dict[str, Any], path: str
) -> None:
    answer = send(fuzzed, path, json.dumps(body).encode())
    if answer.status_code not in (200, 201):
        assert 400 <= answer.status_code < 500, answer.text
        check_problem(answer, answer.status_code)


@pytest.mark.requirement("api.never_500")
@_FEW
@given(content=st.binary(min_size=1, max_size=200), path=st.sampled_from([CHAT, "/v1/conversations"]))
def test_any_bytes_are_refused(fuzzed: tuple[asyncio.Runner, Api], content: bytes, path: str) -> None:
    check_problem(send(fuzzed, path, content), 400)


@pytest.mark.requirement("api.never_500")
@_FEW
@given(
    body=_STATE,
    namespace=st.text(max_size=5),
    key=st.text(max_size=5) | st.sampled_from(["k", "k/history", "k/watch"]),
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    match=st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6),
    transaction=st.booleans(),
)
def test_anything_to_the_state_routes_is_answered_or_refused(
    fuzzed: tuple[asyncio.Runner, Api],
    body: dict[str, Any],
    namespace: str,
    key: str,
    method: str,
    match: str | None,
    transaction: bool,
) -> None:
    runner, api = fuzzed
    path = f"/v1/state/{_quoted(namespace)}/{_quoted(key)}"
    headers = {**JSON, "Last-Event-ID": "never"}
    if match is not None:
        headers["If-Match"] = match

    async def ask() -> httpx.Response:
        async with api.client(transport=httpx.ASGITransport(app=api.app)) as client:
            if transaction:
                return await client.post("/v1/state/transactions", content=json.dumps(body), headers=headers)
            return await client.request(method, path, content=json.dumps(body), headers=headers)

    answer = runner.run(ask())
    if answer.status_code >= 300:
        assert 400 <= answer.status_code < 500, answer.text
        check_problem(answer, answer.status_code)


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="/")


@pytest.mark.requirement("api.never_500")
@_FEW
@given(place=_PLACE, method=st.sampled_from(["GET", "POST"]), body=_VALUES, last=st.text(max_size=30))
def test_any_run_that_is_asked_for_is_refused(
    fuzzed: tuple[asyncio.Runner, Api], place: tuple[str, str, str], method: str, body: Any, last: str
) -> None:
    runner, api = fuzzed
    below, run, name = place

    async def ask() -> httpx.Response:
        async with api.client(transport=httpx.ASGITransport(app=api.app)) as client:
            talk = (await client.post("/v1/conversations")).headers["location"]
            path = f"{talk}/runs/{quote(run, safe='')}{below.format(name=quote(name, safe=''))}"
            number = last.encode("latin-1", "ignore").replace(b"\n", b"")
            headers = [(b"content-type", b"application/json"), (b"last-event-id", number)]
            content = json.dumps(body) if method == "POST" else None
            return await client.request(method, path, content=content, headers=headers)

    answer = runner.run(ask())
    assert 400 <= answer.status_code < 500, answer.text
    check_problem(answer, answer.status_code)
