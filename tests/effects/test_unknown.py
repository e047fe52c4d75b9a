"""A call that began, and of which nobody knows what came: the tool is asked, else a person."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.errors import Conflict, Denied, EffectUnknown, NotFound
from admiralty.runtime.storage.tables import ledger as entries
from admiralty.tools import Reconciled, Tool, ToolContext, tool

from .world import Process, Processes, limit

PRICE = 2_000_000


@tool(effect="write")
async def note(text: str, ctx: ToolContext) -> str:
    """Write something down."""
    ctx.resources.did.append(f"{text} ({ctx.idempotency_key})")
    return f"noted {text}"


def reconciling(answer: Any, *, is_async: bool = True, timeout: float = 30.0, price: str = "0") -> Tool:
    """Return a tool whose reconcile says ``answer``, or raises it."""

    def say(text: str, ctx: ToolContext) -> Any:
        ctx.resources.did.append(f"looked for {text} ({ctx.idempotency_key})")
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Reconciled) and answer.state == "done":
            ctx.session["found"] = True
        return answer

    async def say_later(text: str, ctx: ToolContext) -> Any:
        await asyncio.sleep(0)
        return say(text, ctx)

    async def wait(text: str) -> Reconciled:
        await asyncio.Event().wait()
        return Reconciled.done(text)

    fitting = wait if answer == "hangs" else say_later if is_async else say

    @tool(effect="write", reconcile=fitting, timeout=timeout, price=price)
    async def book(text: str, ctx: ToolContext) -> str:
        """Book something."""
        ctx.resources.did.append(f"booked {text} ({ctx.idempotency_key})")
        return f"booked {text}"

    return book


async def crash(process: Process, name: str, call_id: str = "call_1", /, **arguments: Any) -> None:
    """Execute the run up to the tool's write, and die before anybody is told how it ended."""

    async def nobody(*_: Any, **__: Any) -> None:
        """Say nothing."""

    told = process.settle
    process.settle = nobody  # type: ignore[method-assign]
    await process.call(process.visit(await process.take_over()), name, call_id, **arguments)
    process.settle = told  # type: ignore[method-assign]


@pytest.mark.requirement("effects.reconcile")
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_call_that_reconcile_says_was_done_is_told_and_not_made(
    process: Processes, is_async: bool
) -> None:
    only = process(reconciling(Reconciled.done({"id": 7}), is_async=is_async))
    await crash(only, "book", text="a")
    session: dict[str, Any] = {}
    told = await only.call(only.visit(await only.take_over(), session=session), "book", text="a")
    assert (told.status, told.content, told.ran) == ("ok", '{"id": 7}', True)
    assert only.world.did == ["booked a (run_1:call_1)", "looked for a (run_1:call_1)"]
    row = await only.row()
    assert (row.status, row.resolved_by) == ("finished", "reconcile")
    again: dict[str, Any] = {}
    told = await only.call(only.visit(await only.take_over(), session=again), "book", text="a")
    assert (told.content, again, session) == ('{"id": 7}', {"found": True}, {"found": True})
    assert len(only.world.did) == 2, "what it has said is kept"


@pytest.mark.requirement("effects.reconcile")
async def test_a_call_that_reconcile_says_was_not_done_is_made(process: Processes) -> None:
    only = process(reconciling(Reconciled.not_done()))
    await crash(only, "book", text="a")
    made = await only.call(only.visit(await only.take_over()), "book", text="a")
    assert made.content == "booked a"
    assert only.world.did == [
        "booked a (run_1:call_1)", "looked for a (run_1:call_1)", "booked a (run_1:call_1)",
    ]  # fmt: skip
    row = await only.row()
    assert (row.status, row.resolved_by, row.fence) == ("finished", "tool", 2)


@pytest.mark.requirement("effects.unknown")
@pytest.mark.parametrize(
    "answer", [Reconciled.unknown(), RuntimeError("a bug"), SystemExit(1), "hangs", None, True], ids=repr
)
async def test_a_call_of_which_reconcile_cannot_tell_is_left_to_a_person(
    process: Processes, answer: Any
) -> None:
    only = process(reconciling(answer, timeout=0.05))
    await crash(only, "book", text="a")
    for _ in range(2):
        with pytest.raises(EffectUnknown, match="book was begun, and nobody knows") as unknown:
            await only.call(only.visit(await only.take_over()), "book", text="a")
    row = await only.row()
    assert unknown.value.details == {
        "tool": "book", "call_id": "call_1", "digest": row.digest, "run_id": "run_1",
    }  # fmt: skip
    assert row.status == "unknown"
    assert [did for did in only.world.did if did.startswith("booked")] == ["booked a (run_1:call_1)"]


@pytest.mark.requirement("effects.unknown")
async def test_a_call_of_a_tool_without_reconcile_is_left_to_a_person(process: Processes) -> None:
    only = process(note)
    await crash(only, "note", text="a")
    with pytest.raises(EffectUnknown):
        await only.call(only.visit(await only.take_over()), "note", text="a")
    assert len(only.world.did) == 1


