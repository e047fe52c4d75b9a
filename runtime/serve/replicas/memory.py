"""The replica that owns the embedder and the indexes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from admiralty.agents import Fleet
from admiralty.core.ports import Vectors
from admiralty.core.settings import Settings
from admiralty.core.values import Passage
from admiralty.memory import Knowledge
from admiralty.runtime.composition.fleet import load_fleet
from admiralty.runtime.composition.memory import build_memory
from admiralty.runtime.serve.replicas import FleetSpec


class MemoryReplica:
    """Owns the embedder and the indexes."""

    async def __init__(self, spec: FleetSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        fleet = load_fleet(spec.fleet)
        self._memory = await build_memory(spec.settings, fleet)
        self._warming = asyncio.create_task(_warm(self._memory, spec.settings, fleet))

    async def ready(self) -> bool:
        """Return that this replica is up."""
        return True

    async def search(self, corpus: str, query: str, limit: int) -> list[Passage]:
        """Forward to the memory."""
        return await self._memory.search(corpus, query, limit=limit)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Forward to the memory."""
        return await self._memory.embed(texts)


async def _warm(memory: Knowledge, settings: Settings, fleet: Fleet) -> None:
    """Embed what the first classification will ask for, while others start; the embedder remembers it."""
    if "extractive" not in {model.partition(":")[0] for model in settings.tier_models.values()}:
        return
    texts = [text for agent in fleet.agents for some in agent.example_texts.values() for text in some]
    if texts:
        await memory.embed(texts)
