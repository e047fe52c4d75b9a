"""Processes over one database: SQLite and PostgreSQL in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from admiralty.tools import Tool

from .world import Process, Processes, World


@pytest.fixture(autouse=True)
def _light_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here searches by meaning: a real embedder would cost seconds."""
    monkeypatch.setenv("ADMIRALTY_EMBEDDER", "hashing")


@pytest.fixture
async def process(database_url: str) -> AsyncIterator[Processes]:
    """Makes processes with tools of the test, which act on one world."""
    made: list[Process] = []
    world = World()

    def make(*tools: Tool) -> Process:
        made.append(Process(database_url, f"p{len(made)}", world, *tools))
        return made[-1]

    yield make
    for each in made:
        await each.close()
