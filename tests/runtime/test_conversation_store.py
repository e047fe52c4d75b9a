"""Conversations, runs, events, keys and usage in SQL: their invariants, on both databases."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.errors import Conflict, NotFound
from admiralty.core.ports import Clock
from admiralty.core.values import Event, Identity
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.conversations import LEASE_SECONDS, ConversationStore
from admiralty.runtime.storage.keys import PREFIX, ApiKeys

OURS, THEIRS = Identity(tenant="ours", user="maya"), Identity(tenant="theirs")


def token(text: str) -> Event:
    return Event(type="step", data={"text": text})


@pytest.fixture
def store(database: Database, clock: Clock) -> ConversationStore:
    return ConversationStore(database, owner="process-1", clock=clock)


@pytest.mark.requirement("storage.tenants")
async def test_a_conversation_exists_for_its_own_tenant_only(store: ConversationStore, clock: Any) -> None:
    made = await store.create(OURS, "desk", {"channel": "web", "größe": "\u0000 \U0001f600"})
    assert await store.get(OURS, made.id) == made
    assert made.metadata == {"channel": "web", "größe": "\u0000 \U0001f600"}
    for reach in (
        store.get(THEIRS, made.id),
        store.runs(THEIRS, made.id),
        store.events(THEIRS, made.id),
        store.start_run(THEIRS, made.id, "hi"),
        store.get(OURS, "conv_nowhere"),
    ):
        with pytest.raises(NotFound):
            await reach
    clock.time += 1
    later = await store.create(OURS, "desk")
    assert [c.id for c in await store.recent(OURS)] == [later.id, made.id]
    assert [c.id for c in await store.recent(OURS, limit=1)] == [later.id]
    assert await store.recent(THEIRS) == []


@pytest.mark.requirement("storage.runs")
async def test_a_run_is_stored_from_its_start_to_its_end(store: ConversationStore, clock: Any) -> None:
    conversation = await store.create(OURS, "desk")
    run = await store.start_run(OURS, conversation.id, "Where is it?")
    assert (run.turn, run.status, run.message) == (1, "running", "Where is it?")
    clock.time += 2
    await store.finish_run(run, status="done", answer="There.", error=None, happened=[token("a"), token("b")])
    (stored,) = await store.runs(OURS, conversation.id)
    assert (stored.status, stored.answer, stored.finished_at) == ("done", "There.", clock.time)
    said, *rest = await store.events(OURS, conversation.id)
    assert said.event == Event(type="message", data={"role": "user", "content": "Where is it?", "turn": 1})
    assert [(event.seq, event.event) for event in rest] == [(2, token("a")), (3, token("b"))]
    assert [event.seq for event in await store.events(OURS, conversation.id, after=2)] == [3]
    assert (await store.start_run(OURS, conversation.id, "Thanks.")).turn == 2
    assert (await store.get(OURS, conversation.id)).turns == 2


@pytest.mark.requirement("storage.one_live_run")
async def test_one_run_at_a_time_in_a_conversation_also_from_two_databases(
    store: ConversationStore, database_url: str, clock: Clock
) -> None:
    conversation = await store.create(OURS, "desk")
    second = Database(database_url)
    other = ConversationStore(second, owner="process-2", clock=clock)
    outcomes = await asyncio.gather(
        *(s.start_run(OURS, conversation.id, "hi") for s in [store, other] * 8), return_exceptions=True
    )
    started = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(started) == 1
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {Conflict}
    assert len(await store.events(OURS, conversation.id)) == 1
    assert (await store.get(OURS, conversation.id)).turns == 1
    await second.close()


_RACE = """
import asyncio, sys
from admiralty.core.errors import Conflict
from admiralty.core.values import Event, Identity
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.conversations import ConversationStore
url, conversation, owner = sys.argv[1:]
identity = Identity(tenant="ours")
async def main():
    database = Database(url)
    store = ConversationStore(database, owner=owner)
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    while done < 5:
        try:
            run = await store.start_run(identity, conversation, owner)
        except Conflict:
            continue
        events = [Event(type="step", data={"n": n}) for n in range(3)]
        await store.finish_run(run, status="done", answer="", error=None, happened=events)
        done += 1
    await database.close()
