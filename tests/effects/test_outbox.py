"""A tool's own write and its effect's row are one transaction, where they share the database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.errors import ConfigurationError, EffectUnknown, RunLost
from admiralty.runtime.storage.database import database_url as as_url
from admiralty.tools import OUTBOX, ToolContext, tool

from .world import CALLER, Process, Processes, World

ROOT = str(Path(__file__).resolve().parents[2])
HOW = ["sqlalchemy", "driver"]


class Shop:
    """A tool's own tables, in the runtime's database."""

    def __init__(self, url: str) -> None:
        self.url = as_url(url)
        self.engine = sa.create_engine(self.url)
        with self.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS bookings (text VARCHAR(50))"))

    def bookings(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text("SELECT text FROM bookings")).scalars())

    def driver(self) -> Any:
        """Open a connection of the driver's own."""
        if self.url.get_backend_name() == "sqlite":
            return sqlite3.connect(str(self.url.database))
        import psycopg

        return psycopg.connect(self.url.set(drivername="postgresql").render_as_string(hide_password=False))

    def insert(self, connection: Any, text: str) -> None:
        if isinstance(connection, sa.Connection):
            connection.execute(sa.text("INSERT INTO bookings VALUES (:text)"), {"text": text})
        else:
            mark = "?" if isinstance(connection, sqlite3.Connection) else "%s"
            connection.execute(f"INSERT INTO bookings VALUES ({mark})", (text,))


@tool(effect="write", reconcile=OUTBOX)
def book(text: str, ctx: ToolContext, how: str = "sqlalchemy") -> str:
    """Book something, in one transaction with the word that it is done."""
    shop, then = ctx.resources.shop, ctx.resources.then
    ctx.session["booked"] = text
    result = f"booked {text}"
    if how == "sqlalchemy":
        with shop.engine.begin() as connection:
            shop.insert(connection, text)
            ctx.effect.complete(connection, result)
            if then == "fail":
                raise RuntimeError("a bug")
            if then == "die":
                os._exit(9)
    else:
        connection = shop.driver()
        try:
            shop.insert(connection, text)
            ctx.effect.complete(connection, result)
            if then == "fail":
                raise RuntimeError("a bug")
            connection.commit()
        finally:
            connection.close()
    if then == "die later":
        os._exit(9)
    return result


@tool(effect="write")
def plainly(text: str, ctx: ToolContext) -> str:
    """Book something, without a word."""
    shop: Shop = ctx.resources.shop
    with shop.engine.begin() as connection:
        shop.insert(connection, text)
    if ctx.resources.then == "die later":
        os._exit(9)
    return f"booked {text}"


@pytest.fixture
def shop(process: Processes, database_url: str) -> Shop:
    process(book)  # migrates the database
    return Shop(database_url)


def open_process(process: Processes, shop: Shop, *tools: Any) -> Process:
    made = process(*(tools or (book,)))
    made.world.shop = shop
    return made


async def die(url: str, name: str, then: str) -> None:
    """Execute the run in a process of its own, which dies in its tool."""
    code = (
        "import asyncio, sys; from tests.effects.test_outbox import run_in_child; "
        "asyncio.run(run_in_child(*sys.argv[1:]))"
    )
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, url, name, then],
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
        check=False,
    )
    assert child.returncode == 9


async def run_in_child(url: str, name: str, then: str) -> None:
    """Call a tool that ends this process."""
    world = World()
    world.shop, world.then = Shop(url), then
    process = Process(url, "child", world, book, plainly)
    await process.call(process.visit(await process.take_over()), name, text="a")


