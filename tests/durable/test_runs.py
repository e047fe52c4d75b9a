"""Runs: claimed once, in order, stopped, retried, limited, and ended well and once whatever fails."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.agents import Limits
from admiralty.core.errors import Conflict, InvalidRequest, NotFound, RateLimited
from admiralty.core.values import Identity
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.durable.executions import ExecutionStore
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import Run, RunRequest
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.conversations import ConversationStore
from admiralty.runtime.storage.tables import effects, runs, steps

from .processes import (
    LEASE,
    SECONDS,
    THEM,
    US,
    HandClock,
    Process,
    World,
    desk,
    heard,
    process,
    rows,
    types,
    until,
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


# -- claims -----------------------------------------------------------------------------------------


class Claims:
    """The stores of a process that is asked to do nothing else."""

    def __init__(self, database: Database, owner: str) -> None:
        self.clock = HandClock()
        self.conversations = ConversationStore(database, clock=self.clock)
        self.runs = RunStore(database, owner=owner, clock=self.clock)
        self.executions = ExecutionStore(database, owner=owner, clock=self.clock)

    async def queued(self, messages: int, conversation: str = "") -> list[str]:
        """Queue messages in a conversation, behind one that ends as soon as they are there."""
        conversation = conversation or (await self.conversations.create(US, "desk")).id
        request = RunRequest(identity=US, entry="clerk")
        found = []
        for number in range(messages + 1):
            run, _ = await self.runs.start(
                request, conversation, str(number), fleet="desk", strategy="enqueue"
            )
            found.append(run)
        if found[0].status == "running":
            await self.end(found[0])
        return [run.id for run in found[1:]]

    async def end(self, run: Run) -> None:
        """End a run of this process."""
        await self.runs.stop(run.id)
        await self.executions.hand_on(run)  # it was asked to stop: it ends


@pytest.mark.requirement("runs.claim")
async def test_of_two_processes_one_gets_a_queued_run_and_never_both(
    database: Database, database_url: str
) -> None:
    second = Database(database_url)
    here, there = Claims(database, "here"), Claims(second, "there")
    queued = [run_id for _ in range(12) for run_id in await here.queued(1)]
    taken: list[Run] = []
    for _ in range(3):
        claims = (side.executions.claim("desk", limit=5) for side in [here, there] * 4)
        taken += [run for some in await asyncio.gather(*claims) for run in some]
    assert sorted(run.id for run in taken) == sorted(queued)
    assert {(run.status, run.fence, run.attempt) for run in taken} == {("running", 1, 1)}
    await second.close()


@pytest.mark.requirement("runs.claim")
async def test_the_runs_of_a_conversation_are_claimed_one_at_a_time_and_in_order(database: Database) -> None:
    claims = Claims(database, "here")
    queued = await claims.queued(3)
    assert await claims.executions.claim("other fleet", limit=9) == []
    for run_id in queued:
        (run,) = await claims.executions.claim("desk", limit=9)
        assert run.id == run_id
        assert await claims.executions.claim("desk", limit=9) == []
        await claims.end(run)


@pytest.mark.requirement("runs.claim")
async def test_a_run_that_pauses_before_its_next_attempt_keeps_those_behind_it_waiting(
    database: Database,
) -> None:
    claims = Claims(database, "here")
    first, second = await claims.queued(2)
    (run,) = await claims.executions.claim("desk", limit=9)
    await claims.executions.broke_off(run, "No luck.", pause=60)
    assert await claims.executions.claim("desk", limit=9) == []
    claims.clock.ahead = 61
    (run,) = await claims.executions.claim("desk", limit=9)
    assert (run.id, run.fence, run.attempt) == (first, 2, 2)
    assert (await claims.runs.find(second)).status == "queued"


@pytest.mark.requirement("runs.claim", "texting.interrupt")
async def test_a_message_interrupts_a_queued_turn_that_is_claimed_at_that_very_moment(
    postgres_url: str,
) -> None:
    database, second = Database(postgres_url), Database(postgres_url)
    here, there = Claims(database, "here"), Claims(second, "there")
    (queued,) = await here.queued(1)
    talk, loop = (await here.runs.find(queued)).conversation_id, asyncio.get_running_loop()
    taking: list[Future[list[Run]]] = []

    @sa.event.listens_for(database._writing, "after_cursor_execute")
    def meanwhile(_c: Any, _k: Any, statement: str, _v: Any, _x: Any, _many: bool) -> None:
        if "UNION ALL" in statement:  # the message has seen what is queued
            claim = there.executions.claim("desk", limit=5)
            taking.append(asyncio.run_coroutine_threadsafe(claim, loop))
            wait(taking, timeout=0.5)

    request = RunRequest(identity=US, entry="clerk")
    run, _ = await here.runs.start(request, talk, "new", fleet="desk", strategy="interrupt")
    assert run.status == "running"
    assert await asyncio.wrap_future(taking[0]) == []
    assert (await here.runs.find(queued)).status == "cancelled"
    await second.close()
    await database.close()


@pytest.mark.requirement("runs.claim")
async def test_what_workers_ask_again_and_again_reads_no_runs_of_the_past(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/plans.sqlite3")
    claims = Claims(database, "here")
    (conversation,) = {run.conversation_id for run in [await claims.runs.find((await claims.queued(2))[0])]}
    asked: list[tuple[str, Any]] = []

    @sa.event.listens_for(database._engine, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        asked.append((statement, values))

    await claims.executions.stops()
    await claims.executions.reap()
    await claims.executions.claim("desk", limit=3)
    await claims.queued(1, conversation)
    sa.event.remove(database._engine, "before_cursor_execute", note)
    questions = [one for one in asked if "runs" in one[0] and not one[0].startswith("INSERT")]
    assert len(questions) >= 6

    def plan_of(statement: str, values: Any) -> Callable[[sa.Connection], list[Any]]:
        return lambda c: list(c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))

    for statement, values in questions:
        plan = await database.read(plan_of(statement, values))
        for line in (row[3] for row in plan):
            assert not line.startswith("SCAN runs") or "INDEX" in line, (statement, plan)
            assert "ix_runs_conversation_id_turn (conversation_id=?)" not in line, (statement, plan)
    await database.close()


@pytest.mark.requirement("runs.capacity")
async def test_a_process_takes_no_more_than_it_can_execute_at_once(sqlite_url: str, world: World) -> None:
    async with process(sqlite_url, world, holds=True, max_live_runs=2) as one:
        talks = [await one.create() for _ in range(20)]
        said = await asyncio.gather(*(one.say(talk, "hold a yes") for talk in talks), return_exceptions=True)
        refused = [error for error in said if isinstance(error, BaseException)]
        assert {type(error) for error in refused} == {RateLimited}
        assert all(isinstance(error, RateLimited) and error.retry_after for error in refused)
        assert len(refused) == 18
        assert [len(await one.runs(talk)) for talk in talks].count(1) == 2  # the others are not stored
        one.model.release("a")
        for live in said:
            if isinstance(live, LiveRun):
                await heard(live)
        assert types(await heard(await one.say(talks[0], "yes")))[-1] == "done"


# -- stops ------------------------------------------------------------------------------------------


async def stopped(by: Process, conversation: str, run_id: str) -> tuple[str, str]:
    """Cancel a run; return its status at the end, and the code that its last event tells."""
    await by.conversations.cancel(US, conversation, run_id)
    *_, last = await by.ends(conversation, run_id)
    run = await by.run(run_id)
    assert run.cancel is None
    return run.status, last.data.get("code", last.type)


@pytest.mark.requirement("runs.cancel")
@pytest.mark.parametrize("by", ["its own process", "another"])
async def test_a_running_run_is_cancelled_from_any_process(database_url: str, world: World, by: str) -> None:
    async with process(database_url, world, holds=True) as one, process(database_url, world) as two:
        talk = await one.create()
        live = await one.say(talk, "note a; hold b note c; done")
        await one.model.reached("b")
        ended = await stopped(one if by == "its own process" else two, talk, live.run.id)
        assert ended == ("cancelled", "cancelled")
        assert (await heard(live))[-1].data["code"] == "cancelled"
        assert world.notes == ["a"]
        assert (await heard(await two.say(talk, "hello")))[-1].data["message"] == "hello"


@pytest.mark.requirement("runs.cancel")
async def test_a_queued_run_is_cancelled_and_those_behind_it_go_on(database_url: str, world: World) -> None:
    async with process(database_url, world, holds=True) as one, process(database_url, world) as two:
        talk = await one.create()
        first = await one.say(talk, "hold a one")
        second = await two.say(talk, "two", strategy="enqueue")
        third = await two.say(talk, "three", strategy="enqueue")
        assert await stopped(two, talk, second.run.id) == ("cancelled", "cancelled")
        one.model.release("a")
        answers = [(await heard(live))[-1].data.get("message") for live in (first, second, third)]
        assert answers == ["one", None, "three"]
        assert "two" not in world.asked


@pytest.mark.requirement("runs.cancel")
async def test_a_waiting_run_is_cancelled_and_nobody_is_asked_any_more(
    database_url: str, world: World
) -> None:
    async with process(database_url, world) as one:
        talk = await one.create()
        live = await one.say(talk, "ask_person May I?; done")
        await one.becomes(live.run.id, "waiting")
        assert await stopped(one, talk, live.run.id) == ("cancelled", "cancelled")
        (asked,) = await ApprovalStore(one.database).find()
        assert asked.status == "withdrawn"


@pytest.mark.requirement("runs.cancel")
async def test_a_run_that_is_over_is_not_cancelled(sqlite_url: str, world: World) -> None:
    async with process(sqlite_url, world) as one:
        talk = await one.create()
        live = await one.say(talk, "done")
        told = await heard(live)
        live.cancel()
        assert await stopped(one, talk, live.run.id) == ("done", "done")
        assert await heard(live) == told
        with pytest.raises(NotFound):
            await one.conversations.cancel(THEM, talk, live.run.id)
        with pytest.raises(NotFound):
            await one.conversations.cancel(US, talk, "run_nowhere")


@pytest.mark.requirement("runs.cancel")
async def test_a_run_that_its_own_process_is_asked_to_stop_before_it_has_begun_ends_as_cancelled(
    sqlite_url: str, world: World
) -> None:
    async with process(sqlite_url, world) as one:
        talk = await one.create()
        live = await one.say(talk, "note a; done")
        live.cancel()
        assert (await heard(live))[-1].data["code"] == "cancelled"
        assert (await one.run(live.run.id)).status == "cancelled"
        assert world.notes == []


@pytest.mark.requirement("runs.cancel")
async def test_a_request_to_cancel_outlives_the_process_that_executes(
    database_url: str, world: World
) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, clock=clock, works=False, holds=True) as dead,
        process(database_url, world, clock=clock) as other,
    ):
        talk = await dead.create()
        live = await dead.say(talk, "hold a note b; done")
        await dead.model.reached("a")
        await dead.hang()
        assert (await other.conversations.cancel(US, talk, live.run.id)).status == "running"
        clock.ahead += 2 * LEASE
        await other.tick()
        *_, last = await other.ends(talk, live.run.id)
        assert last.data["code"] == "cancelled"
        assert (await other.run(live.run.id)).attempt == 1  # nobody executed it again
        assert world.notes == []


@pytest.mark.requirement("runs.cancel")
async def test_a_run_that_is_asked_to_stop_does_not_begin_to_wait_for_a_person(
    database_url: str, world: World
) -> None:
    # Its process, which does not work otherwise, hears of the request only when it is about to wait.
    async with process(database_url, world, works=False, holds=True) as one:
        talk = await one.create()
        live = await one.say(talk, "hold a ask_person May I?; done")
        await one.model.reached("a")
        await one.conversations.runs.stop(live.run.id)
        one.model.release("a")
        assert (await heard(live))[-1].data["code"] == "cancelled"
        assert await ApprovalStore(one.database).find() == []


@pytest.mark.requirement("runs.cancel")
async def test_a_run_that_is_asked_to_stop_is_not_handed_on(database_url: str, world: World) -> None:
    async with process(database_url, world, works=False, holds=True) as one:
        talk = await one.create()
        live = await one.say(talk, "hold a note b; done")
        await one.model.reached("a")
        await one.conversations.runs.stop(live.run.id)
        await one.conversations.drain(0.0)
        run = await one.run(live.run.id)
        assert (run.status, (run.error or {})["code"]) == ("cancelled", "cancelled")


# -- attempts ---------------------------------------------------------------------------------------


@pytest.mark.requirement("runs.attempts")
@pytest.mark.parametrize("reason", ["retryable", "interrupted"])
async def test_a_turn_that_breaks_off_is_tried_again_and_parked_with_its_reasons(
    database_url: str, world: World, reason: str
) -> None:
    async with process(database_url, world, real=True, run_attempts=3, owner="the one") as one:
        talk = await one.create()
        live = await one.say(talk, f"look b; note a; fail {reason}; done")
        *_, last = await heard(live)
        run = await one.becomes(live.run.id, "parked")
        assert (last.type, last.data["code"]) == ("error", "run_parked")
        assert last.data["cost_usd"] != "0"
        assert [(one["attempt"], one["owner"]) for one in run.attempts] == [
            (number, "the one") for number in (1, 2, 3)
        ]
        expected = "Not now." if reason == "retryable" else "The agent's process ended."
        assert [one["reason"] for one in run.attempts] == [expected] * 3
        assert (run.fence, run.attempt) == (3, 3)
        assert (world.notes, world.looked) == (["a"], ["b"])
        assert world.asked == ["look b", "note a", *[f"fail {reason}"] * 3]
        ((effect,),) = await rows(one.database, effects)
        assert (effect.tool, effect.status) == ("note", "finished")


@pytest.mark.requirement("runs.attempts")
@pytest.mark.parametrize(
    ("reason", "code"), [("provider", "provider_unavailable"), ("bug", "internal")], ids=["provider", "bug"]
)
async def test_what_the_scheduler_has_tried_already_fails_the_turn_at_once(
    sqlite_url: str, world: World, reason: str, code: str
) -> None:
    async with process(sqlite_url, world) as one:
        talk = await one.create()
        *_, last = await heard(await one.say(talk, f"fail {reason}"))
        (run,) = await one.runs(talk)
        assert (run.status, run.attempts, run.fence) == ("failed", [], 1)
        assert last.type == "error"
        assert "secret" not in str(last.data)
        assert code in (last.data["code"], "internal")


@pytest.mark.requirement("runs.attempts")
async def test_the_pause_before_another_attempt_doubles(database_url: str, world: World) -> None:
    clock = HandClock()
    async with process(database_url, world, clock=clock, run_retry_seconds=4) as one:
        talk = await one.create()
        await one.say(talk, "fail retryable")
        waited: list[float] = []

        async def broke_off() -> bool:
            ((row,),) = await rows(one.database, runs)
            if len(row.attempts) > len(waited) and row.status == "queued":
                waited.append(round(row.available_at - row.attempts[-1]["at"], 3))
                clock.ahead += 60
                one.conversations.wake()
            return len(waited) == 3

        await until(broke_off)
        assert waited == [4, 8, 16]


@pytest.mark.requirement("runs.retry")
async def test_a_parked_run_is_retried_by_hand_and_what_it_had_done_is_not_done_again(
    database_url: str, world: World
) -> None:
    async with (
        process(database_url, world, real=True, run_attempts=1) as one,
        process(database_url, world, real=True, works=False) as door,
    ):
        talk = await one.create()
        live = await one.say(talk, "look b; note a; fail retryable; done")
        await heard(live)
        before = await one.becomes(live.run.id, "parked")
        world_before = list(world.asked)
        one.model._take = _mended(one.model._take)  # type: ignore[method-assign]
        again = await door.conversations.retry(US, talk, live.run.id)
        events = await heard(again)
        assert events[-1].data["message"] == "done"
        assert (await one.run(live.run.id)).fence == before.fence + 1
        assert (world.notes, world.looked) == (["a"], ["b", "c"])
        assert world.asked[len(world_before) :] == ["fail retryable", "done"]
        (last, *_) = [event.seq for event in events if event.type == "run"]
        assert last is not None  # who retried it is told only what came since
        assert last > max(event.seq or 0 for event in live.happened)


def _mended(take: Any) -> Any:
    async def mended(step: str) -> Any:
        return await take("look c" if step.startswith("fail") else step)

    return mended


@pytest.mark.requirement("runs.retry")
async def test_a_run_is_retried_only_while_its_turn_is_the_last_and_has_ended_without_an_answer(
    database_url: str, world: World
) -> None:
    async with process(database_url, world, holds=True) as one:
        talk = await one.create()
        failed = await one.say(talk, "fail provider")
        await heard(failed)
        retry = one.conversations.retry
        with pytest.raises(NotFound):
            await retry(THEM, talk, failed.run.id)
        *_, last = await heard(await retry(US, talk, failed.run.id))
        assert last.data["code"] == "provider_unavailable"
        done = await one.say(talk, "fine")
        await heard(done)
        with pytest.raises(Conflict, match="gone on to turn 2"):
            await retry(US, talk, failed.run.id)
        with pytest.raises(Conflict, match="is done"):
            await retry(US, talk, done.run.id)
        held = await one.say(talk, "hold a fine")
        with pytest.raises(Conflict, match="is running"):
            await retry(US, talk, held.run.id)
        await one.conversations.cancel(US, talk, held.run.id)
        await heard(held)
        one.model.release("a")
        assert (await heard(await retry(US, talk, held.run.id)))[-1].data["message"] == "fine"


# -- limits -----------------------------------------------------------------------------------------


@pytest.mark.requirement("runs.limits")
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(steps=3), "; ".join(["look a"] * 9)),
        (Limits(calls=2), "; ".join(["look a"] * 9)),
        (Limits(handoffs=2), "pass other; pass third; pass other; pass third; done"),
    ],
    ids=["steps", "calls", "handoffs"],
)
async def test_a_turn_that_goes_in_circles_ends_by_rule(
    sqlite_url: str, world: World, limits: Limits, message: str
) -> None:
    async with process(sqlite_url, world, fleet=desk(limits)) as one:
        talk = await one.create()
        *_, last = await heard(await one.say(talk, message))
        assert (last.type, last.data["code"]) == ("error", "limit_exceeded")
        assert len(world.asked) == 3
        assert len(world.looked) <= 3


@pytest.mark.requirement("runs.deadline")
async def test_a_turn_ends_when_nobody_waits_for_its_answer_any_more(sqlite_url: str, world: World) -> None:
    async with process(sqlite_url, world, holds=True) as one:
        talk = await one.create()
        *_, last = await heard(await one.say(talk, "hold a done", timeout=0.05))
        assert (last.data["status"], last.data["code"]) == (504, "deadline_exceeded")
        assert "wanted sooner" in last.data["detail"]
        for wrong in (0, -1, float("nan"), float("inf")):
            with pytest.raises(InvalidRequest, match="timeout_seconds"):
                await one.say(talk, "hello", timeout=wrong)
        assert (await heard(await one.say(talk, "hello")))[-1].type == "done"


@pytest.mark.requirement("runs.deadline")
async def test_a_deadline_holds_for_the_process_that_takes_over_too(database_url: str, world: World) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, clock=clock, works=False, holds=True) as dead,
        process(database_url, world, clock=clock) as other,
    ):
        talk = await dead.create()
        live = await dead.say(talk, "hold a done", timeout=30)
        await dead.model.reached("a")
        await dead.hang()
        clock.ahead += 31
        await other.tick()
        *_, last = await other.ends(talk, live.run.id)
        assert last.data["code"] == "deadline_exceeded"
        assert "wanted sooner" in last.data["detail"]
        assert len(world.asked) == 1


# -- the database goes away -------------------------------------------------------------------------


@pytest.mark.requirement("runs.database")
@pytest.mark.parametrize("real", [True, False], ids=["in the middle", "at the end"])
async def test_a_turn_ends_well_and_once_though_the_database_is_away_for_a_while(
    database_url: str, world: World, real: bool
) -> None:
    async with process(database_url, world, real=real, holds=True) as one:
        talk = await one.create()
        live = await one.say(talk, "note a; hold b look c; hold d done")
        for hold in ("b", "d"):
            await one.model.reached(hold)
            one.database.away, refused = True, one.database.refused
            one.model.release(hold)
            if real or hold == "b":
                await until(lambda before=refused: one.database.refused > before)
            else:  # then the checkpoint cannot be written, and the turn breaks off
                await until(lambda: live.turn is not None and live.turn.done())
            one.database.away = False
        assert (await heard(live))[-1].data["message"] == "done"
        run = await one.run(live.run.id)
        assert (run.status, run.fence) == ("done", 1 if real else 2)
        stored = await one.ends(talk, live.run.id)
        assert types(stored).count("done") == 1
        assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
        assert world.notes == ["a"]


@pytest.mark.requirement("runs.database", "runs.events")
async def test_events_whose_commit_nobody_heard_of_are_told_once(database_url: str, world: World) -> None:
    async with process(database_url, world, holds=True) as one:
        talk = await one.create()
        live = await one.say(talk, "look a; hold b look c; hold d done")
        await one.model.reached("b")
        one.database.unheard = lambda: True
        one.model.release("b")
        await one.model.reached("d")
        await until(lambda: live.unsure is not None)
        one.database.unheard = lambda: False
        one.model.release("d")
        told = [event for event in await heard(live) if event.type != "token"]
        stored = await one.ends(talk, live.run.id, after=1)
        assert told == stored
        names = [(event.type, event.data.get("status"), event.data.get("name")) for event in stored]
        assert names.count(("tool", "ok", "look")) == 2
        assert [event.seq for event in stored] == list(range(2, len(stored) + 2))


# -- what is kept -----------------------------------------------------------------------------------


@pytest.mark.requirement("runs.effects")
async def test_every_tool_call_of_a_turn_that_ended_has_an_effect_row(
    database_url: str, world: World
) -> None:
    async with process(database_url, world, real=True) as one:
        talk = await one.create()
        live = await one.say(talk, "look a; note b; look c; done")
        events = await heard(live)
        (kept,) = await rows(one.database, effects)
        called = [event.data for event in events if event.type == "tool" and event.data["status"] == "ok"]
        assert {(row.call_id, row.tool, row.effect) for row in kept} == {
            (call["call_id"], call["name"], {"look": "read", "note": "write"}[call["name"]])
            for call in called
        }
        assert {(row.run_id, row.status) for row in kept} == {(live.run.id, "finished")}
        assert (await rows(one.database, steps)) == [[]]


@pytest.mark.requirement("runs.memory")
async def test_a_thousand_finished_runs_leave_nothing_behind(sqlite_url: str, world: World) -> None:
    async with process(sqlite_url, world, max_live_runs=32) as one:
        talks = [await one.create() for _ in range(20)]
        before = len(asyncio.all_tasks())
        kept: list[weakref.ref[LiveRun]] = []

        async def speak(talk: str) -> None:
            for _ in range(50):
                live = await one.say(talk, "hello")
                kept.append(weakref.ref(live))
                async with asyncio.timeout(SECONDS):
                    async for event in live.follow():
                        if event.type == "run":
                            break  # leave early
                    assert live.task is not None
                    await live.task

        await asyncio.gather(*(speak(talk) for talk in talks))
        del speak
        await until(lambda: len(asyncio.all_tasks()) <= before)
        assert one.conversations._live == {}
        assert one.conversations._starting == set()
        gc.collect()
        assert sum(ref() is not None for ref in kept) <= 1
        assert await one.conversations.turns_by_status() == {"done": 1000}


@pytest.mark.requirement("storage.tenants")
async def test_runs_are_found_by_their_tenant_only(database: Database) -> None:
    claims = Claims(database, "here")
    mine, other = await claims.queued(2), Identity(tenant="other")
    find = claims.runs.find
    assert (await find(mine[0], tenant="us")).id == mine[0]
    for reach in (
        find(mine[0], tenant="other"),
        claims.runs.stop(mine[0], tenant="other"),
        claims.runs.retry(mine[0], tenant="other"),
        claims.runs.get(other, "conv_x", mine[0]),
    ):
        with pytest.raises(NotFound):
            await reach
    assert [run.id for run in await claims.runs.recent(tenant="us", status="queued")] == mine[::-1]
    assert await claims.runs.recent(tenant="other") == []
    assert [run.id for run in await claims.runs.recent(after=mine[1], limit=1)] == [mine[0]]
