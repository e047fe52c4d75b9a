"""What clients are told while their turn waits: for a person, for an earlier turn, for room, for time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from admiralty.core.errors import DeadlineExceeded
from admiralty.runtime.api.conversation_schema import TurnResult, WaitingTurn

from .conftest import CHAT, JSON, Api, OpenApi, check_problem, read_events
from .refunds import Clerk, Shop, refund_fleet
from .test_conversations import begun, until_idle, waiting_turn
from .test_reconnect import numbers, reading, until

PAGE = {"Accept": "application/json"}
REFUND = {"content": "refund W1"}


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def desk(open_api: OpenApi, shop: Shop) -> AsyncIterator[Api]:
    async with open_api(fleet=refund_fleet(shop), provider=Clerk()) as api:
        yield api


async def decide(api: Api, approval_id: str, verdict: str = "approve") -> None:
    admin, _ = await api.keys.create(tenant="first", admin=True)
    async with api.client(admin) as client:
        answer = await client.post(f"/v1/approvals/{approval_id}/decide", json={"verdict": verdict})
        assert answer.status_code == 200, answer.text


def chat(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "desk", "messages": [{"role": "user", "content": content}], **more}


# -- persons --------------------------------------------------------------------------------------


@pytest.mark.requirement("doors.waiting")
async def test_who_wants_json_is_told_at_once_that_a_person_must_decide(desk: Api, shop: Shop) -> None:
    async with desk.client() as client:
        path = await begun(client)
        answer = await client.post(f"{path}/messages", json=REFUND, headers=PAGE)
        waiting = WaitingTurn.model_validate(answer.json())
        view = (await client.get(path)).json()
        metrics = (await client.get("/metrics")).text
        assert shop.refunded == []
        await decide(desk, waiting.approval["approval_id"])
        rest = read_events((await client.get(f"{answer.headers['location']}/events")).text)
    assert (answer.status_code, answer.headers["x-run-id"]) == (202, waiting.run_id)
    assert (waiting.approval["tool"], waiting.approval["arguments"]) == ("refund", {"order_id": "W1"})
    assert (waiting.approval["reason"], waiting.cost_usd) == ("Money leaves the house.", "0.00000125")
    assert (view["status"], view["runs"][0]["status"]) == ("waiting", "waiting")
    assert 'admiralty_runs{status="waiting"} 1.0' in metrics
    assert "admiralty_turns_running 0.0" in metrics
    done = TurnResult.model_validate_json(rest[-1].data)
    assert (done.message, shop.refunded) == ("Done: Refunded W1.", ["W1"])
    assert numbers(rest) == list(range(1, len(rest) + 1))


@pytest.mark.requirement("doors.waiting")
async def test_a_stream_stays_open_while_a_person_is_waited_for_and_goes_on(desk: Api, shop: Shop) -> None:
    async with desk.client() as client:
        path = await begun(client)
        async with reading(client, f"{path}/messages", json=REFUND) as events:
            seen = await until(events, "approval")
            asked = json.loads(seen[-1].data)
            assert (asked["status"], shop.refunded) == ("pending", [])
            await decide(desk, asked["approval_id"], "reject")
            seen += [event async for event in events]
    assert seen[-1].event == "done"
    assert shop.refunded == []
    assert numbers(seen) == list(range(2, numbers(seen)[-1] + 1))


@pytest.mark.requirement("doors.waiting")
@pytest.mark.parametrize("stream", [False, True])
async def test_openais_clients_are_told_in_a_sentence_and_their_leaving_stops_nothing(
    desk: Api, shop: Shop, stream: bool
) -> None:
    async with AsyncOpenAI(api_key=desk.key, base_url=f"{desk.url}/v1", max_retries=0) as client:
        if stream:
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    model="desk",
                    messages=[{"role": "user", "content": "refund W1"}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            ]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            reason, added = chunks[-2].choices[0].finish_reason, chunks[-2].model_extra
            usage = chunks[-1].usage
        else:
            whole = await client.chat.completions.create(
                model="desk", messages=[{"role": "user", "content": "refund W1"}]
            )
            text, reason = whole.choices[0].message.content or "", whole.choices[0].finish_reason
            usage, added = whole.usage, whole.model_extra
    info = (added or {})["admiralty"]
    assert usage is not None
    assert usage.total_tokens == 13
    assert "A person must approve this first: refund. Money leaves the house." in text
    assert info["approval_id"] in text
    assert (reason, info["status"], info["agent"]) == ("stop", "waiting", "clerk")
    async with desk.client() as http:
        path = f"/v1/conversations/{info['conversation_id']}"
        assert (await http.get(path)).json()["status"] == "waiting"
        await decide(desk, info["approval_id"])
        seen = await until_idle(http, path)
    assert seen["messages"][-1]["content"] == "Done: Refunded W1."
    assert shop.refunded == ["W1"]


@pytest.mark.requirement("doors.waiting")
async def test_a_turn_that_waits_is_cancelled_and_its_approval_withdrawn(desk: Api, shop: Shop) -> None:
    async with desk.client() as client:
        path = await begun(client)
        waiting = (await client.post(f"{path}/messages", json=REFUND, headers=PAGE)).json()
        stopped = await client.post(f"{path}/runs/{waiting['run_id']}/cancel")
        approval = (await client.get(f"/v1/approvals/{waiting['approval']['approval_id']}")).json()
        after = await client.post(f"{path}/messages", json={"content": "hello"}, headers=PAGE)
    assert (stopped.status_code, stopped.json()["status"]) == (200, "cancelled")
    assert approval["status"] == "withdrawn"
    assert after.json()["message"] == "You said: hello"
    assert shop.refunded == []


# -- earlier turns --------------------------------------------------------------------------------


@pytest.mark.requirement("doors.multitask")
async def test_a_message_may_wait_its_turn(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with waiting_turn(api, client, path) as first:
            body = {"content": "second", "multitask_strategy": "enqueue"}
            async with reading(client, f"{path}/messages", json=body) as events:
                queued = await until(events, "run")
                assert json.loads(queued[0].data)["status"] == "queued"
                api.provider.gate.set()
                rest = [event async for event in events]
            assert read_events((await first).text)[-1].event == "done"
        seen = await until_idle(client, path)
    assert json.loads(rest[-1].data)["message"] == "You said: second"
    assert seen["messages"][0]["content"] == "wait\nfor me"
    assert [run["status"] for run in seen["runs"]] == ["done", "done"]


@pytest.mark.requirement("doors.multitask")
@pytest.mark.parametrize(("strategy", "code"), [("interrupt", "interrupted"), ("rollback", "rolled_back")])
async def test_a_message_may_take_an_earlier_ones_place_at_openais_door_too(
    api: Api, strategy: str, code: str
) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with waiting_turn(api, client, path) as first:
            second = await client.post(
                CHAT,
                json=chat("instead", multitask_strategy=strategy),
                headers={"X-Conversation-Id": path.rsplit("/", 1)[1]},
            )
            last = read_events((await first).text)[-1]
    assert second.json()["choices"][0]["message"]["content"] == "You said: instead"
    assert (last.event, json.loads(last.data)["code"]) == ("error", code)
    asked = [str(message.text) for message in api.provider.asked[-1].messages]
    assert ("wait\nfor me" in asked) == (strategy == "interrupt")


@pytest.mark.requirement("doors.multitask")
@pytest.mark.parametrize("body", [{"multitask_strategy": "race"}, {"multitask_strategy": 1}])
async def test_an_unknown_strategy_is_refused(api: Api, body: dict[str, Any]) -> None:
    async with api.client() as client:
        path = await begun(client)
        check_problem(await client.post(f"{path}/messages", json={"content": "x", **body}), 400)
        check_problem(await client.post(CHAT, json=chat("x", **body)), 400)
        assert (await client.get(path)).json()["turns"] == 0


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.requirement("doors.timeout")
async def test_a_deadline_ends_the_turn_and_was_that_of_its_model_calls(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        before = api.parts.clock.now()
        body = {"content": "wait\nfor ever", "timeout_seconds": 1}
        late = await client.post(f"{path}/messages", json=body, headers=PAGE)
        body = {"content": "hello", "timeout_seconds": 20.5}
        well = await client.post(f"{path}/messages", json=body, headers=PAGE)
        chatted = await client.post(CHAT, json=chat("wait\nhere", timeout_seconds=0.5))
    check_problem(late, 504)
    assert late.json()["code"] == DeadlineExceeded.code
    assert well.status_code == 200
    assert (chatted.status_code, chatted.json()["error"]["code"]) == (504, "deadline_exceeded")
    deadlines = [call.deadline for call in api.provider.asked]
    assert before < (deadlines[0] or 0) <= before + 5
    assert before + 20 < (deadlines[1] or 0) <= api.parts.clock.now() + 20.5


@pytest.mark.requirement("doors.timeout")
async def test_a_deadline_is_that_of_tool_calls_too(desk: Api, shop: Shop) -> None:
    shop.slow = True
    async with desk.client() as client:
        path = await begun(client)
        body = {"content": "post W1", "timeout_seconds": 1}
        late = await client.post(f"{path}/messages", json=body, headers=PAGE)
        run = (await client.get(f"{path}/runs/{late.headers['x-run-id']}")).json()
    assert late.status_code in (409, 504), "it may have been posted: then a person must look"
    assert run["status"] in ("failed", "parked")
    assert run["deadline"] is not None
    assert shop.posted == []


@pytest.mark.requirement("doors.timeout")
@pytest.mark.parametrize("seconds", [0, -1, 86_401, "5", True])
async def test_a_time_that_is_none_is_refused(api: Api, seconds: Any) -> None:
    async with api.client() as client:
        path = await begun(client)
        body = {"content": "x", "timeout_seconds": seconds}
        check_problem(await client.post(f"{path}/messages", json=body), 400)
        check_problem(await client.post(CHAT, json=chat("x", timeout_seconds=seconds)), 400)


# -- room -----------------------------------------------------------------------------------------


@pytest.mark.requirement("doors.backpressure")
async def test_a_full_process_refuses_at_both_doors_before_it_reads_a_body(open_api: OpenApi) -> None:
    async with open_api(max_live_runs=1) as api, api.client() as client:
        path, other = await begun(client), await begun(client)
        async with waiting_turn(api, client, path):
            native = await client.post(f"{other}/messages", content=b"{", headers=JSON)
            openais = await client.post(CHAT, content=b"{", headers=JSON)
            looked = await client.get(other)
        after = await client.post(f"{other}/messages", json={"content": "x"}, headers=PAGE)
    for refused in (native, openais):
        check_problem(refused, 429)
        assert refused.headers["retry-after"] == "1"
    assert looked.json()["turns"] == 0
    assert after.status_code == 200


@pytest.mark.requirement("doors.backpressure")
async def test_a_conversation_takes_so_many_messages_and_no_more(open_api: OpenApi) -> None:
    async with open_api(max_queued_runs=1) as api, api.client() as client:
        path = await begun(client)
        body = {"content": "x", "multitask_strategy": "enqueue"}
        async with (
            waiting_turn(api, client, path),
            reading(client, f"{path}/messages", json=body) as events,
        ):
            await until(events, "run")
            refused = await client.post(f"{path}/messages", json=body)
            openais = await client.post(
                CHAT,
                json=chat("x", multitask_strategy="enqueue"),
                headers={"X-Conversation-Id": path.rsplit("/", 1)[1]},
            )
    check_problem(refused, 429)
    check_problem(openais, 429)
    assert refused.headers["retry-after"] == openais.headers["retry-after"] == "2"


@pytest.mark.requirement("doors.backpressure")
async def test_openais_client_raises_its_own_class_where_there_is_no_room(open_api: OpenApi) -> None:
    async with (
        open_api(max_live_runs=1) as api,
        api.client() as client,
        waiting_turn(api, client, await begun(client)),
        AsyncOpenAI(api_key=api.key, base_url=f"{api.url}/v1", max_retries=0) as asking,
    ):
        with pytest.raises(openai.RateLimitError):
            await asking.chat.completions.create(model="desk", messages=[{"role": "user", "content": "hi"}])
