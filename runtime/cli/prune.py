"""``admiralty prune``: remove old turns at once, by hand."""

from __future__ import annotations

from pathlib import Path

from admiralty.core.clock import SystemClock
from admiralty.core.errors import InvalidRequest
from admiralty.core.settings import Settings
from admiralty.runtime.cli.database import with_database
from admiralty.runtime.cli.output import console
from admiralty.runtime.durable.retention import Retention
from admiralty.runtime.storage import Database


def run_prune(home: Path | None, *, days: float | None, turns: int | None) -> None:
    """Remove what is older than ``days``, and all but the latest ``turns`` of each conversation.

    What is not given is as set. Raises InvalidRequest where neither says what to remove.
    """
    settings = Settings.load(home=home, retention_days=days, retention_turns=turns)
    if settings.retention_days is None and settings.retention_turns is None:
        raise InvalidRequest("Say what to remove: --days 90, --turns 200, or both.")

    async def prune(database: Database) -> int:
        return await Retention(
            database=database,
            clock=SystemClock(),
            days=settings.retention_days,
            turns=settings.retention_turns,
        ).prune()

    removed = with_database(settings, prune, must_exist=True)
    console.print(f"Removed {removed} turns. The ledger, and what agents remember, are kept.")
