from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from admiralty.runtime.storage import Database


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = time.time()

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@pytest.fixture(autouse=True)
def _light_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here searches by meaning: a real embedder would cost seconds."""
    monkeypatch.setenv("ADMIRALTY_EMBEDDER", "hashing")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database, on SQLite and on PostgreSQL."""
    database = Database(database_url)
    yield database
    await database.close()
