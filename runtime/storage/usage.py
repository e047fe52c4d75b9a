"""Records of model calls, and sums over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.money import Nanos
from admiralty.core.values import Caller, Tier, Usage
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import ledger

_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")

_ADD = ledger.insert()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCallRecord:
    """One model call as it was made: also one that failed."""

    id: str
    caller: Caller
    model: str
    tier: Tier
    status: str
    """``ok``, ``error`` or ``cancelled``."""
    usage: Usage
    cost: Nanos | None
    seconds: float
    at: float
    error: str | None = None


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
    """Calls whose cost is not known, and in no sum: of a model without a price, or broken off."""


class ModelCallLog:
    """The model calls of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: ModelCallRecord) -> None:
        """Store a record; returns when it is committed."""
        caller, identity = record.caller, record.caller.identity
        values: dict[str, Any] = {
            "id": record.id,
            "tenant": identity.tenant,
            "team": identity.team,
            "user": identity.user,
            "fleet": caller.fleet,
            "agent": caller.agent,
            "agent_version": caller.agent_version,
            "conversation_id": caller.conversation_id,
            "run_id": caller.run_id,
            "model": record.model,
            "tier": record.tier,
            "status": record.status,
            "error": record.error,
            "cost_nanos": record.cost,
            "seconds": record.seconds,
            "at": record.at,
            "kind": "model",
            "call_id": record.id,
            "tags": dict(identity.tags),
            "tool": "",
            "estimated": False,
            "price_book": "",
            "policy": "",
            "charges": [],
        }
        values |= {name: getattr(record.usage, name) for name in _TOKENS}
        await self._database.write(lambda c: c.execute(_ADD, values) and None)

    async def by_conversation(self, conversation_id: str) -> Sequence[UsageLine]:
        """Return a conversation's calls, summed by agent, tier, model and tool."""
        return await self._sum(ledger.c.conversation_id == conversation_id)

    async def totals(self) -> Sequence[UsageLine]:
        """Return all calls, summed by agent, tier, model and tool."""
        return await self._sum(sa.true())

    async def _sum(self, where: sa.ColumnElement[bool]) -> Sequence[UsageLine]:
        table = ledger.c
        keys = (table.agent, table.tier, table.model, table.tool)
        unknown = table.cost_nanos.is_(None) & (table.status != "error")  # a refused call costs nothing
        query = (
            sa.select(
                *keys,
                sa.func.sum(sa.case((table.kind == "correction", 0), else_=1)).label("calls"),
                *(sa.func.sum(table[name]).label(name) for name in _TOKENS),
                sa.func.coalesce(sa.func.sum(table.cost_nanos), 0).label("cost"),
                sa.func.sum(sa.case((unknown, 1), else_=0)).label("unpriced"),
            )
            .where(where)
            .group_by(*keys)
            .order_by(*keys)
        )

        def select(connection: Connection) -> list[UsageLine]:
            return [
                UsageLine(
                    agent=row.agent,
                    tier=row.tier,
                    model=row.model,
                    tool=row.tool,
                    calls=int(row.calls),
                    usage=Usage(**{name: int(getattr(row, name)) for name in _TOKENS}),
                    cost=Nanos(int(row.cost)),
                    unpriced_calls=int(row.unpriced),
                )
                for row in connection.execute(query)
            ]

        return await self._database.read(select)