@pytest.mark.requirement("effects.renamed")
async def test_an_equal_call_under_a_new_id_may_be_the_one_that_was_begun(process: Processes) -> None:
    only = process(reconciling(Reconciled.not_done()))
    await crash(only, "book", "old", text="a")
    await only.call(only.visit(await only.take_over()), "book", "new", text="a")
    assert only.world.did[1:] == ["looked for a (run_1:old)", "booked a (run_1:old)"], (
        "the world knows it by the id under which it was begun"
    )
    assert (await only.row()).status == "finished"


@pytest.mark.requirement("effects.price")
async def test_what_was_begun_is_paid_once_though_it_is_looked_for_later(process: Processes) -> None:
    only = process(reconciling(Reconciled.done("it was"), price="0.002"))
    await limit(only, PRICE)
    await crash(only, "book", text="a")
    told = await only.call(only.visit(await only.take_over()), "book", text="a")
    assert (told.content, told.cost) == ("it was", 0)


@pytest.mark.requirement("effects.refused")
async def test_what_was_not_done_and_may_not_be_any_more_leaves_no_row(process: Processes) -> None:
    only = process(reconciling(Reconciled.not_done(), price="0.002"))
    await limit(only, PRICE)
    await crash(only, "book", text="a")
    only.gate.refusal = Denied("No.")
    refused = await only.call(only.visit(await only.take_over()), "book", text="a")
    assert refused.status == "denied"
    assert await only.rows() == []
    only.gate.refusal = None
    refused = await only.call(only.visit(await only.take_over()), "book", text="b")
    assert refused.status == "budget_exceeded", "the crashed call still holds the money"
    assert await only.rows() == []


# -- time-outs ------------------------------------------------------------------------------------


def slow(*, reconcile: Any = None, is_async: bool = True, price: str = "0") -> Tool:
    """Return a tool that is given up after 50 ms."""
    if is_async:

        @tool(effect="write", timeout=0.05, reconcile=reconcile, price=price)
        async def crawl(text: str, ctx: ToolContext) -> str:
            """Write for as long as it takes."""
            ctx.session["begun"] = text
            await asyncio.Event().wait()
            return text

        return crawl

    @tool(effect="write", timeout=0.05, reconcile=reconcile, price=price, name="crawl")
    def block(text: str, ctx: ToolContext) -> str:
        """Write in a thread for as long as it takes."""
        ctx.resources.release.wait(10)
        return text

    return block


def found(answer: Reconciled) -> Any:
    async def look(ctx: ToolContext) -> Reconciled:
        ctx.session["looked"] = True
        return answer

    return look


@pytest.mark.requirement("effects.timeout")
async def test_a_write_that_is_given_up_is_unknown_where_nothing_tells_what_became_of_it(
    process: Processes,
) -> None:
    only = process(slow(price="0.002"))
    with pytest.raises(EffectUnknown, match="crawl was begun"):
        await only.call(only.visit(await only.take_over()), "crawl", text="a")
    assert (await only.row()).status == "unknown"
    costs = await only.database.read(lambda c: c.execute(sa.select(entries.c.cost_nanos)).scalars().all())
    assert costs == [PRICE], "it may have done its work"


@pytest.mark.requirement("effects.timeout")
async def test_a_write_that_is_given_up_is_looked_for(process: Processes) -> None:
    only = process(slow(reconcile=found(Reconciled.done("it was")), price="0.002"))
    session: dict[str, Any] = {}
    outcome = await only.call(only.visit(await only.take_over(), session=session), "crawl", text="a")
    assert (outcome.status, outcome.content, outcome.cost) == ("ok", "it was", PRICE)
    row = await only.row()
    assert (row.status, row.resolved_by) == ("finished", "reconcile")
    assert row.outcome is not None
    assert row.outcome["session"] == {"begun": "a", "looked": True}


@pytest.mark.requirement("effects.timeout")
async def test_a_write_that_was_given_up_before_it_did_anything_is_an_error_that_the_model_reads(
    process: Processes,
) -> None:
    only = process(slow(reconcile=found(Reconciled.not_done()), price="0.002"))
    outcome = await only.call(only.visit(await only.take_over()), "crawl", text="a")
    assert (outcome.status, outcome.cost) == ("error", 0)
    assert outcome.content == "Error: crawl did not answer within 0.05 s."
    assert (await only.row()).status == "finished"


@pytest.mark.requirement("effects.timeout")
async def test_a_thread_that_cannot_be_ended_may_still_do_its_work(process: Processes) -> None:
    only = process(slow(reconcile=found(Reconciled.not_done()), is_async=False))
    try:
        with pytest.raises(EffectUnknown):
            await only.call(only.visit(await only.take_over()), "crawl", text="a")
    finally:
        only.world.release.set()


@pytest.mark.requirement("effects.unknown")
async def test_a_tool_may_say_itself_that_nobody_knows(process: Processes) -> None:
    @tool(effect="write")
    async def post(text: str) -> str:
        """Send something."""
        raise EffectUnknown("The connection was lost after it was sent.")

    only = process(post)
    with pytest.raises(EffectUnknown, match="post was begun"):
        await only.call(only.visit(await only.take_over()), "post", text="a")
    assert (await only.row()).status == "unknown"