@pytest.mark.requirement("effects.outbox")
@pytest.mark.parametrize("how", HOW)
async def test_the_tools_write_and_its_effect_are_committed_together(
    process: Processes, shop: Shop, how: str
) -> None:
    only = open_process(process, shop)
    outcome = await only.call(only.visit(await only.take_over()), "book", text="a", how=how)
    assert (outcome.status, outcome.content, shop.bookings()) == ("ok", "booked a", ["a"])
    row = await only.row()
    assert (row.status, row.resolved_by) == ("finished", "outbox"), "settling afterwards changes nothing"
    session: dict[str, Any] = {}
    told = await only.call(only.visit(await only.take_over(), session=session), "book", text="a", how=how)
    assert (told.content, told.ran, session) == ("booked a", True, {"booked": "a"})
    assert shop.bookings() == ["a"]


@pytest.mark.requirement("effects.outbox")
@pytest.mark.parametrize("how", HOW)
async def test_the_tools_write_and_its_effect_are_rolled_back_together(
    process: Processes, shop: Shop, how: str
) -> None:
    only = open_process(process, shop)
    only.world.then = "fail"
    outcome = await only.call(only.visit(await only.take_over()), "book", text="a", how=how)
    assert (outcome.status, shop.bookings()) == ("error", [])
    row = await only.row()
    assert (row.status, row.resolved_by) == ("finished", "tool")
    assert row.outcome is not None
    assert row.outcome["status"] == "error"


@pytest.mark.requirement("effects.outbox")
async def test_a_process_that_dies_after_the_commit_has_done_it(
    process: Processes, shop: Shop, database_url: str
) -> None:
    await die(database_url, "book", "die later")
    only = open_process(process, shop)
    assert ((await only.row()).status, shop.bookings()) == ("finished", ["a"])
    visit = only.visit(await only.take_over())
    told = await only.call(visit, "book", text="a")
    assert (told.content, shop.bookings()) == ("booked a", ["a"])


@pytest.mark.requirement("effects.outbox")
async def test_a_process_that_dies_before_the_commit_has_not(
    process: Processes, shop: Shop, database_url: str
) -> None:
    await die(database_url, "book", "die")
    only = open_process(process, shop)
    assert ((await only.row()).status, shop.bookings()) == ("begun", [])
    made = await only.call(only.visit(await only.take_over()), "book", text="a")
    assert (made.content, shop.bookings()) == ("booked a", ["a"])
    assert (await only.row()).resolved_by == "outbox"


@pytest.mark.requirement("effects.unknown")
async def test_without_an_outbox_nobody_knows_what_a_process_has_done_that_died(
    process: Processes, shop: Shop, database_url: str
) -> None:
    await die(database_url, "plainly", "die later")
    only = open_process(process, shop, plainly)
    assert ((await only.row()).status, shop.bookings()) == ("begun", ["a"])
    with pytest.raises(EffectUnknown):
        await only.call(only.visit(await only.take_over()), "plainly", text="a")
    assert shop.bookings() == ["a"]


@pytest.mark.requirement("effects.outbox")
@pytest.mark.parametrize("how", HOW)
async def test_what_was_not_completed_was_not_done_and_is_done_now(
    process: Processes, shop: Shop, how: str
) -> None:
    zombie, heir = open_process(process, shop), open_process(process, shop)
    old = zombie.visit(await zombie.take_over())
    waiting, go = asyncio.Event(), asyncio.Event()
    authorize = zombie.authorize

    async def slowly(access: Any) -> Any:
        grant = await authorize(access)
        waiting.set()
        await go.wait()
        return grant

    zombie.authorize = slowly  # type: ignore[method-assign]
    late = asyncio.create_task(zombie.call(old, "book", text="a", how=how))
    await asyncio.wait_for(waiting.wait(), 5)
    made = await heir.call(heir.visit(await heir.take_over()), "book", text="a", how=how)
    assert (made.content, shop.bookings()) == ("booked a", ["a"])
    go.set()
    with pytest.raises(RunLost):
        await asyncio.wait_for(late, 5)
    assert shop.bookings() == ["a"], "the zombie's transaction was rolled back"
    assert (await heir.row()).fence == 2


