"""Alerts: which thresholds a budget has passed, and the rows that make each of them one alert.

The row is written in the transaction that spent the money, so an alert is neither lost nor doubled,
however many processes spend. Sending it is :mod:`~admiralty.runtime.ledger.delivery`'s work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.ids import new_id
from admiralty.core.money import Nanos
from admiralty.runtime.ledger.batch import SpentChange
from admiralty.runtime.ledger.values import Budget
from admiralty.runtime.ledger.windows import window_key
from admiralty.runtime.storage.tables import alerts

ONCE = ("budget_id", "subject", "window", "threshold", "limit_nanos")
"""What makes an alert the same alert."""

_MAX_ROWS = 100  # in one statement


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """A threshold that spending has passed."""

    id: str
    """Also the ``Idempotency-Key`` of its webhook."""
    budget_id: str
    subject: str
    """Whose spending it was, of a budget that applies to each of many; empty otherwise."""
    window: str
    threshold: float
    """Share of the limit."""
    spent: Nanos
    limit: Nanos
    at: float


def crossed(budget: Budget, before: int, after: int) -> tuple[float, ...]:
    """Return the thresholds that spending passed on its way from ``before`` to ``after`` nano-dollars."""
    if after <= before:
        return ()
    amounts = _amounts(budget.limit, tuple(budget.thresholds))
    return tuple(threshold for threshold, amount in amounts if before < amount <= after)


def alert_window(budget: Budget, now: float) -> str:
    """Return the window in which a threshold makes one alert.

    Spending in a rolling window falls and rises around a threshold; so there is at most one alert in
    each stretch of the window's length, not one a bucket.
    """
    if budget.window != "rolling" or not budget.seconds:
        return window_key(budget, now)
    return f"rolling {int(now // budget.seconds * budget.seconds)}"


def alert_rows(budget: Budget, subject: str, before: int, after: int, now: float) -> list[dict[str, Any]]:
    """Return a row for each threshold that was passed, as :func:`insert_alerts` takes them."""
    passed = crossed(budget, before, after)
    if not passed:
        return []
    window = alert_window(budget, now)
    return [
        {
            "id": new_id("alert"),
            "budget_id": budget.id,
            "subject": subject,
            "window": window,
            "threshold": threshold,
            "spent_nanos": after,
            "limit_nanos": budget.limit,
            "at": now,
            "attempts": 0,
            "next_attempt_at": now,
        }
        for threshold in passed
    ]


def record_alerts(connection: Connection, changes: Sequence[SpentChange], now: float) -> None:
    """Write the alerts that these changes of counters make. The ledger calls it where it spends."""
    rows: list[dict[str, Any]] = []
    for change in changes:
        rows += alert_rows(change.budget, change.charge.subject, change.before, change.after, now)
    insert_alerts(connection, rows)


def insert_alerts(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write alerts; those that are there already stay as they are. One statement for many."""
    unique = {tuple(row[name] for name in ONCE): dict(row) for row in rows}
    # In one order everywhere: transactions that wait for each other's rows would deadlock otherwise.
    ordered = [unique[key] for key in sorted(unique)]
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    for start in range(0, len(ordered), _MAX_ROWS):
        statement = insert(alerts).values(ordered[start : start + _MAX_ROWS])
        connection.execute(statement.on_conflict_do_nothing(index_elements=list(ONCE)))


def read_alert(row: sa.RowMapping) -> Alert:
    """Return the alert of a row."""
    return Alert(
        id=row["id"],
        budget_id=row["budget_id"],
        subject=row["subject"],
        window=row["window"],
        threshold=row["threshold"],
        spent=Nanos(row["spent_nanos"]),
        limit=Nanos(row["limit_nanos"]),
        at=row["at"],
    )


@lru_cache(maxsize=1024)
def _amounts(limit: int, thresholds: tuple[float, ...]) -> tuple[tuple[float, int], ...]:
    """Return what must be spent for each threshold: at least a nano-dollar, or 0 would never be passed."""
    return tuple(
        (threshold, max(1, math.ceil(Fraction(str(threshold)) * limit))) for threshold in sorted(thresholds)
    )
