"""Coming back to a stream of events: at another replica too, with nothing missed and nothing told twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from admiralty.runtime.api.run_schema import EventInfo, EventPage

from .conftest import Api, ScriptedProvider, Sent, check_problem, opened_app, read_events, served
from .test_conversations import begun, waiting_turn

PAGE = {"Accept": "application/json"}


@asynccontextmanager
async def reading(client: httpx.AsyncClient, path: str, **options: Any) -> AsyncIterator[AsyncIterator[Sent]]:
    """A stream of events, one after the other."""

    async def events(lines: AsyncIterator[str]) -> AsyncIterator[Sent]:
        block = ""
        async for line in lines:
            if line:
                block += f"{line}\n"
                continue
            for event in read_events(block):
                yield event
            block = ""

    method = "POST" if "json" in options else "GET"
    async with client.stream(method, path, timeout=10, **options) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield events(answer.aiter_lines())


async def until(events: AsyncIterator[Sent], kind: str) -> list[Sent]:
    """The events up to the first of a kind."""
    seen = []
    async with asyncio.timeout(10):
        async for event in events:
            seen.append(event)
            if event.event == kind:
                break
    return seen


def numbers(events: list[Sent]) -> list[int]:
    return [int(event.id) for event in events if event.id]


@pytest.mark.requirement("doors.reconnect")
async def test_who_comes_back_to_a_run_misses_nothing_and_reads_nothing_twice(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with reading(client, f"{path}/messages", json={"content": "wait\nfor me"}) as events:
            first = await until(events, "token")
        run = json.loads(first[0].data)["run_id"]
        last = {"Last-Event-ID": str(numbers(first)[-1])}
        async with reading(client, f"{path}/runs/{run}/events", headers=last) as events:
            api.provider.gate.set()
            rest = [event async for event in events]
        again = read_events((await client.get(f"{path}/runs/{run}/events")).text)
    assert rest[-1].event == "done"
    assert numbers(first) + numbers(rest) == list(range(2, 2 + len(again) - 1))
    assert numbers(again) == list(range(1, len(again) + 1)), "all of the run, its message too"
    assert {event.event for event in again} >= {"message", "run", "step", "cost", "done"}


@pytest.mark.requirement("doors.reconnect")
async def test_a_conversation_is_followed_over_its_turns_at_another_replica(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    provider, other_provider = ScriptedProvider(), ScriptedProvider()
    other_provider.gate.set()
    async with (
        opened_app(tmp_path, provider=provider) as (_, one),
        opened_app(tmp_path, provider=other_provider) as (app, two),
        served(one.app, free_port()) as url,
        served(app, free_port()) as other_url,
        httpx.AsyncClient(base_url=url, headers={"x-api-key": one.key}, timeout=10) as client,
        httpx.AsyncClient(base_url=other_url, headers={"x-api-key": two.key}, timeout=10) as elsewhere,
    ):
        path = await begun(client)
        await client.post(f"{path}/messages", json={"content": "hello"})
        async with reading(elsewhere, f"{path}/events?after=2") as events:
            seen = await until(events, "done")
            async with reading(client, f"{path}/messages", json={"content": "wait\nhere"}) as told:
                first = await until(told, "token")
                # The process that has it ends: the other one goes on with it, and tells the rest.
                await one.conversations.drain(0.05)
                first += [event async for event in told]
            seen += await until(events, "done")
        run = json.loads(first[0].data)["run_id"]
        headers = {"Last-Event-ID": str(numbers(first)[-1])}
        rest = read_events((await elsewhere.get(f"{path}/runs/{run}/events", headers=headers)).text)
        view = (await elsewhere.get(path)).json()
        page = EventPage.model_validate((await elsewhere.get(f"{path}/events", headers=PAGE)).json())
    assert numbers(seen) == list(range(3, page.data[-1].seq + 1))
    assert "error" not in {event.event for event in seen}
    assert numbers(first) + numbers(rest) == list(range(numbers(first)[0], page.data[-1].seq + 1))
    assert [run["status"] for run in view["runs"]] == ["done", "done"]
    assert view["messages"][-1]["content"] == "You said: wait\nhere"
    assert (view["status"], view["last_event"]) == ("idle", page.data[-1].seq)
    assert [item.seq for item in page.data] == list(range(1, len(page.data) + 1))


@pytest.mark.requirement("doors.reconnect")
async def test_a_stream_shows_life_while_nothing_happens_and_ends_with_its_process(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with client.stream("GET", f"{path}/events", timeout=10) as answer:
            chunks = answer.aiter_text()
            assert await anext(chunks) == ": keep-alive\n\n"
            await api.conversations.drain(0.0)
            async with asyncio.timeout(10):
                assert {chunk async for chunk in chunks} <= {": keep-alive\n\n"}


@pytest.mark.requirement("doors.events_page")
async def test_events_are_read_as_pages(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        for said in ("my order?", "hello"):
            await client.post(f"{path}/messages", json={"content": said})
        whole = EventPage.model_validate((await client.get(f"{path}/events", headers=PAGE)).json())
        found: list[EventInfo] = []
        after, more = 0, True
        while more:
            asked = {"after": after, "limit": 4}
            answer = await client.get(f"{path}/events", params=asked, headers=PAGE)
            page = EventPage.model_validate(answer.json())
            assert len(page.data) <= 4
            found, after, more = found + page.data, page.data[-1].seq, page.has_more
        run = whole.data[-1].run_id
        second = (await client.get(f"{path}/runs/{run}/events", headers=PAGE)).json()["data"]
    assert found == whole.data
    assert not whole.has_more
    assert [item.seq for item in whole.data] == list(range(1, len(whole.data) + 1))
    assert [item["seq"] for item in second] == [item.seq for item in whole.data if item.run_id == run]


@pytest.mark.requirement("doors.reconnect")
@pytest.mark.parametrize("number", ["x", "-1", "1.5", "0x1", "9" * 30, "1 2", "\u0661".encode(), "7"])
async def test_an_id_that_no_event_has_is_refused(api: Api, number: Any) -> None:
    async with api.client() as client:
        path = await begun(client)
        answer = await client.get(f"{path}/events", headers=[("Last-Event-ID", number)])
        check_problem(answer, 400)
        assert answer.json()["param"] == "Last-Event-ID"
        ahead = await client.get(f"{path}/events", params={"after": 3})
        check_problem(ahead, 400)
        assert "last event is 0" in ahead.json()["detail"]
        for wrong in ({"after": "x"}, {"after": -1}, {"limit": 0}, {"after": 10**30}):
            check_problem(await client.get(f"{path}/events", params=wrong), 400)


@pytest.mark.requirement("doors.reconnect")
async def test_many_listeners_of_one_run_all_read_it_whole(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with waiting_turn(api, client, path) as turn:
            run = (await client.get(path)).json()["runs"][0]["id"]
            listening = [
                asyncio.create_task(client.get(f"{path}/runs/{run}/events", params={"after": after}))
                for after in (0, 1, 2, 3)
            ]
            api.provider.gate.set()
            told = [numbers(read_events((await listener).text)) for listener in listening]
            all_of_it = numbers(read_events((await turn).text))
    assert told == [list(range(after + 1, all_of_it[-1] + 1)) for after in (0, 1, 2, 3)]
