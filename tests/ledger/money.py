"""What the ledger's tests share: callers, requests and budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from admiralty.core.ids import new_id
from admiralty.core.money import Nanos
from admiralty.core.values import Caller, Identity
from admiralty.runtime.ledger.scopes import scopes_of
from admiralty.runtime.ledger.values import Budget, Entry, HoldRequest, Quote
from admiralty.runtime.storage.tables import budgets

CALLER = Caller(
    identity=Identity(tenant="acme", team="desk", user="ann", tags={"project": "x"}),
    fleet="support",
    agent="triage",
    agent_version="v1",
    conversation_id="conv_1",
    run_id="run_1",
)


def request(
    *,
    fixed: int = 0,
    per_million: int = 1_000_000,
    wanted: int = 0,
    floor: int = 0,
    caller: Caller = CALLER,
    **more: Any,
) -> HoldRequest:
    """Return a request; an output token costs a nano-dollar unless said otherwise."""
    hold_id = more.pop("id", None) or new_id("call")
    entry = Entry(
        id=hold_id,
        call_id=hold_id,
        kind="model",
        caller=caller,
        model="fake:m",
        tier="mid",
        status="expired",
        cost=None,
    )
    return HoldRequest(
        id=hold_id,
        quote=Quote(fixed=fixed, per_million=per_million),
        wanted=wanted,
        floor=floor,
        entry=entry,
        scopes=scopes_of(caller),
        **more,
    )


def paid(wanted: HoldRequest, cost: int, **more: Any) -> Entry:
    """Return the entry of a call that went well."""
    return replace(wanted.entry, **({"status": "ok"} | more), cost=Nanos(cost))


def budget(scope: str, limit: int, **more: Any) -> Budget:
    """Return a budget."""
    return Budget(id=more.pop("id", None) or new_id("bud"), scope=scope, limit=Nanos(limit), **more)


def add_budget(connection: Connection, given: Budget) -> None:
    """Store a budget."""
    connection.execute(
        budgets.insert().values(
            id=given.id,
            scope=given.scope,
            tenant="acme",
            name=given.name,
            limit_nanos=given.limit,
            window=given.window,
            seconds=given.seconds,
            timezone=given.timezone,
            hard=given.hard,
            thresholds=list(given.thresholds),
            created_at=0.0,
            updated_at=0.0,
        )
    )
