"""A process dies at each point of a turn: another goes on where it was, and does nothing twice."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from admiralty.runtime.storage.tables import effects, events, runs, steps, thread_checkpoints, thread_writes
from benchmarks.chaos_client import LIMITS, Client
from benchmarks.chaos_points import POINTS
from benchmarks.chaos_run import Scene
from benchmarks.chaos_workers import Slot

from .conftest import check

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHO = {"waiting": "refund", "decided": "refund"}
"""With which tool a turn comes by the points where persons decide; elsewhere with ``book``."""


async def _survives(scene: Scene, tool: str, point: str) -> Any:
    before = len(scene.points.hits())
    scene.points.arm(point)
    asked = await scene.say(tool)
    assert scene.points.disarm() == []
    assert len(scene.points.hits()) == before + 1
    assert asked.turn.status == "done", asked.turn.error
    await check(scene)
    return asked


@pytest.mark.requirement("chaos.points", "chaos.client")
@pytest.mark.parametrize("point", POINTS)
async def test_a_turn_survives_its_process_at_every_point(till: Scene, point: str) -> None:
    await _survives(till, WHO.get(point, "book"), point)


@pytest.mark.requirement("chaos.points")
@pytest.mark.parametrize("point", ["replied", "effect", "checkpointed", "decided"])
async def test_a_turn_survives_its_process_on_postgresql(till_on_postgres: Scene, point: str) -> None:
    await _survives(till_on_postgres, WHO.get(point, "book"), point)


@pytest.mark.requirement("chaos.outbox")
@pytest.mark.parametrize("point", ["begun", "effect"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_a_write_to_the_same_database_and_its_effect_are_one(
    request: pytest.FixtureRequest, database: str, point: str
) -> None:
    scene: Scene = request.getfixturevalue("till" if database == "sqlite" else "till_on_postgres")
    asked = await _survives(scene, "stamp", point)
    assert not asked.turn.parked


@pytest.mark.requirement("chaos.parked")
@pytest.mark.parametrize(("point", "resolved"), [("effect", "resolved done"), ("begun", "resolved not done")])
async def test_a_call_that_nobody_can_look_up_waits_for_a_person_and_is_not_made_twice(
    till: Scene, point: str, resolved: str
) -> None:
    before = till.people.counts[resolved]
    asked = await _survives(till, "wire", point)
    assert asked.turn.parked
    assert till.people.counts[resolved] == before + 1


@pytest.mark.requirement("chaos.points")
async def test_what_a_person_does_not_allow_is_not_done_by_any_process(till: Scene) -> None:
    till.points.arm("decided")
    asked = await till.say("refund", rejected=True)
    assert asked.turn.status == "done"
    assert till.took_place().keys().isdisjoint(asked.effects)


@pytest.mark.requirement("chaos.replies")
async def test_a_reply_that_is_kept_is_not_asked_for_again(till: Scene) -> None:
    before = till.world.asked_again()
    await _survives(till, "book", "replied")
    assert till.world.asked_again() == before


@pytest.mark.requirement("chaos.zombie")
@pytest.mark.parametrize("point", ["replied", "begun", "effect", "checkpointed"])
async def test_a_process_that_stood_still_beyond_its_lease_writes_nothing(till: Scene, point: str) -> None:
    till.points.arm(point, signal.SIGSTOP)
    asked = await till.say("book")
    assert asked.turn.status == "done", asked.turn.error
    slot = _stopped(till)
    assert (point, slot.pid) in till.points.hits()
    before = await _rows(till, asked.turn.run, asked.turn.conversation)
    slot.send(signal.SIGCONT)
    await _awake(till, slot)
    assert await _rows(till, asked.turn.run, asked.turn.conversation) == before
    await check(till)


def _stopped(scene: Scene) -> Slot:
    [slot] = [slot for slot in scene.workers.slots if slot.stopped_until]
    return slot


async def _awake(scene: Scene, slot: Slot) -> None:
    """Have the process answer a turn of another conversation: all that it was about to write is written."""
    slot.stopped_until = 0.0
    client = scene.clients["roomy"]
    async with httpx.AsyncClient(limits=LIMITS) as http:
        own = Client(http, [slot.url], client.key)
        turn = await own.say(await client.open(), lambda _: "Good morning")
    assert turn.status == "done"
    assert slot.process is not None
    assert slot.process.is_alive()


async def _rows(scene: Scene, run: str, conversation: str) -> dict[str, list[Any]]:
    """Return all rows of a run and of its conversation's checkpoints."""
    wanted = {table.name: sa.select(table).where(table.c.run_id == run) for table in (events, effects, steps)}
    wanted["runs"] = sa.select(runs).where(runs.c.id == run)
    for table in (thread_checkpoints, thread_writes):
        wanted[table.name] = sa.select(table).where(table.c.thread_id == conversation)

    def read(connection: sa.Connection) -> dict[str, list[Any]]:
        return {name: sorted(map(repr, connection.execute(query))) for name, query in wanted.items()}

    return await scene.database.read(read)


async def test_nothing_is_lost_when_two_processes_die_one_after_the_other(till: Scene) -> None:
    till.points.arm("replied")
    asking = asyncio.create_task(till.say("book"))
    while not till.points.hits() or till.points.disarm():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)
    till.points.arm("effect")
    asked = await asking
    assert asked.turn.status == "done"
    await check(till)


@pytest.mark.requirement("chaos.texting")
@pytest.mark.parametrize("way", ["reject", "enqueue", "interrupt", "rollback"])
async def test_two_processes_answer_one_conversation_one_message_at_a_time(till: Scene, way: str) -> None:
    conversation = await till.clients["roomy"].open()
    say = partial(till.say, conversation=conversation, may_fail=True, multitask_strategy=way)
    asked = await asyncio.gather(*(say("book") for _ in range(5)))
    ends = [one.turn.status for one in asked]
    if way == "enqueue":
        assert ends == ["done"] * 5
    elif way == "reject":
        assert set(ends) <= {"done", "refused 409"}
    else:
        assert set(ends) <= {"done", "cancelled"}
    assert "done" in ends
    await check(till)
