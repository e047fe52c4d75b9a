"""Approvals in their rows: asked for once, decided once, by a person or by the clock."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import pytest

from admiralty.core.errors import Conflict, InvalidRequest, NotFound
from admiralty.core.values import Identity
from admiralty.runtime.approvals import ApprovalStore, Decider, expire, verdicts, withdraw
from admiralty.runtime.approvals.describe import approval_json
from admiralty.runtime.approvals.rows import SWEEP
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.events import select_events

from .conftest import HOUR, NOON, Ask, HandClock, add_run, run_row, set_run

ANN = Decider(tenant="acme", name="key_ann")
BOB = Decider(tenant="acme", name="key_bob")
STRANGER = Decider(tenant="other", name="key_eve")


@pytest.mark.requirement("approvals.row")
async def test_an_approval_tells_who_wants_what_and_why_and_until_when(
    database: Database, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run, expires_seconds=60.0, default="approve", kind="policy")
    assert made.pending
    assert made.id.startswith("appr_")
    assert await store.get(made.id, viewer=ANN) == made
    told = approval_json(made)
    assert (told["tool"], told["arguments"], told["reason"]) == ("refund", {"amount": 30}, "It is money.")
    assert (told["agent"], told["user"], told["kind"]) == ("clerk", "ann", "policy")
    assert (told["created_at"], told["expires_at"], told["default"]) == (NOON, NOON + 60, "approve")
    assert await database.read(lambda c: verdicts(c, run)) == {}


@pytest.mark.requirement("approvals.row")
async def test_a_call_is_asked_about_once_however_often_its_run_comes_there(
    database: Database, clock: HandClock, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    first = await ask(run)
    clock.time += 10
    assert await ask(run) == first
    other = await ask(run, call_id="call_2")
    assert other.id != first.id
    decided = await store.decide(first.id, "reject", by=ANN)
    assert await ask(run) == decided, "what is decided is not asked again"


@pytest.mark.requirement("approvals.row")
@pytest.mark.parametrize("odd", [math.nan, -1.0, 0.0, math.inf, 1e300])
async def test_an_odd_time_to_wait_never_makes_an_approval_that_cannot_be_decided(
    database: Database, store: ApprovalStore, ask: Ask, odd: float
) -> None:
    made = await ask(await add_run(database), expires_seconds=odd)
    assert NOON < made.expires_at < NOON + 11 * 366 * 86400
    assert (await store.decide(made.id, "approve", by=ANN)).status == "approved"


@pytest.mark.requirement("approvals.row")
async def test_whatever_a_model_puts_into_arguments_can_be_stored(
    database: Database, store: ApprovalStore, ask: Ask
) -> None:
    wild: dict[str, Any] = {"a": math.nan, "b": [math.inf, {"c\0": "\ud800\0"}], "d": 10**40, "e": (1,)}
    made = await ask(await add_run(database), arguments=wild, reason="\0why \ud800")
    found = await store.get(made.id)
    assert found.arguments == {"a": None, "b": [None, {"c\0": "\ud800\0"}], "d": 10**40, "e": [1]}
    assert found.reason == "\ufffdwhy \ufffd"


@pytest.mark.requirement("approvals.decide")
async def test_a_yes_lets_the_run_go_on_at_once_with_what_the_person_changed(
    database: Database, clock: HandClock, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run)
    clock.time += 60
    decided = await store.decide(made.id, "approve", arguments={"amount": 20}, reason=" enough ", by=ANN)
    assert (decided.status, decided.decided_by, decided.decided_at) == ("approved", "key_ann", NOON + 60)
    assert (decided.arguments, decided.edited) == ({"amount": 30}, {"amount": 20})
    row = await run_row(database, run)
    assert (row.status, row.available_at) == ("queued", NOON + 60)
    told = (await database.read(lambda c: verdicts(c, run)))[made.key]
    assert (told.id, told.verdict, told.arguments) == (made.id, "approved", {"amount": 20})
    assert (told.reason, told.by) == ("enough", "key_ann")
    (stored,) = await database.read(lambda c: select_events(c, made.conversation_id))
    assert (stored.run_id, stored.seq, stored.event.type) == (run, 1, "approval")
    data = stored.event.data
    assert (data["approval_id"], data["status"], data["edited"]) == (made.id, "approved", {"amount": 20})


@pytest.mark.requirement("approvals.decide")
async def test_a_no_lets_the_run_go_on_with_its_reason(
    database: Database, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run)
    await store.decide(made.id, "reject", reason="Not this week.", by=ANN)
    told = (await database.read(lambda c: verdicts(c, run)))[made.key]
    assert (told.verdict, told.arguments, told.reason) == ("rejected", None, "Not this week.")
    assert (await run_row(database, run)).status == "queued"


@pytest.mark.requirement("approvals.decide")
async def test_what_is_decided_stays_and_who_decided_it_is_told(
    database: Database, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run)
    decided = await store.decide(made.id, "approve", arguments={"amount": 20}, by=ANN)
    await set_run(database, run, status="running")
    again = await store.decide(made.id, "approve", arguments={"amount": 20}, reason="lost the answer", by=ANN)
    assert again == decided, "an answer that was lost may be asked for again"
    assert (await run_row(database, run)).status == "running", "and changes nothing"
    for verdict, options in (
        ("reject", {"by": ANN}),
        ("approve", {"by": BOB, "arguments": {"amount": 20}}),
        ("approve", {"by": ANN}),
        ("approve", {"by": ANN, "arguments": {"amount": 2000}}),
    ):
        with pytest.raises(Conflict, match=r"approved by key_ann at 2026-11-22 12:00:00 UTC") as refused:
            await store.decide(made.id, verdict, **options)  # type: ignore[arg-type]
        assert refused.value.details["approval_status"] == "approved"
        assert refused.value.details["decided_by"] == "key_ann"
    assert await store.get(made.id) == decided


@pytest.mark.requirement("approvals.decide")
async def test_nothing_is_decided_for_a_run_that_does_not_wait(
    database: Database, clock: HandClock, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run)
    await set_run(database, run, status="cancelled")
    with pytest.raises(Conflict, match="it is cancelled"):
        await store.decide(made.id, "approve", by=ANN)
    assert (await store.get(made.id)).pending
    assert await database.write(lambda c: withdraw(c, run, clock.now())) == 1
    with pytest.raises(Conflict, match="was withdrawn: its run ended"):
        await store.decide(made.id, "approve", by=ANN)
    assert (await run_row(database, run)).status == "cancelled"
    assert await database.read(lambda c: verdicts(c, run)) == {}, "withdrawn is no verdict"


@pytest.mark.requirement("approvals.decide")
async def test_what_was_withdrawn_is_asked_anew_by_a_run_that_is_tried_again(
    database: Database, clock: HandClock, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run)
    await database.write(lambda c: withdraw(c, run, clock.now()))
    clock.time += 10 * HOUR
    anew = await ask(run)
    assert (anew.id, anew.pending, anew.decided_at) == (made.id, True, None)
    assert anew.expires_at == clock.time + HOUR
    await store.decide(anew.id, "approve", by=ANN)
    assert await database.write(lambda c: withdraw(c, run, clock.now())) == 0, "only what is open"


@pytest.mark.requirement("approvals.decide")
@pytest.mark.parametrize(
    ("verdict", "options", "told"),
    [
        ("maybe", {}, "use approve or reject"),
        ("reject", {"arguments": {}}, "what is rejected"),
        ("approve", {"arguments": [1]}, "a JSON object"),
        ("approve", {"reason": "x" * 4001}, "at most 4000"),
    ],
)
async def test_what_is_no_decision_is_refused_before_anything_changes(
    database: Database, store: ApprovalStore, ask: Ask, verdict: Any, options: dict[str, Any], told: str
) -> None:
    made = await ask(await add_run(database))
    with pytest.raises(InvalidRequest, match=told) as refused:
        await store.decide(made.id, verdict, by=ANN, **options)
    assert refused.value.details["param"]
    assert (await store.get(made.id)).pending


@pytest.mark.requirement("approvals.tenants")
async def test_the_approvals_of_another_tenant_do_not_exist(
    database: Database, store: ApprovalStore, ask: Ask
) -> None:
    run = await add_run(database)
    made = await ask(run)
    with pytest.raises(NotFound):
        await store.get(made.id, viewer=STRANGER)
    for verdict in ("approve", "reject"):
        with pytest.raises(NotFound):
            await store.decide(made.id, verdict, by=STRANGER)
    assert await store.find(viewer=STRANGER) == []
    assert sum((await store.counts(viewer=STRANGER)).values()) == 0
    with pytest.raises(InvalidRequest, match="no such approval"):
        await store.find(viewer=STRANGER, after=made.id)
    assert (await run_row(database, run)).status == "waiting"
    assert (await store.get(made.id)).pending


@pytest.mark.requirement("approvals.race")
async def test_of_people_who_decide_at_once_in_several_processes_exactly_one_wins(
    database: Database, database_url: str, clock: HandClock, ask: Ask
) -> None:
    others = [Database(database_url) for _ in range(3)]
    stores = [ApprovalStore(one, clock) for one in (database, *others)]
    try:
        for number in range(1, 6):
            run = await add_run(database, number)
            made = await ask(run)

            async def decide(who: int, approval: str = made.id) -> str:
                by = Decider(tenant="acme", name=f"key_{who}")
                try:
                    await stores[who % 4].decide(approval, "approve" if who % 2 else "reject", by=by)
                except Conflict:
                    return ""
                return by.name

            won = [name for name in await asyncio.gather(*map(decide, range(12))) if name]
            assert len(won) == 1
            found = await stores[0].get(made.id)
            assert found.decided_by == won[0]
            assert found.status == ("approved" if int(won[0][4:]) % 2 else "rejected")
            assert (await run_row(database, run)).status == "queued"
    finally:
        for one in others:
            await one.close()


@pytest.mark.requirement("approvals.race")
async def test_the_clock_a_person_and_the_end_of_the_run_never_contradict_each_other(
    database: Database, database_url: str, clock: HandClock, ask: Ask
) -> None:
    other = Database(database_url)
    late = HandClock(NOON + 2 * HOUR)
    try:
        for number in range(1, 9):
            run = await add_run(database, number)
            made = await ask(run, default="approve" if number % 2 else "reject")
            decided, expired = await asyncio.gather(
                ApprovalStore(database, clock).decide(made.id, "approve", by=ANN),
                other.write(lambda c: expire(c, late.now())),
                return_exceptions=True,
            )
            found = await ApprovalStore(database).get(made.id)
            if expired == [run]:
                assert isinstance(decided, Conflict)
                assert found.decided_by == "expiry"
            else:
                assert expired == []
                assert (found.status, found.decided_by) == ("approved", "key_ann")
            assert (await run_row(database, run)).status == "queued"
    finally:
        await other.close()


@pytest.mark.requirement("approvals.expiry")
async def test_who_does_not_answer_in_time_says_no_or_yes_as_the_call_has_it(
    database: Database, clock: HandClock, store: ApprovalStore, ask: Ask
) -> None:
    refused = await ask(await add_run(database, 1))
    passed = await ask(await add_run(database, 2), default="approve")
    later = await ask(await add_run(database, 3), expires_seconds=2 * HOUR)
    ended = await ask(await add_run(database, 4, status="cancelled"))
    assert await database.write(lambda c: expire(c, NOON + HOUR - 1)) == []
    clock.time = NOON + HOUR
    with pytest.raises(Conflict, match=r"ran out at .*by its default it is rejected"):
        await store.decide(refused.id, "approve", by=ANN)
    went_on = await database.write(lambda c: expire(c, clock.now()))
    assert sorted(went_on) == ["run_1", "run_2"]
    assert await database.write(lambda c: expire(c, clock.now())) == []
    told = [await database.read(partial(verdicts, run_id=run)) for run in ("run_1", "run_2", "run_3")]
    assert told[0][refused.key].verdict == "expired"
    assert told[1][passed.key].verdict == "approved"
    assert {verdict.by for found in told for verdict in found.values()} == {"expiry"}
    assert told[2] == {}
    assert [(await run_row(database, f"run_{n}")).status for n in (1, 2, 3, 4)] == [
        "queued", "queued", "waiting", "cancelled",
    ]  # fmt: skip
    assert (await store.get(later.id)).pending
    assert (await store.get(ended.id)).status == "expired"
    with pytest.raises(Conflict, match="expired by expiry"):
        await store.decide(refused.id, "approve", by=ANN)


@pytest.mark.requirement("approvals.expiry")
async def test_many_that_run_out_at_once_are_ended_in_portions(database: Database, ask: Ask) -> None:
    run = await add_run(database)
    for number in range(SWEEP + 5):
        await ask(run, call_id=f"call_{number}")
    await database.write(lambda c: expire(c, NOON + HOUR))
    counts = await ApprovalStore(database).counts()
    assert (counts["pending"], counts["expired"]) == (5, SWEEP)
    await database.write(lambda c: expire(c, NOON + HOUR))
    assert (await ApprovalStore(database).counts())["pending"] == 0


@pytest.fixture
async def several(database: Database, clock: HandClock, store: ApprovalStore, ask: Ask) -> list[str]:
    """Six approvals, oldest first, two of them made at the same moment."""
    made = []
    for number in range(1, 7):
        clock.time += number != 4
        values = {
            "tool": "refund" if number % 2 else "ask_person",
            "agent": "clerk" if number < 4 else "boss",
        }
        made.append((await ask(await add_run(database, number), **values)).id)
    await store.decide(made[0], "approve", by=ANN)
    await store.decide(made[1], "reject", by=ANN)
    return made


@pytest.mark.requirement("approvals.list")
async def test_approvals_are_found_by_what_they_are_and_a_page_at_a_time(
    store: ApprovalStore, several: list[str]
) -> None:
    newest = several[::-1]
    found: list[str] = []
    while page := await store.find(viewer=ANN, after=found[-1] if found else None, limit=2):
        assert len(page) <= 2
        found += [one.id for one in page]
    assert found == newest

    async def ids(**filters: Any) -> list[str]:
        return [one.id for one in await store.find(viewer=ANN, **filters)]

    assert await ids(status="pending") == newest[:4]
    assert await ids(status="rejected") == [several[1]]
    assert await ids(tool="refund") == [several[4], several[2], several[0]]
    assert await ids(agent="boss", tool="refund") == [several[4]]
    assert await ids(conversation="conv_3") == [several[2]]
    assert await ids(run="run_3", status="approved") == []
    expected = {"pending": 4, "approved": 1, "rejected": 1, "expired": 0, "withdrawn": 0}
    assert await store.counts(viewer=ANN) == await store.counts() == expected
    with pytest.raises(InvalidRequest, match="no such approval"):
        await ids(after="appr_nothing")


@pytest.mark.requirement("approvals.decide")
def test_who_decides_is_the_key_and_whom_the_request_names_beside_it() -> None:
    named = Decider.of(Identity(tenant="acme", user="ann", key_id="key_1"))
    assert (named.tenant, named.name) == ("acme", "key_1 (ann)")
    assert Decider.of(Identity(tenant="acme", key_id="key_1")).name == "key_1"
    assert len(Decider.of(Identity(tenant="acme", user="x" * 200, key_id="key_1")).name) == 200
