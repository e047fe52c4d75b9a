"""The replica that owns the embedder and the indexes."""

from __future__ import annotations

from collections.abc import Sequence

from admiralty.core.ports import Vectors
from admiralty.core.values import Passage
from admiralty.runtime.composition.fleet import load_fleet
from admiralty.runtime.composition.memory import build_memory
from admiralty.runtime.serve.replicas import FleetSpec


class MemoryReplica:
    """Owns the embedder and the indexes."""

    async def __init__(self, spec: FleetSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        fleet = load_fleet(spec.fleet)
        self._memory = await build_memory(spec.settings, fleet)

    async def search(self, corpus: str, query: str, limit: int) -> list[Passage]:
        """Forward to the memory."""
        return await self._memory.search(corpus, query, limit=limit)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Forward to the memory."""
        return await self._memory.embed(texts)
