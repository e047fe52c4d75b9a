"""What was spent: sums over the ledger by conversation, and by whatever it is asked to be grouped by.

Sums are made in SQL and are exact: whole nano-dollars. Corrections count with their differences, so
that a sum says what is known today.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from admiralty.core.errors import InvalidRequest
from admiralty.core.money import Nanos, dollars_text
from admiralty.core.values import Usage
from admiralty.runtime.ledger.rows import TOKENS
from admiralty.runtime.ledger.viewer import OPERATOR, Viewer
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import ledger

Interval = Literal["hour", "day", "month"]
"""Calendar intervals of UTC."""

GROUPS = {
    "tenant": "tenant", "team": "team", "user": "user", "fleet": "fleet", "agent": "agent",
    "agent_version": "agent_version", "conversation": "conversation_id", "run": "run_id", "model": "model",
    "tier": "tier", "tool": "tool", "kind": "kind", "status": "status",
}  # fmt: skip
"""What spending is grouped by, and the ledger's column; ``tag:KEY`` besides."""

MAX_GROUPS = 6
MAX_LINES = 10_000
PAGE = 1000

_TAG = re.compile(r"tag:[A-Za-z0-9_.\-/]{1,64}")
_INTERVALS = {  # for SQLite and for PostgreSQL
    "hour": ("%Y-%m-%dT%H:00:00Z", 'YYYY-MM-DD"T"HH24:00:00"Z"'),
    "day": ("%Y-%m-%d", "YYYY-MM-DD"),
    "month": ("%Y-%m", "YYYY-MM"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageLine:
    """Sums over the calls that share agent, tier and model, or agent and tool."""

    agent: str
    tier: str
    model: str
    tool: str = ""
    """Name of the tool, for tool calls that had a price; they have neither model nor tier."""
    calls: int
    usage: Usage
    cost: Nanos
    unpriced_calls: int
    """Calls whose cost is not known, and in no sum: made before everything had a price."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpendLine:
    """What was spent in one group, in one interval."""

    period: str | None
    """The interval's beginning in UTC, ``2026-11-22``; ``None`` if no interval was asked for."""
    groups: tuple[str | None, ...]
    """The values that were grouped by, in their order; ``None`` where an entry has none."""
    calls: int
    usage: Usage
    cost: Nanos
    estimated: Nanos
    """The part of ``cost`` that was charged by estimate, corrections of it not deducted."""
    debt: Nanos
    """The part that went beyond what had been held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """A report of spending."""

    group_by: tuple[str, ...]
    lines: Sequence[SpendLine]
    total: SpendLine
    """Of all lines, also of those that were cut off."""
    truncated: bool


class Reports:
    """Reads the ledger of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_conversation(self, conversation_id: str) -> Sequence[UsageLine]:
        """Return a conversation's calls, summed by agent, tier, model and tool."""
        return await self._usage(ledger.c.conversation_id == conversation_id)

    async def of_run(self, conversation_id: str, run_id: str) -> dict[str, Any]:
        """Return what a run has used and cost so far, as its last event tells it."""
        return await self._database.read(lambda connection: costs_of_run(connection, conversation_id, run_id))

    async def totals(self) -> Sequence[UsageLine]:
        """Return all calls, summed by agent, tier, model and tool."""
        return await self._usage(sa.true())

    async def spend(
        self,
        group_by: Sequence[str] = (),
        *,
        since: float | None = None,
        until: float | None = None,
        interval: Interval | None = None,
        viewer: Viewer = OPERATOR,
        limit: int = 1000,
    ) -> Spend:
        """Return what was spent from ``since`` until before ``until``, most expensive first in each interval.

        Raises InvalidRequest for what cannot be grouped by.
        """
        names = tuple(dict.fromkeys(group_by))
        if len(names) > MAX_GROUPS:
            raise InvalidRequest(f"group_by: at most {MAX_GROUPS} at a time.", param="group_by")
        where = within(viewer, since, until)
        lines = self._spend_query(names, interval, where).limit(limit + 1)
        total = self._spend_query((), None, where)

        def select(connection: Connection) -> Spend:
            found = [_spend_line(row, len(names)) for row in connection.execute(lines).mappings()]
            whole = _spend_line(connection.execute(total).mappings().one(), 0)
            return Spend(group_by=names, lines=found[:limit], total=whole, truncated=len(found) > limit)

        return await self._database.read(select)

    async def entries(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        viewer: Viewer = OPERATOR,
        page: int = PAGE,
    ) -> AsyncGenerator[Sequence[RowMapping], None]:
        """Yield the ledger's rows in pages, by tenant, then by time.

        Each has ``corrected_at`` besides: when the entry that it corrects was written. A page is a short
        read of its own, so that a slow reader keeps nobody from writing.
        """
        first = ledger.alias("corrected")
        key = (ledger.c.tenant, ledger.c.at, ledger.c.id)
        query = (
            sa.select(ledger, first.c.at.label("corrected_at"))
            .outerjoin(first, first.c.id == ledger.c.corrects)
            .where(within(viewer, since, until))
            .order_by(*key)
            .limit(page)
        )
        following = query
        while True:
            rows = await self._database.read(
                lambda connection, query=following: connection.execute(query).mappings().all()  # type: ignore[misc]
            )
            if rows:
                yield rows
            if len(rows) < page:
                return
            last = rows[-1]
            following = query.where(sa.tuple_(*key) > sa.tuple_(last["tenant"], last["at"], last["id"]))

    def _spend_query(
        self, names: Sequence[str], interval: Interval | None, where: sa.ColumnElement[bool]
    ) -> sa.Select[Any]:
        table = ledger.c
        # The keys get names in an inner query: PostgreSQL does not see that two parameters are the same.
        keys = [_group(name).label(f"group_{number}") for number, name in enumerate(names)]
        period = sa.null() if interval is None else self._period(interval)
        measures = [table[name] for name in (*TOKENS, "kind", "cost_nanos", "debt_nanos", "estimated")]
        inner = sa.select(period.label("period"), *keys, *measures).where(where).subquery()
        grouped = [inner.c.period] if interval else []
        grouped += [inner.c[key.name] for key in keys]
        cost = _sum(inner.c.cost_nanos)
        query = sa.select(
            *grouped,
            _sum(sa.case((inner.c.kind == "correction", 0), else_=1)).label("calls"),
            *(_sum(inner.c[name]).label(name) for name in TOKENS),
            cost.label("cost"),
            _sum(sa.case((inner.c.estimated, inner.c.cost_nanos), else_=0)).label("estimated"),
            _sum(inner.c.debt_nanos).label("debt"),
        )
        if not grouped:
            return query
        order = [inner.c.period] if interval else []
        return query.group_by(*grouped).order_by(*order, cost.desc(), *grouped[len(order) :])

    def _period(self, interval: Interval) -> sa.ColumnElement[str]:
        sqlite_format, postgres_format = _INTERVALS[interval]
        if self._database.is_sqlite:  # whole seconds: it rounds others up to the next millisecond
            whole = sa.cast(ledger.c.at, sa.Integer)
            return sa.func.strftime(sqlite_format, whole, "unixepoch")
        moment = sa.func.to_timestamp(sa.func.floor(ledger.c.at))
        return sa.func.to_char(sa.func.timezone("UTC", moment), postgres_format)

    async def _usage(self, where: sa.ColumnElement[bool]) -> Sequence[UsageLine]:
        return await self._database.read(lambda connection: _usage_lines(connection, where))


def costs_of_run(connection: Connection, conversation_id: str, run_id: str) -> dict[str, Any]:
    """Return what a run has used and cost so far, as its last event tells it."""
    here = sa.and_(ledger.c.conversation_id == conversation_id, ledger.c.run_id == run_id)
    lines = _usage_lines(connection, here)
    used = sum((line.usage for line in lines), Usage())
    return {
        "usage": {
            "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens,
            "total_tokens": used.total_tokens,
        },
        "cost_usd": dollars_text(Nanos(sum(line.cost for line in lines))),
        "unpriced_calls": sum(line.unpriced_calls for line in lines),
    }


def _usage_lines(connection: Connection, where: sa.ColumnElement[bool]) -> list[UsageLine]:
    table = ledger.c
    keys = (table.agent, table.tier, table.model, table.tool)
    unknown = table.cost_nanos.is_(None) & (table.status != "error")  # a refused call costs nothing
    query = (
        sa.select(
            *keys,
            _sum(sa.case((table.kind == "correction", 0), else_=1)).label("calls"),
            *(_sum(table[name]).label(name) for name in TOKENS),
            _sum(table.cost_nanos).label("cost"),
            _sum(sa.case((unknown, 1), else_=0)).label("unpriced"),
        )
        .where(where)
        .group_by(*keys)
        .order_by(*keys)
    )
    return [
        UsageLine(
            agent=row["agent"],
            tier=row["tier"],
            model=row["model"],
            tool=row["tool"],
            calls=int(row["calls"]),
            usage=_usage(row),
            cost=Nanos(int(row["cost"])),
            unpriced_calls=int(row["unpriced"]),
        )
        for row in connection.execute(query).mappings()
    ]


def within(viewer: Viewer, since: float | None, until: float | None) -> sa.ColumnElement[bool]:
    """Return which entries a viewer sees of a stretch of time; its end is not in it."""
    conditions: list[sa.ColumnElement[bool]] = []
    if viewer.tenant is not None:
        conditions.append(ledger.c.tenant == viewer.tenant)
    if viewer.team is not None:
        conditions.append(ledger.c.team == viewer.team)
    if since is not None:
        conditions.append(ledger.c.at >= since)
    if until is not None:
        conditions.append(ledger.c.at < until)
    return sa.and_(sa.true(), *conditions)


def _group(name: str) -> sa.ColumnElement[Any]:
    """Return what is grouped by. Raises InvalidRequest."""
    if name in GROUPS:
        return ledger.c[GROUPS[name]]
    if _TAG.fullmatch(name):
        tagged: sa.ColumnElement[Any] = ledger.c.tags[name.removeprefix("tag:")].as_string()
        return tagged
    raise InvalidRequest(
        f"group_by = {name[:80]!r}: use any of {', '.join(GROUPS)}, or tag:KEY.", param="group_by"
    )


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _usage(row: RowMapping) -> Usage:
    return Usage(**{name: int(row[name]) for name in TOKENS})


def _spend_line(row: RowMapping, groups: int) -> SpendLine:
    return SpendLine(
        period=row.get("period"),
        groups=tuple(row[f"group_{number}"] for number in range(groups)),
        calls=int(row["calls"]),
        usage=_usage(row),
        cost=Nanos(int(row["cost"])),
        estimated=Nanos(int(row["estimated"])),
        debt=Nanos(int(row["debt"])),
    )
