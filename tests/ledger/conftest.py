"""A database, a clock that is set by hand, and what is put into the ledger's tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from admiralty.core.clock import SystemClock
from admiralty.core.money import Nanos, from_dollars
from admiralty.core.values import Caller, Identity, Usage
from admiralty.runtime.ledger.rows import entry_row
from admiralty.runtime.ledger.values import Budget, Charge, Entry
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import budgets, counters, holds, ledger

NOON = 1_795_348_800.0
"""2026-11-22 12:00 UTC, a Sunday."""


@dataclass
class HandClock(SystemClock):
    """Wall time as the test sets it."""

    time: float = NOON

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database of the test's own: SQLite and PostgreSQL in turn."""
    opened = Database(database_url)
    yield opened
    await opened.close()


def caller(**values: Any) -> Caller:
    """Somebody of the tenant acme."""
    who: dict[str, Any] = {"tenant": "acme", "team": "blue", "user": "ann", "tags": {"project": "alpha"}}
    who |= {name: values.pop(name) for name in list(values) if name in who}
    given: dict[str, Any] = {
        "fleet": "desk",
        "agent": "clerk",
        "agent_version": "v1",
        "conversation_id": "conv_1",
    }
    return Caller(identity=Identity(**who), **{**given, "run_id": "run_1", **values})


def entry(number: int, cost: int | None = 1_000, **values: Any) -> Entry:
    """An entry of a model call."""
    given: dict[str, Any] = {
        "id": f"call_{number:06d}",
        "call_id": f"call_{number:06d}",
        "kind": "model",
        "caller": caller(),
        "model": "openai:gpt-5.4-nano",
        "tier": "small",
        "status": "ok",
        "usage": Usage(input_tokens=100, output_tokens=20, cached_tokens=10),
        "price_book": "genai-prices 1 abc",
        "policy": "p1",
        "seconds": 0.5,
        "at": NOON + number,
    }
    return Entry(cost=None if cost is None else Nanos(cost), **given | values)


def tool_entry(number: int, cost: int = 500, **values: Any) -> Entry:
    """An entry of a priced tool call."""
    given: dict[str, Any] = {
        "kind": "tool",
        "model": "",
        "tier": "",
        "tool": "lookup",
        "usage": Usage(),
        "price_book": "",
    }
    return entry(number, cost, **given | values)


async def put_entries(database: Database, entries: Sequence[Entry]) -> None:
    """Write entries as they are; counters stay as they were."""
    rows = [entry_row(one) for one in entries]
    await database.write(lambda connection: connection.execute(ledger.insert(), rows) and None)


async def put_counter(database: Database, charge: Charge, **amounts: int) -> None:
    """Write a counter."""
    row: dict[str, Any] = {"budget_id": charge.budget_id, "subject": charge.subject, "window": charge.window}
    row |= {"spent": 0, "held": 0, "unproven": 0} | amounts
    await database.write(lambda connection: connection.execute(counters.insert(), row) and None)


async def put_hold(
    database: Database, name: str, amount: int, charges: Sequence[Charge], **values: Any
) -> None:
    """Write a hold."""
    row = {
        "id": name,
        "owner": "p",
        "amount": amount,
        "unproven": False,
        "charges": [[charge.budget_id, charge.subject, charge.window] for charge in charges],
        "entry": {},
        "created_at": NOON,
        "expires_at": NOON + 30,
    } | values
    await database.write(lambda connection: connection.execute(holds.insert(), row) and None)


async def put_budget(database: Database, **values: Any) -> Budget:
    """Write a budget as it is, without any check."""
    given: dict[str, Any] = {
        "id": "budget_1",
        "scope": "tenant:acme",
        "limit": from_dollars(10),
        "window": "month",
    }
    budget = Budget(**{**given, "created_at": NOON, "updated_at": NOON, **values})
    row = {name: getattr(budget, name) for name in Budget.__dataclass_fields__ if name != "limit"}
    row |= {"limit_nanos": budget.limit, "tenant": "acme", "thresholds": list(budget.thresholds)}
    await database.write(lambda connection: connection.execute(budgets.insert(), row) and None)
    return budget