@pytest.mark.requirement("effects.outbox")
async def test_a_zombie_completes_nothing_that_another_has_begun(process: Processes, shop: Shop) -> None:
    handles: list[ToolContext] = []

    @tool(effect="write", reconcile=OUTBOX, timeout=5)
    async def linger(text: str, ctx: ToolContext) -> str:
        """Book something, some time."""
        handles.append(ctx)
        await asyncio.Event().wait()
        return text

    async def hold() -> asyncio.Task[Any]:
        process_of = open_process(process, shop, linger)
        began = len(handles)
        visit = process_of.visit(await process_of.take_over())
        calling = asyncio.create_task(process_of.call(visit, "linger", text="a"))
        async with asyncio.timeout(5):
            while len(handles) == began:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        return calling

    calling = [await hold(), await hold()]
    zombie, heir = handles
    with shop.engine.connect() as connection, pytest.raises(RunLost):
        zombie.effect.complete(connection, "late")
    with shop.engine.begin() as connection:
        heir.effect.complete(connection, "in time")
    for task in calling:
        task.cancel()
    await asyncio.gather(*calling, return_exceptions=True)


@pytest.mark.requirement("effects.outbox", "effects.timeout")
@pytest.mark.parametrize("committed", [True, False])
async def test_a_tool_that_is_given_up_has_done_what_it_completed(
    process: Processes, shop: Shop, committed: bool
) -> None:
    @tool(effect="write", reconcile=OUTBOX, timeout=0.2)
    async def crawl(text: str, ctx: ToolContext) -> str:
        """Book something, and answer too late."""
        if committed:
            with ctx.resources.shop.engine.begin() as connection:
                ctx.resources.shop.insert(connection, text)
                ctx.effect.complete(connection, f"booked {text}")
        try:
            await asyncio.Event().wait()
        finally:
            if not committed:
                finishing.append(ctx)
        return text

    finishing: list[ToolContext] = []
    only = open_process(process, shop, crawl)
    outcome = await only.call(only.visit(await only.take_over()), "crawl", text="a")
    assert (outcome.status, shop.bookings()) == (("ok", ["a"]) if committed else ("error", []))
    for ctx in finishing:
        with shop.engine.connect() as connection:
            shop.insert(connection, "late")
            with pytest.raises(RunLost):
                ctx.effect.complete(connection, "late")
    assert shop.bookings() == (["a"] if committed else [])


@pytest.mark.requirement("effects.outbox")
async def test_a_connection_that_would_commit_at_once_is_refused(process: Processes, shop: Shop) -> None:
    made: list[Callable[[], Any]] = [
        lambda: shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT"),
        lambda: "no connection",
    ]
    if shop.url.get_backend_name() == "sqlite":
        made.append(lambda: sqlite3.connect(str(shop.url.database), isolation_level=None))
    else:
        import psycopg

        address = shop.url.set(drivername="postgresql").render_as_string(hide_password=False)
        made.append(lambda: psycopg.connect(address, autocommit=True))

    @tool(effect="write", reconcile=OUTBOX)
    async def misuse(number: int, ctx: ToolContext) -> str:
        """Complete outside of a transaction."""
        connection = made[number]()
        try:
            with pytest.raises(ConfigurationError, match=r"ctx\.effect\.complete was given"):
                ctx.effect.complete(connection, "x")
        finally:
            if number != 1:
                connection.close()
        return "refused"

    only = open_process(process, shop, misuse)
    visit = only.visit(await only.take_over())
    for number in range(len(made)):
        assert (await only.call(visit, "misuse", f"call_{number}", number=number)).content == "refused"


@pytest.mark.requirement("effects.outbox")
def test_a_tool_by_itself_completes_nothing() -> None:
    @tool(effect="write", reconcile=OUTBOX)
    def alone(ctx: ToolContext) -> str:
        """Complete what nobody keeps."""
        ctx.effect.complete(None, "x")
        return "done"

    assert alone(ctx=ToolContext(caller=CALLER, call_id="call_1", turn=1, user_message="")) == "done"
