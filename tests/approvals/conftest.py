"""Databases with runs that wait, and approvals in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.clock import SystemClock
from admiralty.core.values import ApprovalRequest
from admiralty.runtime.approvals import Approval, ApprovalStore, insert_approval
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import conversations, runs

NOON = 1_795_348_800.0
HOUR = 3600.0


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


@pytest.fixture
def store(database: Database, clock: HandClock) -> ApprovalStore:
    return ApprovalStore(database, clock)


def request(**values: Any) -> ApprovalRequest:
    """A clerk wants to refund 30 dollars."""
    given: dict[str, Any] = {
        "call_id": "call_1",
        "digest": "d" * 32,
        "kind": "tool",
        "agent": "clerk",
        "agent_version": "v1",
        "tool": "refund",
        "arguments": {"amount": 30},
        "reason": "It is money.",
    }
    return ApprovalRequest(**given | values)


async def add_run(
    database: Database, number: int = 1, *, tenant: str = "acme", status: str = "waiting"
) -> str:
    """Write a conversation with a run in it; return the run's id."""
    conversation = {"id": f"conv_{number}", "tenant": tenant, "fleet": "desk", "metadata": {}}
    run = {"id": f"run_{number}", "conversation_id": f"conv_{number}", "turn": 1, "tenant": tenant}
    run |= {"fleet": "desk", "status": status, "owner": "p", "lease_until": 0.0, "message": "m"}

    def add(connection: sa.Connection) -> None:
        connection.execute(conversations.insert(), conversation | {"created_at": NOON, "updated_at": NOON})
        connection.execute(runs.insert(), run | {"started_at": NOON})

    await database.write(add)
    return str(run["id"])


Ask = Callable[..., Awaitable[Approval]]


@pytest.fixture
def ask(database: Database, clock: HandClock) -> Ask:
    """Writes down an approval of a run."""

    async def ask_one(
        run_id: str,
        *,
        tenant: str = "acme",
        user: str | None = "ann",
        default_seconds: float = HOUR,
        **values: Any,
    ) -> Approval:
        return await database.write(
            lambda connection: insert_approval(
                connection,
                tenant=tenant,
                fleet="desk",
                conversation_id=run_id.replace("run", "conv"),
                run_id=run_id,
                user=user,
                request=request(**values),
                now=clock.now(),
                default_seconds=default_seconds,
            )
        )

    return ask_one


async def run_row(database: Database, run_id: str) -> Any:
    """Return a run's row."""
    return await database.read(
        lambda connection: connection.execute(sa.select(runs).where(runs.c.id == run_id)).one()
    )


async def set_run(database: Database, run_id: str, **values: Any) -> None:
    """Change a run's row."""
    await database.write(
        lambda connection: (
            connection.execute(runs.update().where(runs.c.id == run_id).values(values)) and None
        )
    )
