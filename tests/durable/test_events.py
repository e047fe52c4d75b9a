"""Events: numbered and stored before anybody hears of them, and never missed by who comes back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from admiralty.core.errors import NotFound
from admiralty.core.values import Event

from .processes import LEASE, SECONDS, THEM, US, HandClock, World, heard, process, types


@pytest.fixture
def world() -> World:
    return World()


def kept(events: list[Event]) -> list[Event]:
    return [event for event in events if event.type != "token"]


async def from_events(process: Any, talk: str, *, after: int, until: int) -> list[Event]:
    """Return a conversation's events as a client of the event stream gets them, up to a number."""
    found: list[Event] = []
    async with asyncio.timeout(SECONDS), aclosing(
        process.conversations.events(US, talk, after=after, idle=0.01)
    ) as batches:  # fmt: skip
        async for batch in batches:
            found += batch
            if found and found[-1].seq == until:
                return found
    return found


@pytest.mark.requirement("events.stored")
async def test_what_is_heard_is_stored_and_numbered_but_for_tokens(database_url: str, world: World) -> None:
    async with process(database_url, world) as one, process(database_url, world) as two:
        talk = await one.create()
        live = await one.say(talk, "look a; note b; some words here")
        told: list[Event] = []
        async with asyncio.timeout(SECONDS), aclosing(live.follow()) as following:
            async for event in following:
                told.append(event)
                if event.seq is not None:  # another process has it already
                    stored = await two.conversations.stored(US, talk, after=event.seq - 1, limit=1)
                    assert stored[0].event == event
        assert {event.type for event in told if event.seq is None} == {"token"}
        assert "".join(e.data["text"] for e in told if e.type == "token").split() == ["some", "words", "here"]
        assert [event.seq for event in kept(told)] == list(range(2, len(kept(told)) + 2))
        assert types(kept(told))[-2:] == ["message", "done"]
        assert types(told).index("token") < types(told).index("done")


@pytest.mark.requirement("events.resume")
async def test_who_leaves_anywhere_and_comes_back_to_another_process_gets_exactly_the_rest(
    database_url: str, world: World
) -> None:
    message = "look a; note b; pass other; look c; some words"
    async with process(database_url, world) as one, process(database_url, world) as two:
        talk = await one.create()
        await heard(await one.say(talk, "before"))
        live = await one.say(talk, message)
        whole = kept(await heard(live))
        last = whole[-1].seq or 0
        for cut in range(len(whole) + 1):
            seen = whole[:cut]
            after = (seen[-1].seq if seen else live.after) or 0
            rest = await two.ends(talk, live.run.id, after=after)
            assert seen + rest == whole
            if cut < len(whole):
                assert await from_events(two, talk, after=after, until=last) == whole[cut:]


@pytest.mark.requirement("events.resume")
@pytest.mark.parametrize("cut", range(0, 14, 2))
async def test_who_leaves_while_it_happens_and_comes_back_to_another_process_misses_nothing(
    sqlite_url: str, world: World, cut: int
) -> None:
    async with process(sqlite_url, world, holds=True) as one, process(sqlite_url, world) as two:
        talk = await one.create()
        live = await one.say(talk, "look a; look b; hold c look d; done")
        watching = asyncio.create_task(heard(live))
        if cut > 6:
            one.model.release("c")
        seen: list[Event] = []
        async with asyncio.timeout(SECONDS), aclosing(live.follow()) as following:
            async for event in following:
                seen.append(event)
                if len(seen) > cut:
                    break
        seen = kept(seen)
        coming = asyncio.create_task(two.ends(talk, live.run.id, after=(seen[-1].seq or 0) if seen else 1))
        one.model.release("c")
        assert seen + await coming == kept(await watching)


@pytest.mark.requirement("events.resume")
async def test_a_listener_hears_everything_once_through_all_executions_of_a_run(
    database_url: str, world: World
) -> None:
    clock = HandClock()
    async with (
        process(database_url, world, clock=clock, works=False, holds=True) as dead,
        process(database_url, world, clock=clock, holds=True) as two,
        process(database_url, world, clock=clock, works=False) as door,
    ):
        talk = await dead.create()
        live = await dead.say(talk, "look a; hold b look c; hold d done")
        at_door = asyncio.create_task(door.ends(talk, live.run.id))
        at_two = asyncio.create_task(heard(await two.conversations.follow(US, talk, live.run.id)))
        await dead.model.reached("b")
        await dead.hang()
        clock.ahead += 2 * LEASE
        await two.tick()
        await two.model.reached("b")
        two.model.release("b")
        await two.model.reached("d")
        two.model.release("d")
        stored = [one.event for one in await door.conversations.stored(US, talk)]
        everything = await at_door
        assert [event.seq for event in everything] == list(range(1, len(everything) + 1))
        assert everything[: len(stored)] == stored
        followed = await at_two
        assert kept(followed) == everything
        assert "token" in types(followed), "who follows where it is executed hears it as it happens"


@pytest.mark.requirement("events.stored")
async def test_the_numbers_of_a_conversation_have_no_gaps_whoever_writes(
    database_url: str, world: World
) -> None:
    async with process(database_url, world) as one, process(database_url, world) as two:
        talks = [await one.create() for _ in range(3)]
        lives = [
            await (one, two)[n % 2].say(talks[n % 3], f"look {n}; done", strategy="enqueue")
            for n in range(12)
        ]
        await asyncio.gather(*(heard(live) for live in lives))
        for talk in talks:
            view = await two.conversations.view(US, talk)
            assert [stored.seq for stored in view.events] == list(range(1, len(view.events) + 1))
            assert view.conversation.events == len(view.events)
            ends = [stored.run_id for stored in view.events if stored.event.type == "done"]
            assert ends == [run.id for run in view.runs]


@pytest.mark.requirement("events.idle")
async def test_a_listener_of_a_quiet_conversation_is_told_that_it_is_alive_and_others_hear_nothing(
    sqlite_url: str, world: World
) -> None:
    async with process(sqlite_url, world, holds=True) as one, process(sqlite_url, world) as two:
        talk = await one.create()
        live = await one.say(talk, "hold a done")
        for batches in (
            live.batches(idle=0.01),
            (await two.conversations.follow(US, talk, live.run.id, after=2)).batches(idle=0.01),
            two.conversations.events(US, talk, after=live.last_seq, idle=0.01),
        ):
            async with asyncio.timeout(SECONDS), aclosing(batches) as alive:
                async for batch in alive:
                    if not batch:
                        break
        with pytest.raises(NotFound):
            await anext(two.conversations.events(THEM, talk))
        with pytest.raises(NotFound):
            await two.conversations.follow(THEM, talk, live.run.id)
        one.model.release("a")
        await heard(live)
