"""Many who listen: bounded, counted, and no burden while nothing happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from admiralty.runtime.storage.conversations import ConversationStore

from .conftest import Api, OpenApi, check_problem, opened_app, served
from .test_conversations import begun
from .test_reconnect import reading, until

VALUE = "/v1/state/shared/k"


@asynccontextmanager
async def listening(client: httpx.AsyncClient, path: str) -> AsyncIterator[None]:
    """A reader who has heard that it is connected."""
    async with client.stream("GET", path) as answer:
        assert answer.status_code == 200, await answer.aread()
        chunks = answer.aiter_raw()
        async with asyncio.timeout(10):
            await anext(chunks)
        yield
        del chunks  # letting go of it earlier would end the stream


async def admitted(client: httpx.AsyncClient, path: str) -> None:
    """Listen once more, as soon as there is room: a server hears a little later that a client has left."""
    async with asyncio.timeout(10):
        while True:
            async with client.stream("GET", path) as answer:
                if answer.status_code == 200:
                    return
            await asyncio.sleep(0.02)  # between two requests, as any client would


@pytest.mark.requirement("doors.listeners")
async def test_streams_that_only_follow_are_refused_beyond_their_number_until_one_ends(
    open_api: OpenApi,
) -> None:
    async with open_api(max_listeners=2) as api, api.client() as client:
        path = await begun(client)
        run = (await client.post(f"{path}/messages", json={"content": "hello"})).headers["x-run-id"]
        await client.put(VALUE, json={"value": 1})
        watched = f"{VALUE}/watch"
        async with listening(client, f"{path}/events"):
            async with listening(client, watched):
                for full in (f"{path}/events", f"{path}/runs/{run}/events", watched):
                    async with asyncio.timeout(10):
                        refused = await client.get(full)
                    check_problem(refused, 429)
                    assert refused.json()["code"] == "rate_limited"
                    assert refused.headers["retry-after"] == "5"
                pages = await client.get(f"{path}/events", headers={"Accept": "application/json"})
                missing = await client.get("/v1/conversations/conv_none/events")
            await admitted(client, watched)
            # One that ends by itself leaves its place, too: as often as one likes.
            for _ in range(3):
                await admitted(client, f"{path}/runs/{run}/events")
    assert pages.status_code == 200
    check_problem(missing, 404)


@pytest.mark.requirement("doors.listeners")
async def test_a_message_is_answered_however_many_listen_and_its_stream_counts(open_api: OpenApi) -> None:
    async with open_api(max_listeners=1) as api, api.client() as client:
        path, other = await begun(client), await begun(client)
        async with reading(client, f"{path}/messages", json={"content": "wait\nfor me"}) as events:
            await until(events, "token")
            async with asyncio.timeout(10):
                check_problem(await client.get(f"{path}/events"), 429)
                async with reading(client, f"{other}/messages", json={"content": "hello"}) as others:
                    assert (await until(others, "done"))[-1].event == "done"
            api.provider.gate.set()
            assert (await until(events, "done"))[-1].event == "done"
        await admitted(client, f"{path}/events")


@pytest.mark.requirement("doors.listeners")
async def test_idle_listeners_of_a_process_are_one_question_and_hear_of_another_process(
    free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, often = _questions(monkeypatch, of=12)
    async with (
        opened_app(tmp_path) as (app, one),
        opened_app(tmp_path) as (_, two),
        served(app, free_port()) as url,
        served(two.app, free_port()) as other_url,
        AsyncExitStack() as stack,
    ):
        client = await stack.enter_async_context(_client(url, one))
        elsewhere = await stack.enter_async_context(_client(other_url, two))
        paths = [await begun(client) for _ in range(12)]
        streams = [
            await stack.enter_async_context(reading(client, f"{path}/events"))
            for path in paths
            for _ in range(2)
        ]
        async with asyncio.timeout(10):
            await often.wait()
        said = await elsewhere.post(f"{paths[3]}/messages", json={"content": "hello"})
        heard = [await until(events, "done") for events in streams[6:8]]
    assert said.status_code == 200
    assert all(len(ids) <= len(paths) for ids in asked)
    for events in heard:
        assert json.loads(events[-1].data)["message"] == "You said: hello"


def _client(url: str, api: Api) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers={"x-api-key": api.key}, timeout=10, limits=limits)


def _questions(monkeypatch: pytest.MonkeyPatch, *, of: int) -> tuple[list[list[str]], asyncio.Event]:
    """What is asked for together, and an event for when three questions were of so many conversations."""
    asked: list[list[str]] = []
    often = asyncio.Event()
    counters = ConversationStore.counters

    async def counted(store: ConversationStore, ids: Sequence[str]) -> dict[str, int]:
        asked.append(list(ids))
        if sum(len(ids) == of for ids in asked) == 3:
            often.set()
        return await counters(store, ids)

    monkeypatch.setattr(ConversationStore, "counters", counted)
    return asked, often
