"""The ledger's SQL: one batch of reservations and settlements in one transaction.

All rows of ``budgets`` that a batch touches are locked first, in order of their ids; so batches of any
number of processes come one after the other where they share a budget, and never deadlock. On SQLite
the transaction's own lock does that.

A batch is applied in this order: settlements and releases (they free money), then reservations in
their fair order. Knows nothing of event loops, waiting or retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.money import Nanos
from admiralty.runtime.ledger.applying import Applying
from admiralty.runtime.ledger.batch import (
    WAITER_LEASE,
    Batch,
    HeldMoney,
    OnSpent,
    Outcome,
    Settlement,
)
from admiralty.runtime.ledger.rows import read_charges, read_entry
from admiralty.runtime.ledger.statements import Statements
from admiralty.runtime.ledger.values import Entry
from admiralty.runtime.storage.tables import holds, ledger, waiters


class Books:
    """Applies batches. ``lease`` is how many seconds holds and waiting calls live without a renewal."""

    def __init__(self, *, is_sqlite: bool, owner: str, lease: float, on_spent: OnSpent | None = None) -> None:
        self._owner = owner
        self.lease = lease
        self._on_spent = on_spent
        self._sql = Statements(is_sqlite)

    def apply(self, batch: Batch, connection: Connection) -> Outcome:
        """Apply a batch in the connection's transaction."""
        work = Applying(self._sql, connection, batch, self._owner, self.lease)
        outcome = work.run()
        if self._on_spent and work.changes:
            self._on_spent(connection, work.changes, batch.now)
        return outcome

    def expired(self, connection: Connection, now: float, limit: int) -> list[Settlement]:
        """Return what is to be written for holds whose owner has not come back: their worst case."""
        table = holds.c
        query = sa.select(holds).where(table.expires_at < now).order_by(table.expires_at, table.id)
        found = []
        for row in connection.execute(query.limit(limit)).mappings():
            entry = replace(
                read_entry(row["entry"]),
                cost=Nanos(row["amount"]),
                held=Nanos(row["amount"]),
                status="expired",
                estimated=True,
                error="The process that made the call ended before it could say what it cost.",
                at=now,
            )
            held = HeldMoney(id=row["id"], amount=Nanos(row["amount"]), charges=read_charges(row["charges"]))
            found.append(Settlement(entry=entry, hold=held, expired=True))
        return found

    def renew(self, connection: Connection, held: Sequence[str], waiting: Sequence[str], now: float) -> None:
        """Let holds and waiting calls live on."""
        if held:
            given = {"ids": self._sql.listed(held), "until": now + self.lease}
            self._sql.run(connection, self._sql.renew_holds, given)
        if waiting:
            given = {"ids": self._sql.listed(waiting), "until": now + WAITER_LEASE}
            self._sql.run(connection, self._sql.renew_waiters, given)

    def drop_dead_waiters(self, connection: Connection, now: float) -> None:
        """Forget waiting calls that nobody renews."""
        connection.execute(waiters.delete().where(waiters.c.expires_at < now))

    def recent(self, connection: Connection, fleet: str, agent: str, model: str, limit: int) -> list[Entry]:
        """Return the last entries of an agent's calls to a model, newest first."""
        table = ledger.c
        query = (
            sa.select(ledger)
            .where(table.fleet == fleet, table.agent == agent, table.model == model, table.status == "ok")
            .order_by(table.at.desc())
            .limit(limit)
        )
        return [read_entry(row) for row in connection.execute(query).mappings()]