asyncio.run(main())
"""


@pytest.mark.requirement("storage.one_live_run", "storage.events")
async def test_processes_that_contend_for_a_conversation_take_turns_and_number_events_without_gaps(
    store: ConversationStore, database_url: str
) -> None:
    conversation = await store.create(OURS, "desk")
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-c", _RACE, database_url, conversation.id, f"process-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    with ThreadPoolExecutor(2) as threads:
        errors = list(threads.map(lambda process: process.communicate("go\n", timeout=60)[1], processes))
    assert [process.returncode for process in processes] == [0, 0], errors
    runs = await store.runs(OURS, conversation.id)
    assert [run.turn for run in runs] == list(range(1, 11))
    assert {run.message for run in runs} == {"process-0", "process-1"}
    stored = await store.events(OURS, conversation.id)
    assert [event.seq for event in stored] == list(range(1, 41))
    # Between a run's first event and its last, nobody else's stand.
    assert [event.run_id for event in stored] == [run.id for run in runs for _ in range(4)]


@pytest.mark.requirement("storage.leases")
async def test_a_run_whose_process_died_is_given_up_after_its_lease_and_its_late_end_is_not_stored(
    store: ConversationStore, database: Database, clock: Any
) -> None:
    conversation = await store.create(OURS, "desk")
    dead = await store.start_run(OURS, conversation.id, "one")
    clock.time += LEASE_SECONDS - 1
    await store.renew([dead.id])
    clock.time += LEASE_SECONDS - 1
    survivor = ConversationStore(database, owner="process-2", clock=clock)
    with pytest.raises(Conflict):
        await survivor.start_run(OURS, conversation.id, "two")
    clock.time += 2
    alive = await survivor.start_run(OURS, conversation.id, "two")
    assert alive.turn == 2
    assert not await store.finish_run(
        dead, status="done", answer="late", error=None, happened=[token("late")]
    )
    await store.renew([dead.id])
    first, second = await survivor.runs(OURS, conversation.id)
    assert (first.status, first.answer) == ("failed", None)
    assert first.error is not None
    assert first.error["code"] == "run_interrupted"
    assert second.status == "running"
    assert await survivor.finish_run(alive, status="done", answer="", error=None, happened=[])
    assert [event.event.data.get("content") for event in await store.events(OURS, conversation.id)] == [
        "one",
        "two",
    ]


async def test_a_run_ends_once(store: ConversationStore) -> None:
    conversation = await store.create(OURS, "desk")
    run = await store.start_run(OURS, conversation.id, "one")
    assert await store.finish_run(run, status="cancelled", answer=None, error=None, happened=[token("a")])
    assert not await store.finish_run(run, status="done", answer="x", error=None, happened=[token("b")])
    assert len(await store.events(OURS, conversation.id)) == 2


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.requirement("storage.keys")
async def test_a_key_is_shown_once_and_stored_as_a_digest_only(database: Database) -> None:
    keys = ApiKeys(database)
    secret, made = await keys.create(tenant="ours", name="laptop")
    assert secret.startswith(PREFIX)
    assert len(secret) > 40
    assert await keys.find(secret) == made

    def everything(connection: sa.Connection) -> str:
        tables = sa.inspect(connection).get_table_names()
        return str([connection.execute(sa.text(f"SELECT * FROM {name}")).all() for name in tables])

    stored = await database.read(everything)
    assert made.id in stored
    assert secret not in stored
    assert secret[len(PREFIX) + 8 :] not in stored
    assert secret.startswith(made.hint)


@pytest.mark.requirement("storage.keys")
async def test_a_revoked_or_wrong_key_is_found_no_more(database: Database) -> None:
    keys = ApiKeys(database)
    secret, made = await keys.create()
    for wrong in ("", secret[:-1], secret + "x", made.id, made.hint):
        assert await keys.find(wrong) is None
    await keys.revoke(made.id)
    assert await keys.find(secret) is None
    with pytest.raises(NotFound):
        await keys.revoke(made.id)
    (kept,) = await keys.all()
    assert kept.revoked_at is not None


@pytest.mark.requirement("storage.leases")
async def test_a_sweep_gives_up_the_runs_of_dead_processes_and_no_others(
    store: ConversationStore, clock: Any
) -> None:
    first, second = await store.create(OURS, "desk"), await store.create(OURS, "desk")
    await store.start_run(OURS, first.id, "one")
    clock.time += LEASE_SECONDS - 1
    await store.start_run(OURS, second.id, "two")
    assert await store.give_up_abandoned() == 0
    clock.time += 2
    assert await store.give_up_abandoned() == 1
    assert [run.status for run in await store.runs(OURS, first.id)] == ["failed"]
    assert [run.status for run in await store.runs(OURS, second.id)] == ["running"]


@pytest.mark.requirement("conversations.fleet")
async def test_a_conversation_is_not_taken_up_by_another_fleet(store: ConversationStore) -> None:
    conversation = await store.create(OURS, "desk")
    with pytest.raises(Conflict, match="belongs to the fleet desk"):
        await store.start_run(OURS, conversation.id, "one", fleet="harbour")
    assert await store.runs(OURS, conversation.id) == []
