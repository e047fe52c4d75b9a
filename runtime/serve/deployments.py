"""What runs in the replicas. Each class builds its part with the composition root; no logic of its own.

In throughput mode user code shares Serve's event loop, so nothing here may block: what blocks at
construction (opening databases, loading models) runs in threads.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from admiralty.core.ports import AnswerStream, Vectors
from admiralty.core.settings import Settings
from admiralty.core.values import Event, ModelCall, ModelReply, Passage, Visit, VisitResult
from admiralty.runtime import composition
from admiralty.runtime.agents.hosts import LocalAgentHost, SplitAgentHost, build_agent
from admiralty.runtime.agents.visit import Surroundings
from admiralty.runtime.api import ApiParts, create_app
from admiralty.runtime.serve.loopback import bind_replicas_to_loopback
from admiralty.runtime.serve.remote import RemoteAgentHost, RemoteMemory, RemoteScheduler
from admiralty.runtime.storage.keys import ApiKeys
from admiralty.runtime.storage.usage import ModelCallLog

bind_replicas_to_loopback()  # before Serve opens the replica's port, which is after this import

DRAIN_SECONDS = 20.0
"""How long a replica that is told to stop waits for the turns that it is executing."""


@dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """What every replica needs to build its part: the fleet's import name, and the settings."""

    fleet: str
    settings: Settings


class MemoryReplica:
    """Owns the embedder and the indexes."""

    async def __init__(self, spec: FleetSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        fleet = composition.load_fleet(spec.fleet)
        self._memory = await composition.build_memory(spec.settings, fleet)

    async def search(self, corpus: str, query: str, limit: int) -> list[Passage]:
        """Forward to the memory."""
        return await self._memory.search(corpus, query, limit=limit)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Forward to the memory."""
        return await self._memory.embed(texts)


class SchedulerReplica:
    """Owns the providers: every model call of the fleet passes here."""

    async def __init__(self, spec: FleetSpec, memory: DeploymentHandle) -> None:  # type: ignore[misc]
        fleet = composition.load_fleet(spec.fleet)
        self._database = await asyncio.to_thread(composition.open_database, spec.settings)
        self._scheduler = composition.build_scheduler(
            spec.settings, fleet, RemoteMemory(memory), self._database
        )

    async def stream(self, call: ModelCall) -> AnswerStream:
        """Forward to the scheduler."""
        async with aclosing(self._scheduler.stream(call)) as stream:
            async for chunk in stream:
                yield chunk

    async def complete(self, call: ModelCall) -> ModelReply:
        """Forward to the scheduler."""
        return await self._scheduler.complete(call)


class AgentReplica:
    """Runs visits to one agent."""

    async def __init__(  # type: ignore[misc]
        self, spec: FleetSpec, agent: str, scheduler: DeploymentHandle, memory: DeploymentHandle
    ) -> None:
        fleet = composition.load_fleet(spec.fleet)
        surroundings = Surroundings(
            scheduler=RemoteScheduler(scheduler),
            memory=RemoteMemory(memory),
            resources=await asyncio.to_thread(composition.setup_resources, spec.settings, fleet),
        )
        self._agent = build_agent(fleet, fleet.agent(agent), surroundings)

    async def visit(self, visit: Visit) -> AsyncGenerator[list[Event | VisitResult], None]:
        """Run the visit; yield lists of what happened. Last comes the result."""
        batch: list[Event | VisitResult] = []
        async with aclosing(self._agent.visit(visit)) as stream:
            async for item in stream:
                batch.append(item)
                # What a listener waits for goes out at once; the end of a step waits for its result.
                if isinstance(item, VisitResult) or (
                    visit.streaming and isinstance(item, Event) and item.type in ("token", "step", "tool")
                ):
                    yield batch
                    batch = []


class Gateway:
    """The ingress: API and conversations, in one replica."""

    async def __init__(  # type: ignore[misc]
        self,
        spec: FleetSpec,
        agents: dict[str, DeploymentHandle],
        scheduler: DeploymentHandle,
        memory: DeploymentHandle,
    ) -> None:
        fleet, settings = composition.load_fleet(spec.fleet), spec.settings
        self._stack = AsyncExitStack()
        database = await asyncio.to_thread(composition.open_database, settings)
        remote_scheduler, remote_memory = RemoteScheduler(scheduler), RemoteMemory(memory)
        inline = [agent for agent in fleet.agents if agent.name not in agents]
        resources = None
        if inline:
            resources = await asyncio.to_thread(composition.setup_resources, settings, fleet)
        local = LocalAgentHost(
            fleet,
            inline,
            Surroundings(scheduler=remote_scheduler, memory=remote_memory, resources=resources),
        )
        host = SplitAgentHost([agent.name for agent in inline], local, RemoteAgentHost(agents))
        self._conversations = await composition.build_conversations(fleet, host, database, self._stack)
        self._parts = ApiParts(
            conversations=self._conversations,
            keys=ApiKeys(database),
            calls=ModelCallLog(database),
            settings=settings,
            version=importlib.metadata.version("admiralty"),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app, built after the constructor: Serve calls this."""
        return create_app(self._parts)

    async def drain(self) -> None:
        """Finish the running turns."""
        await self._conversations.drain(DRAIN_SECONDS)
