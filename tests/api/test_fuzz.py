"""Anything at all, sent to the doors: answered or refused, never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

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
    },
)
_NATIVE = st.fixed_dictionaries(
    {}, optional={"content": st.text(max_size=20) | _VALUES, "agent": _VALUES, "metadata": _VALUES}
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
