"""Messages that come while an earlier one is being answered, from one process and from two."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.errors import Conflict, InvalidRequest, RateLimited
from admiralty.core.values import ModelCall
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.conversations.outcome import BROKEN_OFF
from admiralty.runtime.durable.values import STRATEGIES, Run
from admiralty.tools import ToolContext, tool

from .processes import (
    LEASE,
    SECONDS,
    US,
    HandClock,
    Process,
    World,
    desk,
    heard,
    look,
    note,
    process,
    types,
    until,
)


@pytest.fixture
def world() -> World:
    return World()


def shown(call: ModelCall) -> list[tuple[str, str]]:
    """What the model was shown, but for its instructions: kind and text, or the tool that is called."""
    return [(message.type, _text(message)) for message in call.messages[1:]]


def _text(message: BaseMessage) -> str:
    if isinstance(message, AIMessage) and message.tool_calls:
        return "+".join(call["name"] for call in message.tool_calls)
    return str(message.text)


def check_calls(call: ModelCall) -> None:
    """Each tool call that the model is shown is followed by its result, and no result stands without it."""
    called = [c["id"] for m in call.messages if isinstance(m, AIMessage) for c in m.tool_calls]
    results = [m.tool_call_id for m in call.messages if isinstance(m, ToolMessage)]
    assert called == results


async def code(process: Process, run_id: str) -> str:
    return str(((await process.run(run_id)).error or {}).get("code", ""))


# -- reject and enqueue -----------------------------------------------------------------------------


@pytest.mark.requirement("texting.reject")
async def test_a_message_is_rejected_while_another_process_answers_and_leaves_no_trace(
    database_url: str, world: World
) -> None:
    async with process(database_url, world, holds=True) as one, process(database_url, world) as two:
        talk = await one.create()
        live = await one.say(talk, "hold a one")
        for by in (one, two):
            with pytest.raises(Conflict, match="multitask_strategy"):
                await by.say(talk, "two")
        one.model.release("a")
        events = [event for event in await heard(live) if event.seq]
        assert len(await one.runs(talk)) == 1
        assert [event.seq for event in events] == list(range(2, 2 + len(events)))
        assert types(await heard(await two.say(talk, "two")))[-1] == "done"


@pytest.mark.requirement("texting.enqueue")
async def test_queued_messages_are_answered_in_order_whichever_process_took_them(
    database_url: str, world: World
) -> None:
    async with process(database_url, world, holds=True) as one, process(database_url, world) as two:
        talk = await one.create()
        first = await one.say(talk, "hold a zero")
        queued = [await (one, two)[n % 2].say(talk, str(n), strategy="enqueue") for n in range(1, 7)]
        assert {live.run.status for live in queued} == {"queued"}
        one.model.release("a")
        told = await asyncio.gather(*(heard(live) for live in [first, *queued]))
        assert [events[-1].data["message"] for events in told] == ["zero", *"123456"]
        assert world.asked == ["hold a zero", *"123456"]
        found = await one.runs(talk)
        assert [run.turn for run in found] == list(range(1, 8))
        ends = [run.finished_at or 0.0 for run in found]
        assert ends == sorted(ends)


@pytest.mark.requirement("texting.enqueue")
async def test_more_messages_than_may_wait_are_refused_with_when_to_come_again(
    database_url: str, world: World
) -> None:
    async with (
        process(database_url, world, holds=True, max_queued_runs=2) as one,
        process(database_url, world, max_queued_runs=2) as two,
    ):
        talk = await one.create()
        first = await one.say(talk, "hold a zero")
        said = await asyncio.gather(
            *((one, two)[n % 2].say(talk, str(n), strategy="enqueue") for n in range(6)),
            return_exceptions=True,
        )
        refused = [error for error in said if isinstance(error, RateLimited)]
        assert len(refused) == 4
        assert all(error.retry_after for error in refused)
        assert len(await one.runs(talk)) == 3
        one.model.release("a")
        for live in [first, *said]:
            if not isinstance(live, BaseException):
                assert types(await heard(live))[-1] == "done"


@pytest.mark.requirement("texting.strategy")
async def test_the_fleet_says_what_becomes_of_a_message_unless_the_request_does(
    sqlite_url: str, world: World
) -> None:
    fleet = desk(multitask_strategy="enqueue")
    async with process(sqlite_url, world, holds=True, fleet=fleet) as one:
        talk = await one.create()
        first = await one.say(talk, "hold a one")
        second = await one.say(talk, "two")
        assert second.run.status == "queued"
        with pytest.raises(Conflict):
            await one.say(talk, "three", strategy="reject")
        with pytest.raises(InvalidRequest, match="use one of reject, enqueue, interrupt, rollback"):
            await one.say(talk, "three", strategy="shout")
        one.model.release("a")
        assert [(await heard(live))[-1].data["message"] for live in (first, second)] == ["one", "two"]


# -- interrupt --------------------------------------------------------------------------------------


@pytest.mark.requirement("texting.interrupt")
@pytest.mark.parametrize("by", ["its own process", "another"])
async def test_an_interrupted_turn_is_kept_in_mind_with_what_it_had_done(
    database_url: str, world: World, by: str
) -> None:
    async with (
        process(database_url, world, real=True, holds=True) as one,
        process(database_url, world, real=True) as two,
    ):
        talk = await one.create()
        assert types(await heard(await one.say(talk, "hello")))[-1] == "done"
        first = await one.say(talk, "note a; look b; hold c note d; done")
        await one.model.reached("c")
        second = await (one if by == "its own process" else two).say(talk, "more", strategy="interrupt")
        assert (await heard(first))[-1].data["code"] == "interrupted"
        assert (await heard(second))[-1].data["message"] == "more"
        assert world.notes == ["a"]
        (answered,) = [call for m in (one, two) for call in m.model.seen if shown(call)[-1][1] == "more"]
        assert shown(answered) == [
            ("human", "hello"),
            ("ai", "hello"),
            ("human", "note a; look b; hold c note d; done"),
            ("ai", "note"),
            ("tool", "noted a"),
            ("ai", "look"),
            ("tool", "seen b"),
            ("ai", BROKEN_OFF),
            ("human", "more"),
        ]
        check_calls(answered)
        third = await two.say(talk, "and then")
        assert types(await heard(third))[-1] == "done"
        again = [call for call in two.model.seen if shown(call)[-1][1] == "and then"][-1]
        assert [text for _, text in shown(again)].count(BROKEN_OFF) == 1, "it is told once"
        check_calls(again)


@pytest.mark.requirement("texting.interrupt")
@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_what_a_graph_had_done_is_told_in_the_order_in_which_it_was(
    sqlite_url: str, world: World, durability: str
) -> None:
    def prebuilt(context: Any) -> Any:
        return create_agent(context.model, context.tools)

    clerk = Agent("clerk", prompt=inline_prompt("Clerk."), tools=[look, note], graph=prebuilt)
    fleet = Fleet("desk", agents=[clerk], entry="clerk")
    async with process(
        sqlite_url, world, real=True, holds=True, fleet=fleet, durability=durability
    ) as one:  # fmt: skip
        talk = await one.create()
        words = [f"{verb} {n}" for n, verb in enumerate(["look", "note"] * 4)]
        first = await one.say(talk, "; ".join([*words, "hold c done"]))
        await one.model.reached("c")
        await heard(await one.say(talk, "more", strategy="interrupt"))
        assert (await one.run(first.run.id)).status == "cancelled"
        results = [text for kind, text in shown(one.model.seen[-1]) if kind == "tool"]
        assert results == [word.replace("look", "seen").replace("note", "noted") for word in words]
        check_calls(one.model.seen[-1])


@pytest.mark.requirement("texting.interrupt")
async def test_what_an_agent_before_had_said_is_kept_in_mind_too(database_url: str, world: World) -> None:
    async with process(database_url, world, real=True, holds=True) as one:
        talk = await one.create()
        first = await one.say(talk, "note a; pass other; note b; hold c done")
        await one.model.reached("c")
        second = await one.say(talk, "more", strategy="interrupt")
        assert (await heard(first))[-1].data["code"] == "interrupted"
        await heard(second)
        answered = one.model.seen[-1]
        assert [text for _, text in shown(answered)] == [
            "note a; pass other; note b; hold c done", "note", "noted a", "handoff_to_other",
            "other goes on.", "note", "noted b", BROKEN_OFF, "more",
        ]  # fmt: skip
        check_calls(answered)


@pytest.mark.requirement("texting.interrupt")
async def test_a_message_does_not_stop_itself_where_its_turn_comes_before_its_sender_hears(
    sqlite_url: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(sqlite_url, world, holds=True) as one:
        talk = await one.create()
        first = await one.say(talk, "hold a one")
        await one.model.reached("a")
        start = one.conversations.runs.start

        async def slow(*arguments: Any, **options: Any) -> Any:
            run, began = await start(*arguments, **options)
            one.model.release("a")
            await until(lambda: run.id in one.conversations._live)
            return run, began

        monkeypatch.setattr(one.conversations.runs, "start", slow)
        second = await one.say(talk, "hold b two", strategy="interrupt")
        one.model.release("b")
        assert (await heard(second))[-1].data["message"] == "two"
        assert types(await heard(first))[-1] in ("done", "error")


@pytest.mark.requirement("texting.interrupt")
async def test_messages_that_never_had_their_turn_are_kept_in_mind(database_url: str, world: World) -> None:
    async with process(database_url, world, holds=True) as one, process(database_url, world) as two:
        talk = await one.create()
        first = await one.say(talk, "hold a one")
        await one.model.reached("a")
        others = [await (one, two)[n % 2].say(talk, f"say {n}", strategy="interrupt") for n in range(4)]
        told = [await heard(live) for live in [first, *others]]
        assert types(told[-1])[-1] == "done"
        assert all(
            events[-1].data["code"] == "interrupted" for events in told[:-1] if types(events)[-1] == "error"
        )
        last = [call for m in (one, two) for call in m.model.seen if shown(call)[-1][1] == "say 3"][-1]
        assert [text for kind, text in shown(last) if kind == "human"] == [
            "hold a one", "say 0", "say 1", "say 2", "say 3",
        ]  # fmt: skip


@pytest.mark.requirement("texting.interrupt")
async def test_a_message_takes_the_place_of_a_turn_that_waits_for_a_person(
    database_url: str, world: World
) -> None:
    async with process(database_url, world, real=True) as one, process(database_url, world, real=True) as two:
        talk = await one.create()
        first = await one.say(talk, "note a; ask_person May I?; done")
        await one.becomes(first.run.id, "waiting")
        second = await two.say(talk, "more", strategy="interrupt")
        assert second.run.status == "running"
        assert (await heard(second))[-1].data["message"] == "more"
        assert await code(one, first.run.id) == "interrupted"
        assert (await heard(first))[-1].data["cost_usd"] == "0.002"
        (asked,) = await ApprovalStore(one.database).find()
        assert asked.status == "withdrawn"
        assert ("tool", "noted a") in shown(two.model.seen[-1])
        check_calls(two.model.seen[-1])


# -- rollback ---------------------------------------------------------------------------------------


@pytest.mark.requirement("texting.rollback")
@pytest.mark.parametrize("by", ["its own process", "another"])
async def test_a_turn_that_changed_nothing_is_forgotten(database_url: str, world: World, by: str) -> None:
    async with (
        process(database_url, world, real=True, holds=True) as one,
        process(database_url, world, real=True) as two,
    ):
        talk = await one.create()
        await heard(await one.say(talk, "hello"))
        first = await one.say(talk, "look a; pass other; hold b done")
        await one.model.reached("b")
        second = await (one if by == "its own process" else two).say(talk, "more", strategy="rollback")
        assert (await heard(first))[-1].data["code"] == "rolled_back"
        await heard(second)
        (answered,) = [call for m in (one, two) for call in m.model.seen if shown(call)[-1][1] == "more"]
        assert [text for _, text in shown(answered)] == ["hello", "hello", "more"]
        assert len(await one.runs(talk)) == 3, "its record is kept"
        await heard(await two.say(talk, "and then"))
        again = [text for _, text in shown(two.model.seen[-1])]
        assert again == ["hello", "hello", "more", "more", "and then"]


@pytest.mark.requirement("texting.rollback")
@pytest.mark.parametrize("state", ["running here", "running elsewhere", "waiting", "its process dead"])
async def test_a_turn_that_changed_something_is_not_forgotten(
    database_url: str, world: World, state: str
) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, real=True, holds=True, clock=clock, works=state != "its process dead")
        as one,
        process(database_url, world, real=True, clock=clock) as two,
    ):  # fmt: skip
        talk = await one.create()
        then = "ask_person May I?" if state == "waiting" else "hold b look c"
        first = await one.say(talk, f"note a; {then}; done")
        if state == "waiting":
            await one.becomes(first.run.id, "waiting")
        else:
            await one.model.reached("b")
        if state == "its process dead":
            await one.hang()
        second = await (one if state == "running here" else two).say(talk, "more", strategy="rollback")
        if state == "its process dead":
            clock.ahead += 2 * LEASE
            await two.tick()
        await two.ends(talk, second.run.id)
        assert await code(two, first.run.id) == "interrupted"
        (answered,) = [call for m in (one, two) for call in m.model.seen if shown(call)[-1][1] == "more"]
        assert ("tool", "noted a") in shown(answered)
        check_calls(answered)


@pytest.mark.requirement("texting.rollback")
async def test_a_turn_that_is_forgotten_leaves_the_session_as_it_was(sqlite_url: str, world: World) -> None:
    @tool(effect="read", name="look")
    def peek(what: str, ctx: ToolContext) -> str:
        """Look, and remember it in the session."""
        before = list(ctx.session.get("seen", []))
        ctx.session["seen"] = [*before, what]
        return f"before: {','.join(before)}"

    other = Agent("other", prompt=inline_prompt("Other."), description="other", tools=[peek])
    clerk = Agent("clerk", prompt=inline_prompt("Clerk."), tools=[peek], handoffs=["other"])
    fleet = Fleet("desk", agents=[clerk, other], entry="clerk")
    async with process(sqlite_url, world, holds=True, fleet=fleet) as one:
        talk = await one.create()
        await heard(await one.say(talk, "look a; done"))
        for held in "xy":
            live = await one.say(talk, f"look {held}; pass other; hold {held} done", strategy="rollback")
            await one.model.reached(held)
            assert ("tool", "before: a") in shown(one.model.seen[-1])
        last = await one.say(talk, "look b; done", strategy="rollback")
        assert (await heard(live))[-1].data["code"] == "rolled_back"
        assert (await heard(last))[-1].data["message"] == "done"
        assert shown(one.model.seen[-1])[-1] == ("tool", "before: a")


# -- all at once ------------------------------------------------------------------------------------


async def storm(processes: list[Process], talk: str, seed: int, messages: int) -> list[str]:
    """Send messages of all strategies, from all processes at once; return the runs that were accepted."""
    dice = random.Random(seed)
    accepted = []

    async def send(number: int) -> None:
        by, strategy = dice.choice(processes), dice.choice(STRATEGIES)
        program = dice.choice(["hello", "look a; hello", "look a; look b; pass other; hello"])
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(0)
        try:
            live = await by.say(talk, f"{program} {number}", strategy=strategy)
        except (Conflict, RateLimited):
            return
        accepted.append(live.run.id)
        if dice.random() < 0.1:
            live.cancel()
        if dice.random() < 0.3:
            await heard(live)

    async def sender(numbers: range) -> None:
        for number in numbers:
            await send(number)

    share = messages // 6
    await asyncio.gather(*(sender(range(n * share, (n + 1) * share)) for n in range(6)))
    return accepted


async def never_two_at_once(process: Process, talk: str, done: asyncio.Event) -> int:
    """Look again and again how many runs of a conversation are alive; return how often one was."""
    seen = 0
    while not done.is_set():
        alive = [run for run in await process.runs(talk) if run.status in ("running", "waiting")]
        assert len(alive) <= 1, alive
        seen += len(alive)
    return seen


def check_ended(found: list[Run], accepted: list[str]) -> None:
    assert sorted(run.id for run in found) == sorted(accepted)
    assert [run.turn for run in found] == list(range(1, len(found) + 1))
    assert {run.status for run in found} <= {"done", "cancelled"}
    assert all(run.cancel is None and run.finished_at for run in found)
    executed = [run for run in found if run.fence]
    ends = [run.finished_at or 0.0 for run in executed]
    assert ends == sorted(ends), "turns that were executed end in their order"
    assert executed[-1] is found[-1] or found[-1].status == "cancelled"


@pytest.mark.requirement("texting.storm")
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_of_many_messages_from_two_processes_each_ends_once_and_in_order(
    database_url: str, world: World, seed: int
) -> None:
    async with process(database_url, world) as one, process(database_url, world) as two:
        talk, done = await one.create(), asyncio.Event()
        watching = asyncio.create_task(never_two_at_once(two, talk, done))
        async with asyncio.timeout(3 * SECONDS):
            accepted = await storm([one, two], talk, seed, 90)
            for run_id in accepted:
                await two.becomes(run_id, "done", "failed", "cancelled", "parked")
        done.set()
        assert await watching > 0
        view = await one.conversations.view(US, talk)
        check_ended(list(view.runs), accepted)
        assert len({run.status for run in view.runs}) == 2
        assert [stored.seq for stored in view.events] == list(range(1, len(view.events) + 1))
        told: dict[str, list[str]] = {}
        for stored in view.events:
            told.setdefault(stored.run_id, []).append(stored.event.type)
        for run in view.runs:
            ends = Counter(told[run.id])
            assert told[run.id][:2] == ["message", "run"]
            assert told[run.id][-1] == ("done" if run.status == "done" else "error")
            assert ends["done"] + ends["error"] == 1
        last = await heard(await two.say(talk, "goodbye", strategy="enqueue"))
        assert last[-1].data["message"] == "goodbye"
        check_calls(next(m for m in (one, two) if m.model.seen and "goodbye" in _last(m)).model.seen[-1])
        await until(lambda: one.conversations._live == two.conversations._live == {})


def _last(process: Process) -> str:
    return shown(process.model.seen[-1])[-1][1]


@pytest.mark.requirement("texting.storm")
async def test_messages_that_interrupt_at_once_are_all_taken(database_url: str, world: World) -> None:
    async with (
        process(database_url, world, holds=True) as one,
        process(database_url, world, holds=True) as two,
    ):
        talk = await one.create()
        first = await one.say(talk, "hold a one")
        await one.model.reached("a")
        said: list[Any] = await asyncio.gather(
            *((one, two)[n % 2].say(talk, f"say {n}", strategy="interrupt") for n in range(10)),
            return_exceptions=True,
        )
        assert not [error for error in said if isinstance(error, BaseException)]
        assert (await heard(first))[-1].data["code"] == "interrupted"
        ended = [(await heard(live))[-1] for live in sorted(said, key=lambda live: live.run.turn)]
        assert types(ended)[-1] == "done"
        found = await one.runs(talk)
        assert [run.status for run in found].count("cancelled") >= 9


@pytest.mark.requirement("texting.storm")
async def test_many_conversations_of_two_processes_stand_in_nobodys_way(
    database_url: str, world: World
) -> None:
    async with process(database_url, world) as one, process(database_url, world) as two:
        talks = [await one.create() for _ in range(10)]
        dice = random.Random(5)
        lives = []

        async def sender(number: int) -> None:
            for place in range(8):
                by, other = dice.sample([one, two], 2)
                talk = dice.choice(talks)
                strategy = dice.choice(STRATEGIES[1:])
                live = await by.say(talk, f"look a; look b; {number}.{place}", strategy=strategy)
                lives.append(live)
                if dice.random() < 0.3:
                    await other.conversations.cancel(US, talk, live.run.id)

        async with asyncio.timeout(3 * SECONDS):
            await asyncio.gather(*(sender(number) for number in range(10)))
            told = await asyncio.gather(*(heard(live) for live in lives))
        assert len(lives) == 80
        assert {events[-1].type for events in told} == {"done", "error"}
        for talk in talks:
            view = await one.conversations.view(US, talk)
            assert [stored.seq for stored in view.events] == list(range(1, len(view.events) + 1))
