"""Conversations, runs, events and keys in SQL: their invariants, on both databases."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.errors import Conflict, NotFound, RunLost
from admiralty.core.ports import Clock
from admiralty.core.values import Event, Identity
from admiralty.runtime.durable.executions import Ending, ExecutionStore
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import Run, RunRequest
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.conversations import ConversationStore
from admiralty.runtime.storage.keys import PREFIX, ApiKeys

OURS, THEIRS = Identity(tenant="ours", user="maya"), Identity(tenant="theirs")

LEASE = 15.0


def step(text: str) -> Event:
    return Event(type="step", data={"text": text})


class Stores:
    """What a process has of a database."""

    def __init__(self, database: Database, clock: Clock, owner: str = "process-1") -> None:
        self.conversations = ConversationStore(database, clock=clock)
        self.runs = RunStore(database, owner=owner, clock=clock, lease=LEASE)
        self.executions = ExecutionStore(database, owner=owner, clock=clock, lease=LEASE)
        self.create, self.get = self.conversations.create, self.conversations.get
        self.events = self.conversations.events

    async def start(
        self, conversation: str, message: str, *, identity: Identity = OURS, fleet: str = "desk"
    ) -> Run:
        request = RunRequest(identity=identity, entry="clerk")
        run, _ = await self.runs.start(request, conversation, message, fleet=fleet)
        return run

    async def finish(self, run: Run, *happened: Event, answer: str | None = None) -> list[Event]:
        return await self.executions.finish(run, Ending(status="done", answer=answer, happened=happened))


@pytest.fixture
def store(database: Database, clock: Clock) -> Stores:
    return Stores(database, clock)


@pytest.mark.requirement("storage.tenants")
async def test_a_conversation_exists_for_its_own_tenant_only(store: Stores, clock: Any) -> None:
    made = await store.create(OURS, "desk", {"channel": "web", "größe": "\u0000 \U0001f600"})
    assert await store.get(OURS, made.id) == made
    assert made.metadata == {"channel": "web", "größe": "\u0000 \U0001f600"}
    for reach in (
        store.get(THEIRS, made.id),
        store.runs.of_conversation(THEIRS, made.id),
        store.events(THEIRS, made.id),
        store.start(made.id, "hi", identity=THEIRS),
        store.get(OURS, "conv_nowhere"),
    ):
        with pytest.raises(NotFound):
            await reach
    clock.time += 1
    later = await store.create(OURS, "desk")
    assert [c.id for c in await store.conversations.recent(OURS)] == [later.id, made.id]
    assert [c.id for c in await store.conversations.recent(OURS, limit=1)] == [later.id]
    assert await store.conversations.recent(THEIRS) == []


@pytest.mark.requirement("storage.runs")
async def test_a_run_is_stored_from_its_start_to_its_end(store: Stores, clock: Any) -> None:
    conversation = await store.create(OURS, "desk")
    run = await store.start(conversation.id, "Where is it?")
    assert (run.turn, run.status, run.message) == (1, "running", "Where is it?")
    (stored,) = await store.runs.of_conversation(OURS, conversation.id)
    assert RunRequest.from_json(stored.request) == RunRequest(identity=OURS, entry="clerk")
    assert (stored.fleet, stored.tenant, stored.fence, stored.attempt) == ("desk", "ours", 1, 1)
    assert len(await store.events(OURS, conversation.id)) == 2
    clock.time += 2
    assert [event.seq for event in await store.executions.append(run, [step("a"), step("b")])] == [3, 4]
    assert [event.seq for event in await store.finish(run, step("c"), answer="There.")] == [5]
    (stored,) = await store.runs.of_conversation(OURS, conversation.id)
    assert (stored.status, stored.answer, stored.finished_at) == ("done", "There.", clock.time)
    said, began, *rest = await store.events(OURS, conversation.id)
    assert said.event.data == {"role": "user", "content": "Where is it?", "turn": 1}
    assert (began.event.type, began.event.data["run_id"], began.run_id) == ("run", run.id, run.id)
    assert [one.event.data["text"] for one in rest] == ["a", "b", "c"]
    assert [one.seq for one in await store.events(OURS, conversation.id, after=3)] == [4, 5]
    assert [one.seq for one in await store.events(OURS, conversation.id, after=1, limit=2)] == [2, 3]
    assert (await store.start(conversation.id, "Thanks.")).turn == 2
    assert (await store.get(OURS, conversation.id)).turns == 2


@pytest.mark.requirement("storage.one_live_run")
async def test_one_run_at_a_time_in_a_conversation_also_from_two_databases(
    store: Stores, database_url: str, clock: Clock
) -> None:
    conversation = await store.create(OURS, "desk")
    second = Database(database_url)
    other = Stores(second, clock, "process-2")
    outcomes = await asyncio.gather(
        *(s.start(conversation.id, "hi") for s in [store, other] * 8), return_exceptions=True
    )
    started = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(started) == 1
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {Conflict}
    assert len(await store.events(OURS, conversation.id)) == 2
    assert (await store.get(OURS, conversation.id)).turns == 1
    await second.close()


_RACE = """
import asyncio, sys
from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict
from admiralty.core.values import Event, Identity
from admiralty.runtime.durable.executions import Ending, ExecutionStore
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import RunRequest
from admiralty.runtime.storage import Database
url, conversation, owner = sys.argv[1:]
request = RunRequest(identity=Identity(tenant="ours"), entry="clerk")
async def main():
    database = Database(url)
    runs = RunStore(database, owner=owner, clock=SystemClock())
    executions = ExecutionStore(database, owner=owner, clock=SystemClock())
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    while done < 5:
        try:
            run, _ = await runs.start(request, conversation, owner, fleet="desk")
        except Conflict:
            continue
        events = [Event(type="step", data={"n": n}) for n in range(2)]
        await executions.finish(run, Ending(status="done", answer="", happened=events))
        done += 1
    await database.close()
