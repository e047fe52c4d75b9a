"""Records of model calls, until whoever settles their holds writes the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
