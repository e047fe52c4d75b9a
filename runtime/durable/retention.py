"""Removes what nobody needs any more: old turns of conversations, by age and by count. Money is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.ports import Clock
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import approvals, conversations, effects, events, runs, steps

BATCH = 200
"""Runs that are removed in one transaction, so that no turn waits long behind it."""

DAY = 86_400.0


@dataclass(kw_only=True)
class Retention:
    """How long turns are kept; ``None``: for ever."""

    database: Database
    clock: Clock
    days: float | None = None
    turns: int | None = None
    """Latest turns of each conversation that are kept."""

    async def prune(self) -> int:
        """Remove what is older than is kept, with all that belongs to it; return how many turns.

        A conversation keeps what its agents remember, and its ledger. Turns that are not ended stay.
        """
        removed = 0
        while True:
            found = await self.database.read(self._find)
            if not found:
                return removed
            removed += await self.database.write(partial(_remove, found=found))

    def _find(self, connection: Connection) -> list[tuple[str, str]]:
        too_much = []
        if self.days is not None:
            too_much.append(runs.c.finished_at < self.clock.now() - self.days * DAY)
        if self.turns is not None:
            newest = (
                sa.select(conversations.c.turns)
                .where(conversations.c.id == runs.c.conversation_id)
                .scalar_subquery()
            )
            too_much.append(runs.c.turn <= newest - self.turns)
        if not too_much:
            return []
        query = sa.select(runs.c.id, runs.c.conversation_id).where(_ENDED, sa.or_(*too_much)).limit(BATCH)
        return [(row.id, row.conversation_id) for row in connection.execute(query)]


def _remove(connection: Connection, found: list[tuple[str, str]]) -> int:
    # The runs first, and asked again: somebody may have had one retried meanwhile.
    gone = runs.delete().where(runs.c.id.in_([run_id for run_id, _ in found]), _ENDED)
    run_ids = [row.id for row in connection.execute(gone.returning(runs.c.id))]
    talks = {conversation_id for _, conversation_id in found}
    connection.execute(
        events.delete().where(events.c.conversation_id.in_(talks), events.c.run_id.in_(run_ids))
    )
    for table in (steps, effects, approvals):
        connection.execute(table.delete().where(table.c.run_id.in_(run_ids)))
    return len(run_ids)


_ENDED = runs.c.status.in_(["done", "failed", "cancelled"])
