"""Re-adds the ledger: whether the counters say what the entries and the holds say.

One snapshot of the database is looked at, while others go on writing. All adding is done in SQL, and
only what is wrong comes out of it, so memory does not grow with the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.clock import SystemClock
from admiralty.core.money import Nanos, dollars_text
from admiralty.core.ports import Clock
from admiralty.runtime.ledger.rows import read_budget
from admiralty.runtime.ledger.values import Budget
from admiralty.runtime.ledger.windows import HELD, oldest_bucket
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import budgets

GRACE_SECONDS = 300.0
"""How long after its end a hold may wait for the sweep that ends it."""

MAX_PROBLEMS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that is wrong in the books."""

    check: str
    """Which check found it: ``spent``, ``held``, ``negative``, ``corrections`` ..."""
    where: str
    """Id of the entry or hold, or the counter: budget, subject, window."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a look at the books found."""

    entries: int
    counters: int
    holds: int
    spent: Nanos
    """Sum of all entries."""
    estimated: int
    """Entries that were charged by estimate."""
    problems: list[Problem] = field(default_factory=list)
    """At most ``MAX_PROBLEMS``."""

    @property
    def is_right(self) -> bool:
        return not self.problems


class Verifier:
    """Looks through the books of one database."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def verify(self) -> Verification:
        """Return what is right and what is wrong."""
        return await self._database.read(self._verify)

    def _verify(self, connection: Connection) -> Verification:
        if not self._database.is_sqlite:  # SQLite's reads are snapshots by themselves
            connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        if self._database.is_sqlite and (broken := _unreadable(connection)):
            problems = broken  # nothing can be added up with these in it
        else:
            problems = list(islice(self._problems(connection), MAX_PROBLEMS))
        row = connection.execute(sa.text(_COUNTS)).one()
        return Verification(
            entries=row.entries,
            counters=row.counters,
            holds=row.holds,
            spent=Nanos(int(row.spent)),
            estimated=int(row.estimated),
            problems=problems,
        )

    def _problems(self, connection: Connection) -> Iterator[Problem]:
        now = self._clock.now()
        yield from self._of_spent(connection, now)
        yield from self._of_held(connection)
        for check, query, text in _CHECKS:
            found = connection.execute(sa.text(query), {"expired": now - GRACE_SECONDS})
            for row in found.mappings():
                yield Problem(check=check, where=row["place"], text=text.format_map(_shown(row)))

    def _of_spent(self, connection: Connection, now: float) -> Iterator[Problem]:
        kept: dict[str, Budget | None] = {}
        for row in self._unequal(connection, _SPENT):
            # Buckets of a rolling window may be cleared away once they no longer count.
            if row["present"] == 0 and _is_past(connection, row["budget_id"], row["window"], now, kept):
                continue
            yield _unequal(row, "spent", "its entries add up to")

    def _of_held(self, connection: Connection) -> Iterator[Problem]:
        for row in self._unequal(connection, _HELD):
            yield _unequal(row, "held", "its holds add up to")
        for row in self._unequal(connection, _UNPROVEN):
            yield _unequal(row, "unproven", "its holds add up to")

    def _unequal(self, connection: Connection, sums: str) -> Iterator[sa.RowMapping]:
        charges = _CHARGES_SQLITE if self._database.is_sqlite else _CHARGES_POSTGRESQL
        query = sa.text(_UNEQUAL.format(sums=sums.format(**charges)))
        # A cursor on the server: however much is wrong, little of it is in memory at a time.
        yield from connection.execute(query, execution_options={"yield_per": 500}).mappings()


_UNEQUAL = """
SELECT budget_id, subject, "window", SUM(told) AS told, SUM(added) AS added, SUM(present) AS present
FROM ({sums}) AS both_sides
GROUP BY budget_id, subject, "window" HAVING SUM(told) <> SUM(added)
ORDER BY budget_id, subject, "window"
"""
_CHARGES_SQLITE = {
    "parts": "json_extract(c.value, '$[0]'), json_extract(c.value, '$[1]'), json_extract(c.value, '$[2]')",
    "ledger": "ledger AS l, json_each(l.charges) AS c",
    "holds": "holds AS h, json_each(h.charges) AS c",
}
_CHARGES_POSTGRESQL = {
    "parts": "c.value ->> 0, c.value ->> 1, c.value ->> 2",
    "ledger": "ledger AS l, json_array_elements(l.charges) AS c(value)",
    "holds": "holds AS h, json_array_elements(h.charges) AS c(value)",
}
_SPENT = """
SELECT budget_id, subject, "window", spent AS told, 0 AS added, 1 AS present FROM counters
UNION ALL SELECT {parts}, 0, COALESCE(l.cost_nanos, 0), 0 FROM {ledger}
"""
_HELD = """
SELECT budget_id, subject, "window", held AS told, 0 AS added, 1 AS present FROM counters
UNION ALL SELECT {parts}, 0, h.amount, 0 FROM {holds}
"""
_UNPROVEN = """
SELECT budget_id, subject, "window", unproven AS told, 0 AS added, 1 AS present FROM counters
UNION ALL SELECT {parts}, 0, h.amount, 0 FROM {holds} WHERE h.unproven
"""
_COUNTS = """
SELECT (SELECT COUNT(*) FROM counters) AS counters, (SELECT COUNT(*) FROM holds) AS holds,
       COUNT(*) AS entries, COALESCE(SUM(cost_nanos), 0) AS spent,
       COALESCE(SUM(CASE WHEN estimated THEN 1 ELSE 0 END), 0) AS estimated
