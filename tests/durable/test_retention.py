"""Old turns are removed by age and by count; money, memory, and what is not over stay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from admiralty.core.errors import NotFound
from admiralty.runtime.durable.retention import BATCH, DAY, Retention
from admiralty.runtime.storage.tables import (
    approvals,
    effects,
    events,
    ledger,
    runs,
    steps,
    thread_checkpoints,
)

from .processes import US, HandClock, Process, World, heard, process, rows, types, until


@pytest.fixture
def world() -> World:
    return World()


def retention(one: Process, clock: HandClock, **kept: Any) -> Retention:
    return Retention(database=one.database, clock=clock, **kept)


async def turns(one: Process, talk: str) -> list[int]:
    return [run.turn for run in await one.runs(talk)]


@pytest.mark.requirement("retention.age")
async def test_turns_of_a_certain_age_are_removed_with_all_that_belongs_to_them_but_the_ledger(
    database_url: str, world: World
) -> None:
    clock = HandClock()
    async with process(database_url, world, real=True, clock=clock) as one:
        talk, other = await one.create(), await one.create()
        await heard(await one.say(talk, "look a; note b; old"))
        await heard(await one.say(talk, "note c; fail provider"))
        clock.ahead += 2 * DAY
        await heard(await one.say(other, "note d; new"))
        (spent,) = await rows(one.database, ledger)
        assert await retention(one, clock, days=3).prune() == 0
        assert await retention(one, clock, days=1).prune() == 2
        assert await retention(one, clock, days=1).prune() == 0
        assert await turns(one, talk) == []
        (new,) = await one.runs(other)
        for table in (events, effects, runs):
            (left,) = await rows(one.database, table)
            assert {getattr(row, "run_id", None) or row.id for row in left} == {new.id}, table.name
        assert await rows(one.database, steps, approvals) == [[], []]
        assert spent
        assert await rows(one.database, ledger) == [spent]
        with pytest.raises(NotFound):
            await one.conversations.follow(US, talk, "run_gone")


@pytest.mark.requirement("retention.memory")
async def test_a_conversation_remembers_what_was_said_in_turns_that_are_removed(
    database_url: str, world: World
) -> None:
    clock = HandClock()
    async with process(database_url, world, clock=clock) as one:
        talk = await one.create()
        live = await one.say(talk, "my name is ann")
        await heard(live)
        clock.ahead += 2 * DAY
        assert await retention(one, clock, days=1).prune() == 1
        assert len((await rows(one.database, thread_checkpoints))[0]) == 1
        again = await one.say(talk, "who am i")
        await heard(again)
        said = [m.text for m in one.model.seen[-1].messages if isinstance(m, HumanMessage)]
        assert said == ["my name is ann", "who am i"]
        assert again.run.turn == 2
        stored = await one.ends(talk, again.run.id)
        assert [event.seq for event in stored] == list(
            range(live.last_seq + 1, live.last_seq + 1 + len(stored))
        )


@pytest.mark.requirement("retention.count")
async def test_only_the_latest_turns_of_each_conversation_are_kept(database_url: str, world: World) -> None:
    clock = HandClock()
    async with process(database_url, world, clock=clock) as one:
        talks = [await one.create() for _ in range(3)]
        for number, talk in enumerate(talks):
            for _ in range(2 * number):
                await heard(await one.say(talk, "hello"))
        assert await retention(one, clock).prune() == 0
        assert await retention(one, clock, turns=3).prune() == 1
        assert [await turns(one, talk) for talk in talks] == [[], [1, 2], [2, 3, 4]]
        assert await retention(one, clock, turns=1, days=5).prune() == 3
        assert [await turns(one, talk) for talk in talks] == [[], [2], [4]]


@pytest.mark.requirement("retention.open")
async def test_turns_that_are_not_over_are_kept_however_old(database_url: str, world: World) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, real=True, clock=clock, holds=True, run_attempts=1) as one,
        process(database_url, world, clock=clock, works=False) as two,
    ):
        waits, parked, runs_on = await one.create(), await one.create(), await one.create()
        waiting = await one.say(waits, "ask_person May I?; done")
        await one.becomes(waiting.run.id, "waiting")
        broken = await one.say(parked, "fail retryable")
        await one.becomes(broken.run.id, "parked")
        running = await one.say(runs_on, "hold a done")
        queued = await two.say(runs_on, "later", strategy="enqueue")
        await one.model.reached("a")
        later = HandClock()
        later.ahead = 400 * DAY
        assert await retention(two, later, days=1, turns=1).prune() == 0
        one.model.release("a")
        for live in (running, queued):
            assert types(await heard(live))[-1] == "done"
        assert await retention(two, later, days=1).prune() == 2


@pytest.mark.requirement("retention.count")
async def test_two_processes_that_remove_at_once_do_so_in_parts_and_once(
    database_url: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admiralty.runtime.durable.retention.BATCH", 3)
    assert BATCH > 3
    clock = HandClock()
    async with process(database_url, world, clock=clock) as one, process(database_url, world) as two:
        talks = [await one.create() for _ in range(4)]
        for talk in talks:
            for _ in range(3):
                await heard(await one.say(talk, "hello"))
        removed = await asyncio.gather(
            *(retention(by, clock, turns=1).prune() for by in (one, two, one, two))
        )
        assert sum(removed) == 8
        assert [await turns(one, talk) for talk in talks] == [[3]] * 4


@pytest.mark.requirement("retention.count")
async def test_a_process_removes_by_itself_what_its_settings_say(sqlite_url: str, world: World) -> None:
    async with process(sqlite_url, world) as one:
        talk = await one.create()
        for _ in range(3):
            await heard(await one.say(talk, "hello"))
    async with process(sqlite_url, world, retention_turns=1) as one:

        async def removed() -> bool:
            return await turns(one, talk) == [3]

        await until(removed)
