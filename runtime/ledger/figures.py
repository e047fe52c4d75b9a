"""Figures for monitoring: sums over the whole ledger, and the budgets with the least room, at a bounded cost.

A scraper asks every few seconds, and ledgers grow for years. So most of a sum is kept, and only what
is new is read. What "new" means is the difficulty: an entry is stamped before its commit, so one with
an earlier stamp can appear after a later one. Two things make the sums right all the same:

- what is kept reaches up to ``MARGIN`` seconds ago only; everything younger is read again each time;
- now and then everything is counted anew, beside the scrapes, for entries that were committed later
  than that: their database was away for minutes, and they came out of a journal.

Until then such entries are missing; none ever counts twice. Entries are never changed or deleted, so
counters only rise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.ports import Clock
from admiralty.runtime.ledger.budgets import Budgets, BudgetState
from admiralty.runtime.ledger.rows import TOKENS
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import ledger

logger = logging.getLogger(__name__)

T = TypeVar("T")

MARGIN = 600.0
RECOUNT_SECONDS = 3600.0

SHARE = 20
"""What takes a second to find out is good for so many: then it takes a twentieth of a processor at most."""

MAX_BUDGETS = 100

Key = tuple[str, str, str, str]
"""Agent, tier, model, tool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What the entries of one agent with one model or tool add up to. Money is in nano-dollars."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    cost: int = 0
    """What was charged; corrections that give money back are not deducted."""
    refunded: int = 0
    """What corrections gave back."""
    debt: int = 0
    """The part of ``cost`` above what had been held."""
    estimated: int = 0
    """Calls that were charged by estimate."""
    unpriced: int = 0
    """Calls whose cost is not known."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})


_NAMES = tuple(field.name for field in fields(Sums))

Totals = dict[Key, Sums]


class Figures:
    """Figures of one database."""

    def __init__(self, database: Database, clock: Clock, *, margin: float = MARGIN) -> None:
        self._database = database
        self._clock = clock
        self._margin = margin
        self._budgets = Kept(Budgets(database, clock).fullest, clock)
        self._base: tuple[float, Totals] | None = None
        """Sums of all entries that are stamped before a moment."""
        self._counted = 0.0
        self._recount: asyncio.Task[None] | None = None

    async def budgets(self) -> Sequence[BudgetState]:
        """Return the budgets with the least room, fullest first, at most ``MAX_BUDGETS``."""
        return await self._budgets.get()

    async def totals(self) -> Totals:
        """Return the sums of all entries."""
        now = self._clock.now()
        kept = self._base or await self._count(now)
        if now - self._counted > RECOUNT_SECONDS and (self._recount is None or self._recount.done()):
            self._recount = asyncio.create_task(self._count_again(now))
        until, base = kept
        moved = max(until, now - self._margin)
        older, newer = await self._database.read(
            lambda connection: (
                _sums(connection, until, moved) if moved - until > self._margin else None,
                _sums(connection, until, None),
            )
        )
        if older is not None and self._base is kept:  # else it was counted anew meanwhile
            self._base = (moved, _added(base, older))
        return _added(base, newer)

    async def _count(self, now: float) -> tuple[float, Totals]:
        until = now - self._margin
        sums = await self._database.read(lambda connection: _sums(connection, None, until))
        self._base, self._counted = (until, sums), now
        return self._base

    async def _count_again(self, now: float) -> None:
        try:
            await self._count(now)
        except Exception:
            logger.exception("the ledger could not be counted anew")


def _sums(connection: Connection, since: float | None, until: float | None) -> Totals:
    """Return the sums of the entries stamped from ``since`` until before ``until``."""
    table = ledger.c
    keys = (table.agent, table.tier, table.model, table.tool)
    is_call = table.kind != "correction"
    unknown = table.cost_nanos.is_(None) & (table.status != "error")  # a refused call costs nothing
    measures = {
        "calls": sa.case((is_call, 1), else_=0),
        **{name: table[name] for name in TOKENS if name in _NAMES},
        "cost": sa.case((table.cost_nanos > 0, table.cost_nanos), else_=0),
        "refunded": sa.case((table.cost_nanos < 0, -table.cost_nanos), else_=0),
        "debt": sa.case((table.debt_nanos > 0, table.debt_nanos), else_=0),
        "estimated": sa.case((table.estimated & is_call, 1), else_=0),
        "unpriced": sa.case((unknown, 1), else_=0),
    }
    query = sa.select(
        *keys, *(sa.func.coalesce(sa.func.sum(what), 0).label(name) for name, what in measures.items())
    ).group_by(*keys)
    if since is not None:
        query = query.where(table.at >= since)
    if until is not None:
        query = query.where(table.at < until)
    return {
        (row["agent"], row["tier"], row["model"], row["tool"]): Sums(
            **{name: int(row[name]) for name in measures}
        )
        for row in connection.execute(query).mappings()
    }


def _added(one: Totals, other: Totals) -> Totals:
    return one | {key: one.get(key, Sums()) + sums for key, sums in other.items()}


class Kept(Generic[T]):
    """An answer that is kept for as long as it was worth finding out."""

    def __init__(self, find: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._find = find
        self._clock = clock
        self._found: tuple[float, T] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        """Return the answer, at most ``SHARE`` times as old as it took to find."""
        async with self._lock:
            started = self._clock.monotonic()
            if self._found is None or self._found[0] <= started:
                value = await self._find()
                taken = self._clock.monotonic() - started
                self._found = (started + taken * (SHARE + 1), value)
            return self._found[1]