@pytest.mark.requirement("effects.unknown")
async def test_a_write_that_is_broken_off_is_unknown(process: Processes) -> None:
    began = asyncio.Event()

    @tool(effect="write")
    async def hold(text: str) -> str:
        """Write for ever."""
        began.set()
        await asyncio.Event().wait()
        return text

    only = process(hold)
    doubted = asyncio.Event()
    settle = only.access.settle

    async def settled(*given: Any, **named: Any) -> None:
        await settle(*given, **named)
        doubted.set()

    only.access.settle = settled  # type: ignore[method-assign]
    calling = asyncio.create_task(only.call(only.visit(await only.take_over()), "hold", text="a"))
    await asyncio.wait_for(began.wait(), 5)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.wait_for(doubted.wait(), 5)
    assert (await only.row()).status == "unknown"


# -- people ---------------------------------------------------------------------------------------


@pytest.mark.requirement("effects.resolve")
async def test_what_a_person_says_was_done_is_told_and_not_made(process: Processes) -> None:
    only = process(note)
    await crash(only, "note", text="a")
    await only.leave("parked")
    row = await only.book.resolve("run_1", "call_1", done=True, result="noted by hand", by="ann")
    assert (row.status, row.resolved_by) == ("finished", "ann")
    told = await only.call(only.visit(await only.take_over()), "note", text="a")
    assert (told.status, told.content, len(only.world.did)) == ("ok", "noted by hand", 1)


@pytest.mark.requirement("effects.resolve")
async def test_what_a_person_says_was_not_done_is_made(process: Processes) -> None:
    only = process(note)
    await crash(only, "note", text="a")
    await only.leave("parked")
    row = await only.book.resolve("run_1", "call_1", done=False, by="ann")
    assert (row.status, row.resolved_by) == ("undone", "ann")
    assert await only.book.unknown() == []
    made = await only.call(only.visit(await only.take_over()), "note", text="a")
    assert (made.content, len(only.world.did)) == ("noted a", 2)
    assert (await only.row()).resolved_by == "tool"


@pytest.mark.requirement("effects.resolve")
async def test_nobody_resolves_what_is_known_what_runs_or_what_is_not_there(process: Processes) -> None:
    only = process(note)
    await crash(only, "note", text="a")
    with pytest.raises(Conflict, match="is being executed"):
        await only.book.resolve("run_1", "call_1", done=True, by="ann")
    await only.leave("parked")
    with pytest.raises(NotFound):
        await only.book.resolve("run_1", "call_2", done=True, by="ann")
    with pytest.raises(NotFound):
        await only.book.resolve("run_1", "call_1", done=True, by="ann", digest="e" * 32)
    await only.book.resolve("run_1", "call_1", done=True, by="ann")
    with pytest.raises(Conflict, match="is known already: ann has said it"):
        await only.book.resolve("run_1", "call_1", done=False, by="bob")


@pytest.mark.requirement("effects.resolve")
async def test_two_calls_of_one_id_are_told_apart_by_their_digest(process: Processes) -> None:
    only = process(note)
    await crash(only, "note", "call_1", text="a")
    await crash(only, "note", "call_1", text="b")
    await only.leave("parked")
    with pytest.raises(Conflict, match="name one by its digest"):
        await only.book.resolve("run_1", "call_1", done=True, by="ann")
    first, second = await only.rows()
    await only.book.resolve("run_1", "call_1", done=True, by="ann", digest=second.digest)
    assert [row.status for row in await only.rows()] == ["begun", "finished"]
    await only.book.resolve("run_1", "call_1", done=True, by="ann")
    assert {row.digest for row in await only.rows() if row.status == "finished"} == {
        first.digest, second.digest,
    }  # fmt: skip


@pytest.mark.requirement("effects.tenant")
async def test_a_tenant_sees_and_resolves_its_own_effects_alone(process: Processes) -> None:
    only = process(note)
    await crash(only, "note", text="a")
    assert await only.book.unknown() == [], "it is being executed"
    await only.leave("parked")
    with pytest.raises(NotFound):
        await only.book.resolve("run_1", "call_1", done=True, by="eve", tenant="evil")
    assert await only.book.of_run("run_1", tenant="evil") == []
    assert await only.book.of_conversation("conv_1", tenant="evil") == []
    assert await only.book.unknown(tenant="evil") == []
    for rows in (
        await only.book.of_run("run_1", tenant="acme"),
        await only.book.of_conversation("conv_1", tenant="acme"),
        await only.book.unknown(tenant="acme"),
        await only.book.unknown(),
    ):
        assert [(row.call_id, row.status) for row in rows] == [("call_1", "begun")]
    resolved = await only.book.resolve("run_1", "call_1", done=True, by="ann", tenant="acme")
    assert resolved.status == "finished"
    assert await only.book.unknown(tenant="acme") == []
