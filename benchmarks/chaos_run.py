"""Builds the scene of a chaos run: database, outside, workers, clients, people; and audits it at the end."""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import sqlalchemy as sa

from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.keys import ApiKeys
from admiralty.runtime.storage.tables import holds, runs
from benchmarks.chaos_audit import Asked, Figures, audit
from benchmarks.chaos_client import LIMITS, Client
from benchmarks.chaos_fleet import CONFIG, open_stamps
from benchmarks.chaos_people import REJECTED, People
from benchmarks.chaos_points import Points
from benchmarks.chaos_shop import ChangeBook, dialogue, make_shop, order_of
from benchmarks.chaos_worker import Plan
from benchmarks.chaos_workers import Workers, running
from benchmarks.chaos_world import World
from benchmarks.processes import free_port

QUIET_SECONDS: Final = 60.0
"""What runs and holds may take to end after the last client has gone."""

TOOLS: Final = ("book", "stamp", "wire", "refund", "look")

LEASE_SECONDS: Final = 2.0

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Scene:
    """A running fleet that may be broken, and everything around it."""

    fleet: str
    folder: Path
    database: Database
    workers: Workers
    points: Points
    clients: Mapping[str, Client]
    """By tenant; ``roomy`` has money enough."""
    people: People
    world: World
    stamps: sa.Engine
    book: ChangeBook | None = None
    asked: list[Asked] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    async def say(
        self,
        tool: str,
        *,
        conversation: str | None = None,
        tenant: str = "roomy",
        rejected: bool = False,
        may_fail: bool = False,
        **body: Any,
    ) -> Asked:
        """Have a tool of the till used once, and wait for the answer."""
        client = self.clients[tenant]
        conversation = conversation or await client.open()
        name = f"M-{conversation[-8:]}-{random.getrandbits(32):08x}"

        def mark(attempt: int) -> str:
            return f"{name}-{attempt}{REJECTED if rejected else ''}"

        turn = await client.say(
            conversation, lambda attempt: f"Please {tool} {mark(attempt)} for me.", **body
        )
        wanted: dict[str, Any] = {}
        for attempt, sent in enumerate(turn.sent):
            acts = tool != "look" and not rejected
            wanted[mark(attempt)] = "once" if acts and sent == turn.message else "never"
            if acts and sent != turn.message:
                del wanted[mark(attempt)]  # whether it was heard nobody knows: at most once
        one = Asked(turn=turn, tenant=tenant, effects=wanted, may_fail=may_fail)
        self.asked.append(one)
        return one

    async def serve_customer(self, number: int, tenant: str = "roomy", *, may_fail: bool = False) -> None:
        """Lead one conversation of the support fleet, in which an order is changed once."""
        client = self.clients[tenant]
        conversation = await client.open()
        for place, said in enumerate(dialogue(number)):
            # A message that may have been heard is said again, and then it may be answered twice, in order.
            turn = await client.say(
                conversation,
                lambda _, said=said: said,  # type: ignore[misc]
                multitask_strategy="enqueue",
            )
            wanted: dict[str, Any] = {order_of(number): "once"} if place == 1 and not may_fail else {}
            self.asked.append(Asked(turn=turn, tenant=tenant, effects=wanted, may_fail=may_fail))

    async def quiet(self) -> None:
        """Wait until nothing is open and no money is held, or the time is up."""
        until = time.monotonic() + QUIET_SECONDS
        alive = sa.select(sa.func.count()).where(
            runs.c.status.in_(["queued", "running", "waiting", "parked"])
        )
        held = sa.select(sa.func.count()).select_from(holds)
        while time.monotonic() < until:
            with suppress(Exception):  # a database that has just come back
                counts = await self.database.read(
                    lambda c: (c.execute(alive).scalar_one(), c.execute(held).scalar_one())
                )
                if counts == (0, 0):
                    return
            await asyncio.sleep(0.1)

    async def figures(self) -> Figures:
        """Wait until all is quiet, and compare everything."""
        await self.quiet()
        billed = self.world.asked_by_tenant() if self.fleet == "till" else None
        found = await audit(self.database, self.asked, self.took_place(), billed)
        found.counts["asked_again"] = self.world.asked_again()
        found.counts["hits"] = len(self.points.hits())
        found.counts["seconds"] = round(time.monotonic() - self.began)
        for counts in (self.workers.counts, self.people.counts):
            found.counts.update(counts)
        return found

    def took_place(self) -> dict[str, int]:
        """Return how often each effect took place, by mark."""
        if self.book is not None:
            return dict(self.book.counts())
        found: dict[str, int] = {}
        for done in self.world.done():
            found[done.mark] = found.get(done.mark, 0) + 1
        with self.stamps.connect() as connection:
            for mark, count in connection.execute(
                sa.text("SELECT mark, count(*) FROM chaos_stamps GROUP BY mark")
            ):
                found[mark] = found.get(mark, 0) + count
        return found

    def was_done(self, arguments: Mapping[str, Any]) -> bool:
        """Look whether a call took place, as a person does."""
        if self.book is not None:
            return self.book.was_done(arguments)
        return self.took_place().get(str(arguments.get("mark")), 0) > 0

    def log(self) -> str:
        """The end of what the workers wrote."""
        logs = sorted(self.folder.glob("worker-*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in logs)


@asynccontextmanager
async def open_scene(
    folder: Path,
    *,
    fleet: str = "till",
    database_url: str | None = None,
    workers: int = 2,
    budgets: Mapping[str, str] = {"roomy": "1000"},
    customers: int = 0,
    token_seconds: float = 0.0,
    lease: float = LEASE_SECONDS,
    stop_seconds: float | None = None,
    clocks_ahead: Sequence[float] = (),
    patience: float = 120.0,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[Scene]:
    """Start a fleet in so many processes, on SQLite unless a database is named.

    ``budgets``: the tenants, each with what it may spend in dollars. ``customers``: of the support fleet's
    shop. ``stop_seconds``: how long a worker stands still that a point has stopped (by default, twice the
    lease). ``clocks_ahead``: by how much the first workers' clocks are wrong.
    """
    url = database_url or f"sqlite:///{folder / 'chaos.sqlite3'}"
    async with AsyncExitStack() as stack:
        database = Database(url)
        stack.push_async_callback(database.close)
        stamps = open_stamps(url)
        stack.callback(stamps.dispose)
        with stamps.connect() as connection, connection.begin():
            connection.execute(sa.text("CREATE TABLE chaos_stamps (key TEXT, mark TEXT)"))
        world = World(folder / "world.sqlite3")
        home, data = folder / "home", folder / "data"
        book = None
        if fleet == "support":
            make_shop(data, customers)
            book = ChangeBook(data, home / "fleets" / "support")
        else:
            data.mkdir()
            (data / CONFIG).write_text(
                json.dumps({"world": str(folder / "world.sqlite3"), "database_url": url})
            )
        given: dict[str, Any] = {
            "home": str(home),
            "data": str(data),
            "database_url": url,
            "run_lease_seconds": lease,
            "hold_lease_seconds": max(1.0, 1.5 * lease),
            "run_retry_seconds": 0.1,
            **(settings or {}),
        }
        ahead = [*clocks_ahead, *([0.0] * workers)]
        plans = [
            Plan(
                fleet=fleet,
                port=free_port(),
                folder=folder,
                settings=given,
                token_seconds=token_seconds,
                clock_ahead=ahead[number],
            )
            for number in range(workers)
        ]
        keys = await _keys(database, budgets)
        running_workers = await stack.enter_async_context(
            running(plans, stop_seconds=stop_seconds or 2 * lease)
        )
        http = await stack.enter_async_context(httpx.AsyncClient(limits=LIMITS))
        clients = {
            tenant: Client(http, running_workers.urls, key, patience=patience, say=logger.info)
            for tenant, key in keys.items()
        }
        scene = Scene(
            fleet=fleet,
            folder=folder,
            database=database,
            workers=running_workers,
            points=Points(folder),
            clients=clients,
            people=People(
                database=database,
                tenants=clients,
                was_done=lambda arguments: scene.was_done(arguments),
                may_look=lambda: not running_workers.stopped,
            ),
            world=world,
            stamps=stamps,
            book=book,
        )
        helping = asyncio.create_task(scene.people.work())
        try:
            yield scene
        finally:
            helping.cancel()
            await asyncio.gather(helping, return_exceptions=True)


async def _keys(database: Database, budgets: Mapping[str, str]) -> dict[str, str]:
    """Make an admin's key and a budget for each tenant; return the keys."""
    keys, store = ApiKeys(database), Budgets(database)
    made = {}
    for tenant, limit in budgets.items():
        secret, _ = await keys.create(tenant=tenant, admin=True)
        made[tenant] = secret
        await store.create(scope=f"tenant:{tenant}", limit_usd=limit, window="total")
    return made
