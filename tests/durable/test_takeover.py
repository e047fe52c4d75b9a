"""A process that dies, hangs, or ends: another finishes its turns, and it writes nothing any more."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.errors import RunLost
from admiralty.core.values import ApprovalRequest, Event, JournalEntry
from admiralty.runtime.durable.executions import Ending
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver
from admiralty.runtime.storage.tables import metadata

from .processes import LEASE, SECONDS, US, HandClock, Process, World, heard, process, rows, types

TABLES = [metadata.tables[name] for name in sorted(metadata.tables)]


@pytest.fixture
def world() -> World:
    return World()


async def everything(database: Database) -> list[Any]:
    """Return what stands in the database, but for when somebody was last heard of."""
    return await rows(database, *TABLES)


def numbered(events: list[Event]) -> list[int]:
    numbers = [event.seq for event in events if event.seq is not None]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return numbers


@pytest.mark.requirement("runs.takeover")
@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_what_a_process_that_died_left_is_finished_by_another_and_nothing_is_done_twice(
    database_url: str, world: World, durability: Any
) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, real=True, clock=clock, works=False, holds=True, durability=durability)
        as dead,
        process(database_url, world, real=True, clock=clock, durability=durability) as other,
    ):  # fmt: skip
        talk = await dead.create()
        live = await dead.say(talk, "look a; note b; hold c look d; note e; done")
        await dead.model.reached("c")
        await dead.hang()
        clock.ahead += 2 * LEASE
        await other.tick()
        events = await other.ends(talk, live.run.id)
        assert events[-1].data["message"] == "done"
        run = await other.run(live.run.id)
        assert (run.status, run.fence, run.attempt) == ("done", 2, 2)
        (failure,) = run.attempts
        assert failure["owner"] == dead.owner
        assert "not heard of for 15 s" in failure["reason"]
        assert world.notes == ["b", "e"]
        assert world.looked == ["a", "d"]
        assert world.asked == ["look a", "note b", "hold c look d", "hold c look d", "note e", "done"]
        numbered(events)
        assert [event.data.get("status") for event in events if event.type == "run"] == [
            "running", "queued", "running",
        ]  # fmt: skip
        (spent,) = [event.data["cost_usd"] for event in events if event.type == "done"]
        usage = await other.conversations._reports.of_run(talk, live.run.id)
        assert spent == usage["cost_usd"] == "0.005"


@pytest.mark.requirement("runs.fence")
async def test_a_process_that_lost_its_run_writes_nothing_any_more(database_url: str, world: World) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, clock=clock, works=False, holds=True) as slow,
        process(database_url, world, clock=clock) as other,
    ):
        talk = await slow.create()
        live = await slow.say(talk, "look a; hold b note c; done")
        await slow.model.reached("b")
        clock.ahead += 2 * LEASE
        await other.tick()
        answered = await other.ends(talk, live.run.id)
        before = await everything(other.database)
        slow.model.release("b")
        told = await heard(live)
        assert live.task is not None
        await live.task
        assert [event for event in told if event.type != "token"] == answered[1:]
        assert await everything(other.database) == before
        assert types(answered).count("done") == 1


@pytest.mark.requirement("runs.fence")
@pytest.mark.parametrize("by", ["another", "nobody", "itself"])
async def test_each_write_of_an_execution_that_is_over_is_refused_and_changes_nothing(
    database_url: str, world: World, by: str
) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, clock=clock, works=False, holds=True) as slow,
        process(database_url, world, clock=clock, works=False, holds=True) as other,
    ):
        talk = await slow.create()
        live = await slow.say(talk, "hold b done")
        await slow.model.reached("b")
        late, store = live.run, slow.conversations._executions
        clock.ahead += 2 * LEASE
        assert await other.conversations._executions.reap() == 1
        if by != "nobody":
            winner = other if by == "another" else slow
            (again,) = await winner.conversations._executions.claim("desk", limit=9)
            assert (again.id, again.fence) == (late.id, 2)
        before = await everything(slow.database)
        entry = JournalEntry(key="0.1", session={})
        request = ApprovalRequest(
            call_id="c", digest="d", kind="tool", agent="clerk", agent_version="v", tool="t",
            arguments={}, reason="why",
        )  # fmt: skip
        happened = [Event(type="step", data={})]
        saver = SqlCheckpointSaver(slow.database)
        config: Any = {
            "configurable": {"thread_id": talk, "checkpoint_ns": "", "run_id": late.id, "fence": 1}
        }
        writes = {
            "events": lambda: store.append(late, happened),
            "events again": lambda: store.append(late, happened, unsure=0),
            "end": lambda: store.finish(late, Ending(status="done", answer="x", happened=happened)),
            "pause": lambda: store.pause(late, request, user=None, journal=[entry], happened=happened),
            "break": lambda: store.broke_off(late, "why", pause=0),
            "hand on": lambda: store.hand_on(late),
            "checkpoint": lambda: saver.aput_writes(
                {"configurable": {**config["configurable"], "checkpoint_id": "1"}}, [("c", 1)], "t"
            ),
        }
        for name, write in writes.items():
            with pytest.raises(RunLost):
                await write()  # type: ignore[no-untyped-call]
            assert await everything(slow.database) == before, name
        renewed = await store.renew({late.id: 1})
        assert renewed == {late.id}, "it hears that the run is not its own"
        slow.model.release("b")
        assert live.task is not None
        await asyncio.wait_for(live.task, SECONDS)
        kept = await slow.run(late.id)
        assert (kept.status, kept.fence) == (("queued", 1) if by == "nobody" else ("running", 2))


@pytest.mark.requirement("runs.takeover")
async def test_a_process_that_was_held_up_and_comes_back_in_time_keeps_its_run(
    database_url: str, world: World
) -> None:
    clock = HandClock()
    async with process(database_url, world, clock=clock, holds=True) as one:
        talk = await one.create()
        live = await one.say(talk, "hold a done")
        await one.model.reached("a")
        clock.ahead += 60  # as after a sleep of the whole machine: it renews before it looks for late ones
        await one.tick()
        one.model.release("a")
        assert (await heard(live))[-1].type == "done"
        assert (await one.run(live.run.id)).fence == 1


@pytest.mark.requirement("runs.takeover")
async def test_a_process_that_takes_its_own_run_again_ends_the_older_execution(
    database_url: str, world: World
) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, clock=clock, works=False, holds=True) as one,
        process(database_url, world, clock=clock, works=False) as other,
    ):
        talk = await one.create()
        first = await one.say(talk, "hold a done")
        await one.model.reached("a")
        clock.ahead += 2 * LEASE
        assert await other.conversations._executions.reap() == 1
        await one.conversations._worker._look()
        second = one.conversations._live[first.run.id]
        assert second is not first
        assert first.task is not None
        await asyncio.wait_for(first.task, SECONDS)
        assert one.conversations._live == {first.run.id: second}
        one.model.release("a")
        assert (await heard(first))[-1].data["message"] == "done"
        assert (await one.run(first.run.id)).fence == 2


@pytest.mark.requirement("runs.takeover")
async def test_a_run_that_waits_for_a_person_needs_no_process(database_url: str, world: World) -> None:
    from admiralty.runtime.approvals import ApprovalStore

    clock = HandClock()
    async with process(database_url, world, real=True, clock=clock, works=False) as dead:
        talk = await dead.create()
        live = await dead.say(talk, "note a; ask_person May I?; ask_person Really?; done")
        await dead.becomes(live.run.id, "waiting")
        await dead.hang()
        clock.ahead += 3600
        for number in (1, 2):
            async with process(database_url, world, real=True, clock=clock) as other:
                await other.becomes(live.run.id, "waiting")
                (asked,) = await ApprovalStore(other.database, clock).find(status="pending")
                await ApprovalStore(other.database, clock).decide(asked.id, "approve", reason=f"yes {number}")
                other.conversations.wake()
                await other.becomes(live.run.id, "waiting" if number == 1 else "done")
                events = await other.ends(talk, live.run.id) if number == 2 else []
    assert events[-1].data["message"] == "done"
    assert world.notes == ["a"]
    assert world.asked == ["note a", "ask_person May I?", "ask_person Really?", "done"]
    numbered(events)


# -- drain ------------------------------------------------------------------------------------------


async def drained(one: Process, message: str) -> tuple[str, str]:
    """Say something, and drain the process while its model holds ``a``; return conversation and run."""
    talk = await one.create()
    live = await one.say(talk, message)
    await one.model.reached("a")
    await asyncio.wait_for(one.conversations.drain(0.0), SECONDS)
    run = await one.run(live.run.id)
    assert run.attempts == []
    return talk, live.run.id


@pytest.mark.requirement("conversations.drain")
@pytest.mark.parametrize("by", ["another", "the same after a restart"])
async def test_what_a_drained_process_cannot_finish_is_finished(
    database_url: str, world: World, by: str
) -> None:
    async with process(database_url, world, real=True, holds=True, owner="one") as one:
        if by == "another":
            async with process(database_url, world, real=True) as two:
                talk, run_id = await drained(one, "note x; hold a note y; done")
                events = await two.ends(talk, run_id)
        else:
            talk, run_id = await drained(one, "note x; hold a note y; done")
            assert (await one.run(run_id)).status == "queued"
            async with process(database_url, world, real=True, owner="one") as again:
                events = await again.ends(talk, run_id)
    assert events[-1].data["message"] == "done"
    assert world.notes == ["x", "y"]
    assert world.asked == ["note x", "hold a note y", "hold a note y", "done"]
    numbered(events)
    handed = [event for event in events if event.data.get("reason") == "handed on"]
    assert types(handed) == ["run"]


@pytest.mark.requirement("conversations.drain")
async def test_a_drained_process_leaves_nothing_that_it_was_just_about_to_begin(
    database_url: str, world: World
) -> None:
    async with process(database_url, world, holds=True) as one:
        talks = [await one.create() for _ in range(8)]
        saying = [asyncio.create_task(one.say(talk, "hold a done")) for talk in talks]
        await asyncio.sleep(0)  # the messages are on their way
        await asyncio.wait_for(one.conversations.drain(0.0), SECONDS)
        await asyncio.gather(*saying)
        found = [run for talk in talks for run in await one.runs(talk)]
        assert {(run.status, run.cancel) for run in found} == {("queued", None)}
        assert len(found) == len(talks)
        assert one.conversations._live == {}
    async with process(database_url, world) as two:
        for run in found:
            assert types(await two.ends(run.conversation_id, run.id))[-1] == "done"


@pytest.mark.requirement("conversations.drain")
async def test_a_message_whose_sender_leaves_while_it_is_stored_is_answered_all_the_same(
    database_url: str, world: World
) -> None:
    async with process(database_url, world) as one:
        talk = await one.create()
        saying = asyncio.create_task(one.say(talk, "hello"))
        await asyncio.sleep(0)
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
        await asyncio.gather(*one.conversations._starting)
        (run,) = await one.runs(talk)
        assert types(await one.ends(talk, run.id))[-1] == "done"
        assert (await one.run(run.id)).fence == 1


# -- real processes ---------------------------------------------------------------------------------

_CHILD = """
import asyncio, importlib.util, sys
folder, url, message = sys.argv[1:]
spec = importlib.util.spec_from_file_location("processes", folder + "/processes.py")
processes = sys.modules["processes"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)

async def main():
    async with processes.process(url, processes.World(), real=True, holds=True) as one:
        talk = await one.create()
        live = await one.say(talk, message)
        await one.model.reached("a")
        print(talk, live.run.id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.requirement("runs.takeover")
async def test_a_process_that_is_killed_loses_no_turn(database_url: str, world: World) -> None:
    arguments = ["-c", _CHILD, str(Path(__file__).parent), database_url, "note x; hold a note y; done"]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        line = await asyncio.wait_for(child.stdout.readline(), 60)
        talk, run_id = line.decode().split()
    finally:
        child.kill()
        await asyncio.wait_for(child.wait(), 10)
    clock = HandClock()
    clock.ahead = 2 * LEASE
    async with process(database_url, world, real=True, clock=clock) as other:
        events = await other.ends(talk, run_id)
        view = await other.conversations.view(US, talk)
    assert events[-1].data["message"] == "done"
    assert (world.notes, world.asked) == (["y"], ["hold a note y", "done"])  # x was written by the dead one
    numbered([event.event for event in view.events])