asyncio.run(main())
"""


@pytest.mark.requirement("storage.one_live_run", "storage.events")
async def test_processes_that_contend_for_a_conversation_take_turns_and_number_events_without_gaps(
    store: Stores, database_url: str
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
    runs = await store.runs.of_conversation(OURS, conversation.id)
    assert [run.turn for run in runs] == list(range(1, 11))
    assert {run.message for run in runs} == {"process-0", "process-1"}
    stored = await store.events(OURS, conversation.id)
    assert [event.seq for event in stored] == list(range(1, 41))
    # Between a run's first event and its last, nobody else's stand.
    assert [event.run_id for event in stored] == [run.id for run in runs for _ in range(4)]


@pytest.mark.requirement("storage.leases")
async def test_a_run_whose_process_died_is_queued_after_its_lease_and_its_late_end_is_not_stored(
    store: Stores, database: Database, clock: Any
) -> None:
    conversation, beside = await store.create(OURS, "desk"), await store.create(OURS, "desk")
    dead = await store.start(conversation.id, "one")
    clock.time += LEASE - 1
    assert await store.executions.renew({dead.id: dead.fence}) == set()
    clock.time += LEASE - 1
    survivor = Stores(database, clock, "process-2")
    alive = await survivor.start(beside.id, "beside")
    assert await survivor.executions.reap() == 0
    clock.time += 2
    assert await survivor.executions.reap() == 1
    assert await survivor.executions.reap() == 0
    with pytest.raises(Conflict):
        await survivor.start(conversation.id, "two")  # the first is still to be answered
    (again,) = await survivor.executions.claim("desk", limit=9)
    assert (again.id, again.fence) == (dead.id, 2)
    with pytest.raises(RunLost):
        await store.finish(dead, step("late"), answer="late")
    assert await store.executions.renew({dead.id: dead.fence}) == {dead.id}
    await survivor.finish(again, step("in time"), answer="in time")
    (run,) = await store.runs.of_conversation(OURS, conversation.id)
    assert (run.status, run.answer) == ("done", "in time")
    told = [one.event.data.get("text") for one in await store.events(OURS, conversation.id)]
    assert told == [None, None, None, "in time"]
    assert (await store.runs.find(alive.id)).status == "running"


@pytest.mark.requirement("storage.runs")
async def test_a_run_ends_once(store: Stores) -> None:
    conversation = await store.create(OURS, "desk")
    run = await store.start(conversation.id, "one")
    await store.executions.finish(run, Ending(status="cancelled", happened=[step("a")]))
    with pytest.raises(RunLost):
        await store.finish(run, step("b"), answer="x")
    assert len(await store.events(OURS, conversation.id)) == 3


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


@pytest.mark.requirement("conversations.fleet")
async def test_a_conversation_is_not_taken_up_by_another_fleet(store: Stores) -> None:
    conversation = await store.create(OURS, "desk")
    with pytest.raises(Conflict, match="belongs to the fleet desk"):
        await store.start(conversation.id, "one", fleet="harbour")
    assert await store.runs.of_conversation(OURS, conversation.id) == []
