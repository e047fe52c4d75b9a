"""Between the ledger's values and its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping

from admiralty.core.money import Nanos
from admiralty.core.values import Caller, Identity, Usage
from admiralty.runtime.ledger.values import Budget, Charge, Entry
from admiralty.runtime.storage.tables import storable

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "cache_write_1h_tokens",
)


def entry_row(entry: Entry) -> dict[str, Any]:
    """Return an entry as its row; it is JSON too."""
    caller, identity, usage = entry.caller, entry.caller.identity, entry.usage
    return {
        "id": entry.id,
        "kind": entry.kind,
        "corrects": entry.corrects,
        "call_id": entry.call_id,
        "tenant": identity.tenant,
        "team": identity.team,
        "user": identity.user,
        "tags": dict(identity.tags),
        "fleet": caller.fleet,
        "agent": caller.agent,
        "agent_version": caller.agent_version,
        "conversation_id": caller.conversation_id,
        "run_id": caller.run_id,
        "model": entry.model,
        "tier": entry.tier,
        "tool": entry.tool,
        "status": entry.status,
        "error": entry.error,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_input_tokens": usage.audio_input_tokens,
        "audio_output_tokens": usage.audio_output_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "cost_nanos": entry.cost,
        "held_nanos": entry.held,
        "debt_nanos": entry.debt,
        "estimated": entry.estimated,
        "measure": entry.measure,
        "expected_input": entry.expected_input,
        "output_limit": entry.output_limit,
        "factor": entry.factor,
        "price_book": entry.price_book,
        "policy": entry.policy,
        "charges": charges_json(entry.charges),
        "seconds": entry.seconds,
        "at": entry.at,
    }


def read_entry(row: RowMapping | Mapping[str, Any]) -> Entry:
    """Return the entry of a row, or of the same as JSON."""
    return Entry(
        id=row["id"],
        call_id=row["call_id"],
        kind=row["kind"],
        corrects=row["corrects"],
        caller=Caller(
            identity=Identity(
                tenant=row["tenant"], team=row["team"], user=row["user"], tags=dict(row["tags"])
            ),
            fleet=row["fleet"],
            agent=row["agent"],
            agent_version=row["agent_version"],
            conversation_id=row["conversation_id"],
            run_id=row["run_id"],
        ),
        model=row["model"],
        tier=row["tier"],
        tool=row["tool"],
        status=row["status"],
        error=row["error"],
        usage=Usage(**{name: row[name] for name in TOKENS}),
        cost=None if row["cost_nanos"] is None else Nanos(row["cost_nanos"]),
        held=Nanos(row["held_nanos"]),
        debt=Nanos(row["debt_nanos"]),
        estimated=bool(row["estimated"]),
        measure=row["measure"],
        expected_input=row["expected_input"],
        output_limit=row["output_limit"],
        factor=row["factor"],
        price_book=row["price_book"],
        policy=row["policy"],
        charges=read_charges(row["charges"]),
        seconds=row["seconds"],
        at=row["at"],
    )


def charges_json(charges: Sequence[Charge]) -> list[list[str]]:
    """Return charges as JSON keeps them."""
    return [[charge.budget_id, charge.subject, charge.window] for charge in charges]


def read_charges(stored: Sequence[Sequence[str]]) -> tuple[Charge, ...]:
    """Return charges from JSON."""
    return tuple(Charge(*parts) for parts in stored)


def driver_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's row as drivers take it: JSON as text, and no character that cannot be stored."""
    given = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
    for name in ("tags", "charges"):
        given[name] = storable(json.dumps(row[name], ensure_ascii=False))
    return given


def read_budget(row: RowMapping) -> Budget:
    """Return the budget of a row."""
    return Budget(
        id=row["id"],
        scope=row["scope"],
        name=row["name"],
        limit=Nanos(row["limit_nanos"]),
        window=row["window"],
        seconds=row["seconds"],
        timezone=row["timezone"],
        hard=bool(row["hard"]),
        thresholds=tuple(row["thresholds"]),
        webhook=row["webhook"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        archived_at=row["archived_at"],
    )
