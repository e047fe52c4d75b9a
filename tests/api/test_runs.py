"""Runs over HTTP: shown, stopped, retried; and what a person says of calls that nobody knows of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from admiralty.runtime.api.run_schema import EffectList, RetriedRun, RunDetail, RunList

from .conftest import Api, OpenApi, check_problem, read_events
from .refunds import Clerk, Shop, refund_fleet
from .test_conversations import begun, until_idle, waiting_turn
from .test_reconnect import numbers

PAGE = {"Accept": "application/json"}


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def clerk() -> Clerk:
    return Clerk()


@pytest.fixture
async def desk(open_api: OpenApi, shop: Shop, clerk: Clerk) -> AsyncIterator[Api]:
    async with open_api(fleet=refund_fleet(shop), provider=clerk) as api:
        yield api


async def say(client: httpx.AsyncClient, path: str, content: str) -> httpx.Response:
    return await client.post(f"{path}/messages", json={"content": content}, headers=PAGE)


async def ended(client: httpx.AsyncClient, retried: RetriedRun) -> list[Any]:
    """The events of a run from its retry to its end."""
    return read_events((await client.get(retried.events)).text)


@pytest.mark.requirement("runs.api")
async def test_a_run_that_failed_is_shown_and_retried(desk: Api, clerk: Clerk) -> None:
    async with desk.client() as client:
        path = await begun(client)
        await say(client, path, "hello")
        failed = await say(client, path, "fail")
        run_path = f"{path}/runs/{failed.headers['x-run-id']}"
        shown = RunDetail.model_validate((await client.get(run_path)).json())
        clerk.mended = True
        answer = await client.post(f"{run_path}/retry")
        retried = RetriedRun.model_validate(answer.json())
        events = await ended(client, retried)
        listed = RunList.model_validate((await client.get(f"{path}/runs")).json())
        again = await client.post(f"{run_path}/retry")
        earlier = await client.post(f"{path}/runs/{listed.data[0].id}/retry")
        view = (await client.get(path)).json()
    assert (failed.status_code, shown.status, shown.turn, shown.message) == (429, "failed", 2, "fail")
    assert shown.error is not None
    assert (shown.error.code, shown.attempt, shown.answer) == ("rate_limited", 1, None)
    assert (answer.status_code, answer.headers["location"], retried.status) == (202, run_path, "queued")
    assert [event.event for event in events[:1] + events[-2:]] == ["run", "message", "done"]
    assert numbers(events) == list(range(numbers(events)[0], view["last_event"] + 1))
    assert [(run.status, run.answer) for run in listed.data] == [
        ("done", "You said: hello"),
        ("done", "Mended."),
    ]
    assert listed.data[1].attempt == 2
    for refused in (again, earlier):
        check_problem(refused, 409)
    assert [message["content"] for message in view["messages"]] == [
        "hello",
        "You said: hello",
        "fail",
        "Mended.",
    ]


@pytest.mark.requirement("runs.api")
async def test_only_the_last_turn_can_be_retried(desk: Api) -> None:
    async with desk.client() as client:
        path = await begun(client)
        failed = await say(client, path, "fail")
        await say(client, path, "hello")
        refused = await client.post(f"{path}/runs/{failed.headers['x-run-id']}/retry")
    check_problem(refused, 409)
    assert "gone on to turn 2" in refused.json()["detail"]


@pytest.mark.requirement("runs.api")
async def test_a_running_turn_is_cancelled_and_one_that_has_ended_stays_as_it_is(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        async with waiting_turn(api, client, path) as turn:
            [run] = (await client.get(f"{path}/runs")).json()["data"]
            stopped = await client.post(f"{path}/runs/{run['id']}/cancel")
            last = read_events((await turn).text)[-1]
        await until_idle(client, path)
        again = await client.post(f"{path}/runs/{run['id']}/cancel")
    assert run["status"] == "running"
    assert (stopped.status_code, stopped.json()["status"]) == (202, "running")
    assert last.event == "error"
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert again.json()["error"]["code"] == "cancelled"


@pytest.mark.requirement("runs.effects_api")
@pytest.mark.parametrize("done", [True, False])
async def test_a_call_that_nobody_knows_of_is_resolved_by_an_admin_and_the_run_goes_on(
    desk: Api, shop: Shop, done: bool
) -> None:
    admin, _ = await desk.keys.create(tenant="first", admin=True)
    async with desk.client() as client, desk.client(admin) as boss:
        path = await begun(client)
        parked = await say(client, path, "post W1")
        run_path = f"{path}/runs/{parked.headers['x-run-id']}"
        shown = RunDetail.model_validate((await client.get(run_path)).json())
        effects = EffectList.model_validate((await client.get(f"{run_path}/effects")).json())
        [effect] = effects.data
        resolve = f"{run_path}/effects/{effect.call_id}/resolve"
        body = {"done": done, **({"result": "It left at ten."} if done else {})}
        check_problem(await client.post(resolve, json=body), 403)
        resolved = await boss.post(resolve, json=body, headers={"X-End-User": "boss"})
        again = await boss.post(resolve, json={"done": False})
        retried = RetriedRun.model_validate((await client.post(f"{run_path}/retry")).json())
        last = (await ended(client, retried))[-1]
        [after] = EffectList.model_validate((await client.get(f"{run_path}/effects")).json()).data
        view = (await client.get(path)).json()
    check_problem(parked, 409)
    assert (parked.json()["code"], shown.status) == ("effect_unknown", "parked")
    assert (effect.status, effect.tool, effect.arguments) == ("unknown", "post", {"order_id": "W1"})
    assert resolved.status_code == 200, resolved.text
    assert resolved.json()["status"] == ("finished" if done else "undone")
    assert resolved.json()["resolved_by"].endswith(" (boss)")
    assert again.status_code == (409 if done else 200), (
        "what was done stays; what was not may be looked at again"
    )
    assert last.event == "done"
    told = "It left at ten." if done else "Posted W1."
    assert view["messages"][-1]["content"] == f"Done: {told}"
    assert shop.posted == ["W1"] * (1 if done else 2)
    assert (after.status, after.result) == ("finished", told)


@pytest.mark.requirement("runs.effects_api")
async def test_what_tools_read_is_among_a_runs_calls_too(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        answer = await say(client, path, "my order?")
        listed = (await client.get(f"{path}/runs/{answer.headers['x-run-id']}/effects")).json()
    effects = EffectList.model_validate(listed)
    assert [(one.tool, one.effect, one.status, one.result) for one in effects.data] == [
        ("order_status", "read", "finished", None)
    ]


@pytest.mark.requirement("runs.effects_api")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"done": "yes"}, 400),
        ({"done": True, "result": "x" * 100_001}, 400),
        ({"done": True}, 404),
    ],
)
async def test_what_resolves_nothing_is_refused(desk: Api, body: dict[str, Any], status: int) -> None:
    admin, _ = await desk.keys.create(tenant="first", admin=True)
    async with desk.client(admin) as boss:
        path = await begun(boss)
        run = (await say(boss, path, "hello")).headers["x-run-id"]
        for call in ("call_x", "x" * 900, "%F0%9F%92%A1"):
            check_problem(await boss.post(f"{path}/runs/{run}/effects/{call}/resolve", json=body), status)
        check_problem(await boss.post(f"{path}/runs/{run}/effects/%00/resolve", json=body), 400)


@pytest.mark.requirement("runs.tenants")
async def test_another_tenants_runs_do_not_exist_whatever_is_named(desk: Api, shop: Shop) -> None:
    stranger, _ = await desk.keys.create(tenant="second", admin=True)
    async with desk.client() as ours, desk.client(stranger) as theirs:
        path, own = await begun(ours), await begun(theirs)
        run = (await say(ours, path, "post W1")).headers["x-run-id"]
        mine = (await say(theirs, own, "hello")).headers["x-run-id"]
        [effect] = (await ours.get(f"{path}/runs/{run}/effects")).json()["data"]
        secret = effect["call_id"]
        below = ("", "/events", "/effects")
        looks = [f"{path}/runs", f"{path}/events"]
        # Their own conversation with our run; ours with theirs; ours with ours.
        for talk, named in ((own, run), (path, mine), (path, run)):
            looks += [f"{talk}/runs/{named}{what}" for what in below]
        answers = [await theirs.get(look, headers=headers) for look in looks for headers in ({}, PAGE)]
        for talk, named in ((own, run), (path, mine), (path, run)):
            answers += [
                await theirs.post(f"{talk}/runs/{named}/cancel"),
                await theirs.post(f"{talk}/runs/{named}/retry"),
                await theirs.post(f"{talk}/runs/{named}/effects/{secret}/resolve", json={"done": True}),
            ]
        for answer in answers:
            check_problem(answer, 404)
            assert "W1" not in answer.text
        # Nor does a run of one of our own conversations exist in another of them.
        other = await begun(ours)
        for what in below:
            check_problem(await ours.get(f"{other}/runs/{run}{what}"), 404)
        check_problem(await ours.post(f"{other}/runs/{run}/retry"), 404)
        unchanged = (await ours.get(f"{path}/runs/{run}")).json()
        [still] = (await ours.get(f"{path}/runs/{run}/effects")).json()["data"]
    assert unchanged["status"] == "parked"
    assert still == effect


@pytest.mark.requirement("runs.api")
async def test_ids_that_are_none_are_not_found(api: Api) -> None:
    async with api.client() as client:
        path = await begun(client)
        for run in ("run_none", "%00", "x" * 300, "%ED%A0%80"):
            for what in ("", "/events", "/effects"):
                check_problem(await client.get(f"{path}/runs/{run}{what}"), 404)
            for what in ("cancel", "retry"):
                check_problem(await client.post(f"{path}/runs/{run}/{what}"), 404)
        for talk in ("conv_none", "%00"):
            check_problem(await client.get(f"/v1/conversations/{talk}/events"), 404)
            check_problem(await client.get(f"/v1/conversations/{talk}/runs"), 404)
