"""Callers who go in the worst moment, and calls that take longer than a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.clock import SystemClock
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import holds, ledger

from .money import add_budget, budget, paid, request

pytestmark = pytest.mark.requirement("money.leaving")


class TellingLedger(Ledger):
    """Calls ``after`` when a caller is granted its hold, in the same step of the loop."""

    after: Callable[[], Any] | None = None

    def _told(self, pending: Any, verdict: Any) -> bool:
        waited = super()._told(pending, verdict)
        if self.after is not None:
            after, self.after = self.after, None
            after()
        return waited


async def test_a_caller_who_goes_between_grant_and_news_of_it_holds_nothing(database_url: str) -> None:
    database = Database(database_url)
    ledger = TellingLedger(database, owner="p", clock=SystemClock())
    await database.write(lambda connection: add_budget(connection, budget("tenant:acme", 1000)))
    task = asyncio.create_task(ledger.reserve(request(fixed=1000)))
    ledger.after = task.cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    wanted = request(fixed=1000)
    async with asyncio.timeout(5):  # far less than the lease: nothing has expired
        hold = await ledger.reserve(wanted)
    await ledger.settle(paid(wanted, 1000), hold)
    await ledger.close()
    left = await database.read(lambda c: c.execute(sa.select(holds.c.id)).all())
    assert left == []
    await database.close()


@pytest.mark.requirement("money.lease")
async def test_a_call_longer_than_the_lease_is_not_taken_for_a_dead_process_s(
    database: Database, database_url: str
) -> None:
    await database.write(lambda connection: add_budget(connection, budget("tenant:acme", 1000)))
    other = Database(database_url)
    mine, sweeper = (
        Ledger(each, owner=name, clock=SystemClock(), lease=0.9)
        for each, name in ((database, "mine"), (other, "other"))
    )
    await mine.start()
    wanted = request(fixed=1000)
    hold = await mine.reserve(wanted)
    for _ in range(20):  # for more than two leases: time must pass here
        await asyncio.sleep(0.1)
        await sweeper.sweep()
    entry = await mine.settle(paid(wanted, 400), hold)
    await mine.close()
    await sweeper.close()
    await other.close()
    rows = await database.read(lambda c: c.execute(sa.select(ledger.c.id, ledger.c.estimated)).all())
    assert (entry.cost, entry.held) == (400, 1000)
    assert [tuple(row) for row in rows] == [(wanted.id, False)]
