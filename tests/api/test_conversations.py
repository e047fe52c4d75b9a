"""The native door: conversations, their events, and what is kept of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from admiralty.runtime.api.conversation_schema import ConversationDetail, TurnResult

from .conftest import Api, ScriptedProvider, opened_app, read_events, served


async def begun(client: httpx.AsyncClient, **body: Any) -> str:
    """Begin a conversation; its path."""
    answer = await client.post("/v1/conversations", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


@asynccontextmanager
async def waiting_turn(api: Api, client: httpx.AsyncClient, path: str) -> AsyncIterator[asyncio.Task[Any]]:
    """A turn whose model waits at its first word, in a task."""
    task = asyncio.create_task(client.post(f"{path}/messages", json={"content": "wait\nfor me"}))
    await asyncio.wait_for(api.provider.waiting.wait(), 10)
    try:
        yield task
    finally:
        api.provider.gate.set()
        await asyncio.wait({task}, timeout=10)


async def until_idle(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """The conversation, once nothing runs in it."""
    async with asyncio.timeout(10):
        while True:
            seen: dict[str, Any] = (await client.get(path)).json()
            if seen["status"] == "idle":
                return seen


@pytest.mark.requirement("api.events")
async def test_a_turn_is_told_as_typed_events_in_order(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        answer = await client.post(f"{path}/messages", json={"content": "my order?"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read_events(answer.text)
    kinds = [event.event for event in events]
    assert kinds[:2] == ["run", "step"]
    assert kinds[-2:] == ["message", "done"]
    assert {"cost", "tool", "handoff"} <= set(kinds)
    # The conversation's first event is the message itself, which its sender knows.
    assert [int(event.id or 0) for event in events] == list(range(2, len(events) + 2))
    done = TurnResult.model_validate_json(events[-1].data)
    assert (done.message, done.agent, done.cost_usd) == ("It is shipped.", "clerk", "0.00000375")
    assert answer.headers["x-run-id"] == done.run_id
    assert path.endswith(done.conversation_id)


@pytest.mark.requirement("api.events")
async def test_tokens_are_told_as_they_come_and_silence_is_filled_with_comments(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with client.stream(
            "POST", f"{path}/messages", json={"content": "wait\nfor me"}, timeout=10
        ) as answer:
            lines = answer.aiter_lines()
            seen = [line async for line in _until(lines, 'data: {"text":"You said: wait')]
            quiet = [line async for line in _until(lines, ": keep-alive")]
            api.provider.gate.set()
            rest = [line async for line in lines]
    assert "event: token" in seen
    assert [line for line in quiet if line] == [": keep-alive"]
    assert "event: done" in rest


async def _until(lines: AsyncIterator[str], beginning: str) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if line.startswith(beginning):
            return


@pytest.mark.requirement("api.json_result")
async def test_who_accepts_json_gets_the_result_alone(api: Api) -> None:
    async with api.client(headers={"Accept": "application/json"}) as client:
        path = await begun(client)
        answer = await client.post(f"{path}/messages", json={"content": "hi", "agent": "clerk"})
        failed = await client.post(f"{path}/messages", json={"content": "fail"})
    result = TurnResult.model_validate(answer.json())
    assert (result.message, result.agent) == ("You said: hi", "clerk")
    assert answer.headers["x-cost-usd"] == result.cost_usd
    assert failed.status_code == 429
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.headers["retry-after"] == "3"
    assert failed.headers["x-run-id"] == failed.json()["run_id"]


@pytest.mark.requirement("api.events")
async def test_a_failed_turn_ends_its_stream_with_a_problem_document(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        events = read_events((await client.post(f"{path}/messages", json={"content": "fail late"})).text)
        seen = ConversationDetail.model_validate((await client.get(path)).json())
    problem = json.loads(events[-1].data)
    assert events[-1].event == "error"
    assert (problem["status"], problem["code"]) == (503, "provider_unavailable")
    assert seen.runs[0].status == "failed"
    assert seen.runs[0].error is not None
    assert seen.runs[0].error.code == "provider_unavailable"


@pytest.mark.requirement("api.conversation")
async def test_a_conversation_shows_what_was_said_and_done_and_what_it_cost(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client, user="ann", metadata={"channel": {"name": "web"}})
        for content in ("hello", "my order?"):
            await client.post(f"{path}/messages", json={"content": content})
        seen = ConversationDetail.model_validate((await client.get(path)).json())
        listed = (await client.get("/v1/conversations", params={"limit": 1})).json()["data"]
    assert [(item.role, item.content) for item in seen.messages] == [
        ("user", "hello"),
        ("assistant", "You said: hello"),
        ("user", "my order?"),
        ("assistant", "It is shipped."),
    ]
    assert (seen.user, seen.metadata) == ("ann", {"channel": {"name": "web"}})
    assert [step.agent for step in seen.steps] == ["front", "front", "clerk", "clerk"]
    assert [(call.name, call.status) for call in seen.tools] == [
        ("handoff_to_clerk", "ok"),
        ("order_status", "ok"),
    ]
    assert [(handoff.source, handoff.target) for handoff in seen.handoffs] == [("front", "clerk")]
    assert [(run.turn, run.status) for run in seen.runs] == [(1, "done"), (2, "done")]
    assert (seen.usage.model_calls, seen.usage.total_tokens, seen.usage.cost_usd) == (4, 52, "0.000005")
    assert sum(line.model_calls for line in seen.usage_by) == 4
    assert {line.agent for line in seen.usage_by} == {"front", "clerk"}
    assert [item["id"] for item in listed] == [seen.id]


@pytest.mark.requirement("api.native_disconnect")
async def test_a_turn_goes_on_when_its_client_leaves(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with waiting_turn(api, client, path) as task:
            task.cancel()
            await asyncio.wait({task})
            assert (await client.get(path)).json()["status"] == "running"
        seen = await until_idle(client, path)
    assert seen["runs"][0]["status"] == "done"
    assert seen["messages"][-1]["content"] == "You said: wait\nfor me"
    assert not api.provider.left.is_set()


@pytest.mark.requirement("api.one_turn")
async def test_a_second_message_while_one_is_answered_is_refused_and_the_first_goes_on(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with waiting_turn(api, client, path) as task:
            second = await client.post(f"{path}/messages", json={"content": "and?"})
            running = (await client.get(path)).json()
            chat = await client.post(
                "/v1/chat/completions",
                json={"model": "desk", "messages": [{"role": "user", "content": "and?"}]},
                headers={"X-Conversation-Id": running["id"]},
            )
        first = read_events((await task).text)
    assert second.status_code == 409
    assert second.json()["code"] == "conflict"
    assert chat.status_code == 409
    assert chat.json()["error"]["code"] == "conflict"
    assert running["runs"][0]["status"] == "running"
    assert running["messages"][0]["content"] == "wait\nfor me"
    assert first[-1].event == "done"


@pytest.mark.requirement("api.tenants")
async def test_tenants_do_not_see_each_others_conversations(api: Api) -> None:
    other, _ = await api.keys.create(tenant="second")
    async with api.client() as ours, api.client(other) as theirs:
        path = await begun(ours)
        await ours.post(f"{path}/messages", json={"content": "secret"})
        said = {"content": "let me in"}
        answers = [
            await theirs.get(path),
            await theirs.post(f"{path}/messages", json=said),
            await theirs.post(
                "/v1/chat/completions",
                json={"model": "desk", "messages": [{"role": "user", **said}]},
                headers={"X-Conversation-Id": path.rsplit("/", 1)[1]},
            ),
        ]
        assert [answer.status_code for answer in answers] == [404, 404, 404]
        assert "secret" not in "".join(answer.text for answer in answers)
        assert (await theirs.get("/v1/conversations")).json()["data"] == []
        assert (await ours.get(path)).json()["turns"] == 1


@pytest.mark.requirement("api.restart")
async def test_a_stopping_process_hands_its_turns_on_and_tells_its_clients_where_they_go_on(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    provider = ScriptedProvider()
    async with (
        opened_app(tmp_path, provider=provider) as (app, api),
        served(app, free_port()) as url,
        httpx.AsyncClient(base_url=url, headers={"x-api-key": api.key}, timeout=10) as client,
    ):
        streamed, whole, chat = await begun(client), await begun(client), await begun(client)
        said = {"content": "wait\nx"}
        turns = [
            asyncio.create_task(client.post(f"{streamed}/messages", json=said)),
            asyncio.create_task(
                client.post(f"{whole}/messages", json=said, headers={"Accept": "application/json"})
            ),
            asyncio.create_task(
                client.post(
                    "/v1/chat/completions",
                    json={"model": "desk", "messages": [{"role": "user", **said}]},
                    headers={"X-Conversation-Id": chat.rsplit("/", 1)[1]},
                )
            ),
        ]
        async with asyncio.timeout(10):
            while len(provider.asked) < 3:
                await provider.waiting.wait()
                await asyncio.sleep(0)
        await api.conversations.drain(0.05)
        broken, answer, completion = [await turn for turn in turns]
        refused = await client.post(f"{streamed}/messages", json={"content": "hello?"})
        seen = [(await client.get(path)).json() for path in (streamed, whole, chat)]
    last = read_events(broken.text)[-1]
    assert (last.event, json.loads(last.data)["status"]) == ("run", "queued")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["code"] == "run_handed_on"
    assert f"{whole}/runs/{answer.headers['x-run-id']}/events" in answer.json()["detail"]
    assert completion.status_code == 503
    assert completion.json()["error"]["code"] == "run_handed_on"
    # OpenAI's clients repeat what got a 503 by themselves; this message is kept.
    assert completion.headers["x-should-retry"] == "false"
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert [(one["status"], one["runs"][0]["status"]) for one in seen] == [("queued", "queued")] * 3


@pytest.mark.requirement("api.never_500")
async def test_half_a_character_from_a_model_breaks_neither_the_answer_nor_the_conversation(
    api: Api,
) -> None:
    async with api.client() as client:
        path = await begun(client)
        broken = read_events((await client.post(f"{path}/messages", json={"content": "broken"})).text)
        after = read_events((await client.post(f"{path}/messages", json={"content": "hello"})).text)
        seen = (await client.get(path)).json()
    assert (broken[-1].event, after[-1].event) == ("done", "done")
    assert json.loads(broken[-1].data)["message"] == "x\ufffd"
    assert seen["messages"][1]["content"] == "x\ufffd"
