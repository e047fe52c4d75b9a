"""The replica that runs visits to one agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray.serve.handle import DeploymentHandle

from admiralty.core.values import Event, Visit, VisitResult
from admiralty.runtime.agents.hosts import build_agent
from admiralty.runtime.agents.visit import Surroundings
from admiralty.runtime.composition.fleet import load_fleet, setup_resources
from admiralty.runtime.serve.remote import RemoteMemory, RemoteScheduler
from admiralty.runtime.serve.replicas import FleetSpec


class AgentReplica:
    """Runs visits to one agent."""

    async def __init__(  # type: ignore[misc]
        self, spec: FleetSpec, agent: str, scheduler: DeploymentHandle, memory: DeploymentHandle
    ) -> None:
        fleet = load_fleet(spec.fleet)
        surroundings = Surroundings(
            scheduler=RemoteScheduler(scheduler),
            memory=RemoteMemory(memory),
            resources=await asyncio.to_thread(setup_resources, spec.settings, fleet),
        )
        self._agent = build_agent(fleet, fleet.agent(agent), surroundings)

    async def visit_whole(self, visit: Visit) -> list[Event | VisitResult]:
        """Run the visit; return what happened, the result last."""
        async with aclosing(self._agent.visit(visit)) as stream:
            return [item async for item in stream]

    async def visit(self, visit: Visit) -> AsyncGenerator[list[Event | VisitResult], None]:
        """Run the visit; yield lists of what happened. Last comes the result."""
        batch: list[Event | VisitResult] = []
        async with aclosing(self._agent.visit(visit)) as stream:
            async for item in stream:
                batch.append(item)
                # What a listener waits for goes out at once; the end of a step waits for its result.
                if isinstance(item, VisitResult) or item.type in ("token", "step", "tool"):
                    yield batch
                    batch = []