FROM ledger
"""

# name, query with the columns that the sentence names, sentence
_CHECKS = (
    (
        "negative",
        """SELECT budget_id || ' ' || subject || ' ' || "window" AS place, spent, held, unproven
           FROM counters WHERE spent < 0 OR held < 0 OR unproven < 0 OR unproven > held""",
        "a counter is below zero, or holds less than its unproven part: spent {spent}, held {held}, "
        "unproven {unproven}",
    ),
    (
        "negative",
        """SELECT id AS place, cost_nanos AS cost, held_nanos AS held, debt_nanos AS debt FROM ledger
           WHERE held_nanos < 0 OR debt_nanos < 0 OR kind <> 'correction' AND (cost_nanos < 0
             OR input_tokens < 0 OR output_tokens < 0)""",
        "an entry has amounts or tokens below zero: cost {cost}, held {held}, debt {debt}",
    ),
    (
        "debt",
        """SELECT id AS place, cost_nanos AS cost, held_nanos AS held, debt_nanos AS debt FROM ledger
           WHERE kind <> 'correction' AND held_nanos > 0 AND debt_nanos <>
             CASE WHEN cost_nanos > held_nanos THEN cost_nanos - held_nanos ELSE 0 END""",
        "of cost {cost} and held {held}, {debt} cannot be the debt",
    ),
    (
        "negative",
        "SELECT id AS place, amount FROM holds WHERE amount < 0",
        "a hold is below zero: {amount}",
    ),
    (
        "unique",
        "SELECT id AS place, COUNT(*) AS entries FROM ledger GROUP BY id HAVING COUNT(*) > 1",
        "{entries} entries have the same id",
    ),
    (
        "ended twice",
        """SELECT h.id AS place, h.amount, l.cost_nanos AS cost
           FROM holds AS h JOIN ledger AS l ON l.id = h.id""",
        "a hold of {amount} is there still, and so is the entry that ended it: cost {cost}",
    ),
    (
        "corrections",
        """SELECT l.id AS place, l.corrects FROM ledger AS l LEFT JOIN ledger AS f ON f.id = l.corrects
           WHERE l.kind = 'correction' AND (f.id IS NULL OR f.kind = 'correction')""",
        "it corrects {corrects}, which is no entry of a call",
    ),
    (
        "corrections",
        """SELECT l.id AS place, l.corrects, l.tenant, f.tenant AS owner
           FROM ledger AS l JOIN ledger AS f ON f.id = l.corrects WHERE f.tenant <> l.tenant""",
        "it belongs to tenant {tenant}, but corrects {corrects} of tenant {owner}",
    ),
    (
        "corrections",
        "SELECT id AS place, kind, corrects FROM ledger WHERE kind <> 'correction' AND corrects IS NOT NULL",
        "it names {corrects} as corrected, but is of kind {kind}",
    ),
    (
        "estimated",
        "SELECT id AS place, cost_nanos AS cost FROM ledger WHERE status = 'expired' AND NOT estimated",
        "nobody knows what the call cost, and {cost} was charged, but it is not marked as estimated",
    ),
    (
        "expired",
        "SELECT id AS place, owner, amount FROM holds WHERE expires_at < :expired",
        "a hold of {amount} of {owner} has expired long ago: no scheduler sweeps",
    ),
)


def _unreadable(connection: Connection) -> list[Problem]:
    """Return the rows whose charges are no JSON: PostgreSQL does not store such."""
    found: list[Problem] = []
    for table in ("ledger", "holds"):
        query = f"SELECT id FROM {table} WHERE NOT json_valid(charges) LIMIT {MAX_PROBLEMS}"  # noqa: S608
        text = f"its charges in {table} are no JSON"
        names = connection.execute(sa.text(query)).scalars()
        found += [Problem(check="json", where=name, text=text) for name in names]
    return found


def _is_past(
    connection: Connection, budget_id: str, window: str, now: float, kept: dict[str, Budget | None]
) -> bool:
    """Tell whether ``window`` is a bucket of a rolling budget that counts no more."""
    if budget_id not in kept:
        row = connection.execute(sa.select(budgets).where(budgets.c.id == budget_id)).mappings().first()
        kept[budget_id] = None if row is None else read_budget(row)
    budget = kept[budget_id]
    if budget is None or budget.window != "rolling" or window == HELD:
        return False
    return window < oldest_bucket(budget, now)


def _unequal(row: sa.RowMapping, check: str, what: str) -> Problem:
    told, added = (dollars_text(Nanos(int(row[name]))) for name in ("told", "added"))
    subject = f" {row['subject']}" if row["subject"] else ""
    return Problem(
        check=check,
        where=f"{row['budget_id']}{subject} {row['window']}",
        text=f"the counter says ${told} {check}, but {what} ${added}",
    )


_AMOUNTS = frozenset({"spent", "held", "unproven", "cost", "debt", "amount"})


def _shown(row: sa.RowMapping) -> dict[str, Any]:
    """Return a row's values as a sentence shows them, amounts as dollars."""
    return {
        name: f"${dollars_text(Nanos(int(value)))}" if name in _AMOUNTS and value is not None else value
        for name, value in row.items()
    }
