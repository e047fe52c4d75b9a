"""Callers who go in the worst moment: their money is granted, but they have not heard of it yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.clock import SystemClock
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import holds

from .money import add_budget, budget, paid, request

pytestmark = pytest.mark.requirement("money.leaving")


class TellingDatabase(Database):
    """Calls ``after`` on the event loop, right behind what the submitter does at its commit."""

    after: Callable[[], Any] | None = None

    def submit(self, work: Any) -> Future[Any]:
        future = super().submit(work)
        if self.after is not None:
            loop, after, self.after = asyncio.get_running_loop(), self.after, None
            # Our callback must come behind the submitter's own, which is added when this returns.
            loop.call_soon(future.add_done_callback, lambda _: loop.call_soon_threadsafe(after))
        return future


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[TellingDatabase]:
    opened = TellingDatabase(database_url)
    yield opened
    await opened.close()


async def test_a_caller_who_goes_between_grant_and_news_of_it_holds_nothing(
    database: TellingDatabase,
) -> None:
    ledger = Ledger(database, owner="p", clock=SystemClock())
    await database.write(lambda connection: add_budget(connection, budget("tenant:acme", 1000)))
    task = asyncio.create_task(ledger.reserve(request(fixed=1000)))
    database.after = task.cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    wanted = request(fixed=1000)
    async with asyncio.timeout(5):  # far less than the lease: nothing has expired
        hold = await ledger.reserve(wanted)
    await ledger.settle(paid(wanted, 1000), hold)
    await ledger.close()
    left = await database.read(lambda c: c.execute(sa.select(holds.c.id)).all())
    assert left == []
