"""The support desk's model, fitted once, in the server from which all workers are forked.

Each worker would else fit it at its first call: seconds of processor for each one that was killed.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import cast

from langchain_core.messages import HumanMessage

from admiralty.core.clock import SystemClock
from admiralty.core.ports import Embedder, Vectors
from admiralty.core.values import Caller, Identity, ModelCall
from admiralty.fleets.support import fleet
from admiralty.memory import open_embedder
from admiralty.runtime.providers.extractive import ExtractiveProvider


class OwnEmbedder:
    """Embeds in whatever process it is asked: an embedder has a thread, and no thread survives a fork."""

    def __init__(self) -> None:
        self._by_process: dict[int, Embedder] = {}

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if os.getpid() not in self._by_process:
            self._by_process = {os.getpid(): open_embedder("hashing")}
        return await self._by_process[os.getpid()].embed(texts)


async def _fitted() -> ExtractiveProvider:
    examples = {agent.name: agent.example_texts for agent in fleet.agents}
    provider = ExtractiveProvider(cast("Embedder", OwnEmbedder()), examples, SystemClock())
    for agent in fleet.agents:
        if agent.output is not None:
            caller = Caller(
                identity=Identity(),
                fleet=fleet.name,
                agent=agent.name,
                agent_version="",
                conversation_id="preload",
                run_id="preload",
            )
            asked = (HumanMessage("Please cancel my order."),)
            call = ModelCall(id="preload", caller=caller, messages=asked, output_schema=agent.output_schema)
            async for _ in provider.stream(call, "desk"):
                pass
    return provider


desk_model = asyncio.run(_fitted())
