"""The fleet's memory."""

from __future__ import annotations

import asyncio

from admiralty.agents import Fleet
from admiralty.core.settings import Settings
from admiralty.memory import Knowledge, open_embedder
from admiralty.runtime.composition.fleet import fleet_context


async def build_memory(settings: Settings, fleet: Fleet) -> Knowledge:
    """Build the fleet's memory: its embedder, and its documents indexed."""
    embedder = await asyncio.to_thread(open_embedder, settings.embedder)
    return await Knowledge.build(embedder, fleet.documents(fleet_context(settings, fleet)))


def check_embedder(settings: Settings) -> None:
    """Raise ConfigurationError for a setting that names no embedder, without loading a model."""
    if settings.embedder.partition(":")[0] not in ("auto", "hashing", "sentence-transformers"):
        open_embedder(settings.embedder)  # which says what there is
