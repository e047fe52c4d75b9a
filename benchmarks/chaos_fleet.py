"""The fleet of the chaos runs: a front desk that hands over, and a clerk with tools that must not act twice.

`book` can be asked whether it was done; `stamp` completes its effect in its own transaction in the runtime's
database; `wire` knows neither, so that a person must look; `refund` wants a person's leave first. None would
notice being called twice. `data` names the file of the outside (`benchmarks.chaos_world`).
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from admiralty.agents import Agent, Fleet, FleetContext
from admiralty.tools import Reconciled, ToolContext, ToolError, tool
from benchmarks.chaos_world import Refused, World

CONFIG = "chaos.json"
"""In the fleet's data folder: where the outside is, and the runtime's database."""

ASKED = re.compile(r"\b(book|stamp|wire|refund|look) (M-[\w-]+)")
"""What a message asks for: a tool and its mark."""

TOOL_SECONDS = 0.004
"""How long a tool takes at least, so that a random moment may fall into it."""

TOOL_PRICE = "0.002"
"""Of `book`, in dollars."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the tools work with."""

    world: World
    database: sa.Engine


def open_desk(context: FleetContext) -> Desk:
    """Open the outside and the runtime's own database."""
    assert context.data is not None
    config = json.loads((context.data / CONFIG).read_text())
    return Desk(world=World(Path(config["world"])), database=open_stamps(config["database_url"]))


def open_stamps(url: str) -> sa.Engine:
    """Open the runtime's database for tools of ours, with their table."""
    url = url.replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url, pool_pre_ping=True, isolation_level=None)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _plain(connection: object, _: object) -> None:
            connection.isolation_level = None  # type: ignore[attr-defined]  # we say BEGIN ourselves
            connection.execute("PRAGMA busy_timeout = 20000")  # type: ignore[attr-defined]
            connection.execute("PRAGMA synchronous = NORMAL")  # type: ignore[attr-defined]

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _do(name: str, mark: str, ctx: ToolContext) -> str:
    time.sleep(TOOL_SECONDS)
    try:
        ctx.resources.world.do(key=ctx.idempotency_key, tool=name, mark=mark, fence=ctx.caller.fence)
    except Refused as error:
        raise ToolError(str(error)) from error
    return f"{name} {mark} done"


def _look_up(name: str, mark: str, ctx: ToolContext) -> Reconciled:
    if ctx.resources.world.give_up(ctx.idempotency_key, ctx.caller.fence):
        return Reconciled.done(f"{name} {mark} done")
    return Reconciled.not_done()


def _book_done(mark: str, ctx: ToolContext) -> Reconciled:
    return _look_up("book", mark, ctx)


def _refund_done(mark: str, ctx: ToolContext) -> Reconciled:
    return _look_up("refund", mark, ctx)


@tool(effect="write", reconcile=_book_done, price=TOOL_PRICE, timeout=4)
def book(mark: str, ctx: ToolContext) -> str:
    """Book what a message asks for.

    Args:
        mark: The message's mark.
    """
    return _do("book", mark, ctx)


@tool(effect="write", reconcile="outbox")
def stamp(mark: str, ctx: ToolContext) -> str:
    """Stamp what a message asks for, in the runtime's own database.

    Args:
        mark: The message's mark.
    """
    result = f"stamp {mark} done"
    with ctx.resources.database.connect() as connection, connection.begin():
        named = {"key": ctx.idempotency_key, "mark": mark}
        connection.execute(sa.text("INSERT INTO chaos_stamps (key, mark) VALUES (:key, :mark)"), named)
        time.sleep(TOOL_SECONDS)
        ctx.effect.complete(connection, result)
    return result


@tool(effect="irreversible", timeout=4)
def wire(mark: str, ctx: ToolContext) -> str:
    """Wire what a message asks for, to a bank that can be asked nothing.

    Args:
        mark: The message's mark.
    """
    return _do("wire", mark, ctx)


@tool(effect="write", timeout=4, reconcile=_refund_done, approval="Refunds are for a person to allow.")
def refund(mark: str, ctx: ToolContext) -> str:
    """Refund what a message asks for, once a person has allowed it.

    Args:
        mark: The message's mark.
    """
    return _do("refund", mark, ctx)


@tool(effect="read")
def look(mark: str) -> str:
    """Look at what a message asks for.

    Args:
        mark: The message's mark.
    """
    return f"look {mark} done"


front = Agent(
    "front",
    prompt="Hand over to the clerk.",
    description="The front desk",
    handoffs=["clerk"],
    tier="small",
    placement="inline",
)
clerk = Agent(
    "clerk",
    prompt="Do what is asked, once.",
    description="Does things",
    tools=[book, stamp, wire, refund, look],
    tier="small",
    placement="inline",
)
fleet = Fleet(
    "till", agents=[front, clerk], entry="front", setup=open_desk, description="A desk to be broken"
)
