"""What changes the world is done once, however often its run is executed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage

from admiralty.core.errors import Denied, RunLost
from admiralty.core.values import (
    Access,
    CallStatus,
    EffectCall,
    Grant,
    JournalEntry,
    ModelReply,
    Recorded,
    Usage,
)
from admiralty.runtime.storage.tables import holds, steps
from admiralty.runtime.storage.tables import ledger as entries
from admiralty.tools import ToolContext, ToolError, tool

from .world import CALLER, Processes, limit

PRICE = 2_000_000


@tool(effect="write")
async def note(text: str, ctx: ToolContext) -> str:
    """Write something down."""
    if text == "nothing":
        raise ToolError("There is nothing to write down.")
    ctx.resources.did.append(f"{text} ({ctx.idempotency_key})")
    ctx.session["notes"] = [*ctx.session.get("notes", []), text]
    ctx.session.pop("draft", None)
    return f"noted {text}"


@tool(effect="irreversible", price="0.002")
async def wire(amount: int, ctx: ToolContext) -> str:
    """Send money."""
    ctx.resources.did.append(f"wired {amount}")
    return "sent"


@tool(effect="read")
async def look(what: str, ctx: ToolContext) -> str:
    """Look at something."""
    ctx.resources.did.append(f"looked at {what}")
    ctx.session["seen"] = what
    return what


@pytest.mark.requirement("effects.once")
async def test_a_write_that_finished_is_told_again_and_not_repeated(process: Processes) -> None:
    first, second = process(note), process(note)
    before = {"draft": "x", "kept": {"a": [1]}}
    session: dict[str, Any] = dict(before)
    done = await first.call(first.visit(await first.take_over(), session=session), "note", text="a")
    assert session == {"kept": {"a": [1]}, "notes": ["a"]}
    again: dict[str, Any] = dict(before)
    visit = second.visit(await second.take_over(), session=again)
    told = await second.call(visit, "note", text="a")
    assert (told.status, told.content, told.ran, told.cost) == ("ok", "noted a", True, 0)
    assert (told.status, told.content) == (done.status, done.content)
    assert again == session, "what the tool changed in the session is changed again, removals included"
    assert first.world.did == ["a (run_1:call_1)"]
    row = await first.row()
    assert (row.status, row.resolved_by, row.tool, row.effect, row.fence) == (
        "finished", "tool", "note", "write", 2,
    )  # fmt: skip
    assert row.arguments == {"text": "a"}
    assert (row.tenant, row.agent, row.conversation_id) == ("acme", "clerk", "conv_1")
    assert row.finished_at is not None


@pytest.mark.requirement("effects.once")
async def test_what_a_tool_refused_is_told_again_too(process: Processes) -> None:
    only = process(note)
    for _ in range(2):
        outcome = await only.call(only.visit(await only.take_over()), "note", text="nothing")
        assert (outcome.status, outcome.content) == ("error", "Error: There is nothing to write down.")
    kept = (await only.row()).outcome
    assert kept is not None
    assert kept.pop("seconds") >= 0  # type: ignore[attr-defined]
    text = "Error: There is nothing to write down."
    assert kept == {"status": "error", "content": text, "ran": False, "session": {}}


@pytest.mark.requirement("effects.key")
async def test_one_call_id_with_other_arguments_is_another_effect(process: Processes) -> None:
    only = process(note)
    visit = only.visit(await only.take_over())
    await only.call(visit, "note", "call_1", text="a")
    await only.call(visit, "note", "call_1", text="b")
    await only.call(visit, "note", "call_2", text="a")
    await only.call(visit, "note", "call_1", text="a")
    assert [did.partition(" ")[0] for did in only.world.did] == ["a", "b", "a"]
    assert sorted((row.call_id, row.arguments["text"]) for row in await only.rows()) == [
        ("call_1", "a"), ("call_1", "b"), ("call_2", "a"),
    ]  # fmt: skip


@pytest.mark.requirement("effects.renamed")
async def test_a_graph_that_asks_under_a_new_id_is_told_of_each_equal_call_once(process: Processes) -> None:
    only = process(note)
    visit = only.visit(await only.take_over())
    await only.call(visit, "note", "old_1", text="a")
    await only.call(visit, "note", "old_2", text="a")
    visit = only.visit(await only.take_over())
    for call_id in ("new_1", "new_2", "new_3"):
        assert (await only.call(visit, "note", call_id, text="a")).content == "noted a"
    assert len(only.world.did) == 3, "two were done before; the third is new"
    assert sorted(row.call_id for row in await only.rows()) == ["new_1", "new_2", "new_3"]
    visit = only.visit(await only.take_over())
    for call_id in ("new_3", "newer", "old_2"):
        await only.call(visit, "note", call_id, text="a")
    assert len(only.world.did) == 3


@pytest.mark.requirement("effects.renamed")
async def test_another_agents_equal_call_is_none_of_mine(process: Processes) -> None:
    only = process(note)
    await only.call(only.visit(await only.take_over()), "note", "call_1", text="a")
    visit = only.visit(await only.take_over())
    caller = replace(visit.visit.caller, agent="other")
    visit.visit = replace(visit.visit, caller=caller)
    await only.call(visit, "note", "call_2", text="a")
    assert len(only.world.did) == 2


@pytest.mark.requirement("effects.price")
async def test_a_write_that_is_told_again_is_not_paid_again(process: Processes) -> None:
    only = process(wire)
    await limit(only, PRICE)
    paid = await only.call(only.visit(await only.take_over()), "wire", amount=1)
    told = await only.call(only.visit(await only.take_over()), "wire", amount=1)
    assert (paid.cost, told.cost, told.content) == (PRICE, 0, "sent")
    costs = await only.database.read(lambda c: c.execute(sa.select(entries.c.cost_nanos)).scalars().all())
    assert costs == [PRICE]
    assert await only.database.read(lambda c: c.execute(sa.select(holds)).all()) == []


@pytest.mark.requirement("effects.refused")
async def test_a_call_that_the_policy_or_a_budget_refuses_leaves_no_row(process: Processes) -> None:
    only = process(wire)
    await limit(only, PRICE - 1)
    visit = only.visit(await only.take_over())
    assert (await only.call(visit, "wire", amount=1)).status == "budget_exceeded"
    only.gate.refusal = Denied("No.")
    assert (await only.call(visit, "wire", "call_2", amount=1)).status == "denied"
    assert await only.rows() == []
    assert only.world.did == []


@pytest.mark.requirement("effects.once")
async def test_what_was_done_is_told_though_the_policy_has_changed_since(process: Processes) -> None:
    only = process(note)
    await only.call(only.visit(await only.take_over()), "note", text="a")
    only.gate.refusal = Denied("No.")
    told = await only.call(only.visit(await only.take_over()), "note", text="a")
    assert told.content == "noted a"


@pytest.mark.requirement("effects.reads")
async def test_a_read_that_is_recorded_is_not_made_again_and_has_no_row(process: Processes) -> None:
    only = process(look)
    visit = only.visit(await only.take_over())
    await only.call(visit, "look", what="x")
    recorded = Recorded(outcomes=dict(visit.noted))
    session: dict[str, Any] = {}
    told = await only.call(only.visit(2, recorded=recorded, session=session), "look", what="x")
    assert (told.content, session) == ("x", {"seen": "x"})
    assert only.world.did == ["looked at x"]
    assert await only.rows() == []


@pytest.mark.requirement("effects.fence")
async def test_who_has_lost_the_run_begins_nothing(process: Processes) -> None:
    zombie, heir = process(note), process(note)
    old = zombie.visit(await zombie.take_over())
    await heir.take_over()
    with pytest.raises(RunLost):
        await zombie.call(old, "note", text="a")
    await heir.leave("cancelled")
    with pytest.raises(RunLost):
        await heir.call(heir.visit(2), "note", text="a")
    assert await heir.rows() == []
    assert heir.world.did == []


def wish(fence: int, call_id: str = "call_1", *, resolved: Any = "", journal: Any = ()) -> Access:
    return Access(
        id=f"access_{fence}_{call_id}",
        caller=replace(CALLER, fence=fence),
        action="tool:call",
        resource="note",
        attributes={"effect": "write"},
        effect=EffectCall(
            call_id=call_id,
            digest="d" * 32,
            arguments={"x": float("nan")},
            resolved=resolved,
            journal=journal,
        ),
    )


DONE = {"status": "ok", "content": "done", "ran": True, "session": {}}


@pytest.mark.requirement("effects.race")
async def test_of_two_processes_that_begin_the_same_call_at_once_one_makes_it(process: Processes) -> None:
    one, other = process(), process()
    fence = await one.take_over()
    for number in range(20):
        begun = await asyncio.gather(
            one.book.begin(wish(fence, f"call_{number}")), other.book.begin(wish(fence, f"call_{number}"))
        )
        assert sorted(each.state for each in begun) == ["begun", "unknown"]
    fence = await one.take_over()
    for number in range(20):
        again = wish(fence, f"call_{number}", resolved="not_done")
        begun = await asyncio.gather(one.book.begin(again), other.book.begin(again))
        assert sorted(each.state for each in begun) == ["begun", "unknown"]


@pytest.mark.requirement("effects.race")
async def test_an_equal_call_is_taken_by_one_of_two_that_ask_at_once(process: Processes) -> None:
    one, other = process(), process()
    first = wish(await one.take_over(), "old")
    await one.book.begin(first)
    await one.book.finish(first, DONE, by="tool")
    fence = await one.take_over()
    begun = await asyncio.gather(one.book.begin(wish(fence, "a")), other.book.begin(wish(fence, "b")))
    assert sorted(each.state for each in begun) == ["begun", "finished"]


@pytest.mark.requirement("effects.late")
async def test_what_a_zombie_has_done_is_taken_from_it_until_the_call_is_begun_anew(
    process: Processes,
) -> None:
    zombie, heir = process(), process()
    old = wish(await zombie.take_over())
    await zombie.book.begin(old)
    new = wish(await heir.take_over())
    assert (await heir.book.recall(new)).state == "unknown"  # type: ignore[union-attr]
    assert await zombie.book.finish(old, DONE, by="tool")
    known = await heir.book.begin(wish(2, resolved="not_done"))
    assert (known.state, known.outcome) == ("finished", DONE), "reconcile had looked a moment too early"


@pytest.mark.requirement("effects.late")
async def test_what_a_zombie_says_of_a_call_that_was_begun_anew_or_resolved_is_not_taken(
    process: Processes,
) -> None:
    zombie, heir = process(), process()
    old = wish(await zombie.take_over())
    await zombie.book.begin(old)
    new = wish(await heir.take_over(), resolved="not_done")
    assert (await heir.book.begin(new)).state == "begun"
    assert not await zombie.book.finish(old, DONE, by="tool")
    await zombie.book.doubt(old)
    await zombie.book.forget(old)
    assert (await heir.row()).status == "begun"
    await heir.leave()
    await heir.book.resolve("run_1", "call_1", done=True, result="by hand", by="ann")
    assert not await heir.book.finish(new, DONE, by="tool")
    assert not await zombie.book.finish(old, DONE, by="tool")
    outcome = (await heir.row()).outcome
    assert outcome is not None
    assert outcome["content"] == "by hand"


def entry(key: str) -> JournalEntry:
    reply = ModelReply(
        message=AIMessage("x"), model="a:b", tier="small", usage=Usage(), cost=None, seconds=0.0
    )
    return JournalEntry(key=key, session={}, reply=reply)


@pytest.mark.requirement("effects.journal")
async def test_replies_that_nobody_has_kept_yet_are_kept_with_the_first_effect_or_not_at_all(
    process: Processes,
) -> None:
    only = process()

    async def kept() -> list[str]:
        found = sa.select(steps.c.key).order_by(steps.c.key)
        return list(await only.database.read(lambda c: c.execute(found).scalars().all()))

    await only.take_over()
    with pytest.raises(RunLost):
        await only.book.begin(wish(9, journal=(entry("0.1"),)))
    assert (await kept(), await only.rows()) == ([], [])
    await only.book.begin(wish(1, journal=(entry("0.1"), entry("0.2"))))
    assert await kept() == ["0.1", "0.2"]
    await only.take_over()
    await only.book.recall(wish(2, journal=(entry("0.2"), entry("0.3"))))
    assert await kept() == ["0.1", "0.2", "0.3"]


@pytest.mark.requirement("effects.once")
async def test_a_call_of_no_run_that_is_kept_is_not_checked(process: Processes) -> None:
    only = process(note)
    assert (await only.call(only.visit(0), "note", text="a")).content == "noted a"


@pytest.mark.requirement("effects.key")
async def test_an_id_that_no_database_would_take_is_kept_all_the_same(process: Processes) -> None:
    only = process(note)
    visit = only.visit(await only.take_over())
    for call_id in ("x" * 5000, "a\0b\ud800"):
        await only.call(visit, "note", call_id, text=call_id[:3])
        await only.call(visit, "note", call_id, text=call_id[:3])
    assert len(only.world.did) == len(await only.rows()) == 2


@pytest.mark.requirement("effects.refused")
async def test_a_call_that_is_broken_off_while_it_is_asked_for_leaves_no_row(process: Processes) -> None:
    only = process(note)
    visit = only.visit(await only.take_over())
    began, go = asyncio.Event(), asyncio.Event()
    authorize: Callable[[Access], Any] = only.access.authorize

    async def slowly(access: Access) -> Grant:
        grant: Grant = await authorize(access)
        began.set()
        await go.wait()
        return grant

    only.authorize = slowly  # type: ignore[method-assign]
    given_back = asyncio.Event()
    settle = only.access.settle

    async def settled(grant: Grant, *, status: CallStatus, seconds: float, outcome: Any = None) -> None:
        await settle(grant, status=status, seconds=seconds, outcome=outcome)
        given_back.set()

    only.settle = settled  # type: ignore[method-assign]
    calling = asyncio.create_task(only.call(visit, "note", text="a"))
    await asyncio.wait_for(began.wait(), 5)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert (await only.row()).status == "begun"
    go.set()
    await asyncio.wait_for(given_back.wait(), 5)
    assert await only.rows() == []
    assert only.world.did == []
