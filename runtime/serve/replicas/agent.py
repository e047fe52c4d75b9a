"""The replica that runs visits to one agent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray.serve.handle import DeploymentHandle

from admiralty.core.values import Event, Visit, VisitResult
from admiralty.runtime.agents.hosts import build_agent
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.composition.fleet import load_fleet, setup_resources
from admiralty.runtime.serve.batches import batched
from admiralty.runtime.serve.remote import RemoteMemory, RemoteScheduler, RemoteState
from admiralty.runtime.serve.replicas import FleetSpec
from admiralty.runtime.serve.secrets import forget_keys
from admiralty.runtime.state import ComposedStateStore


class AgentReplica:
    """Runs visits to one agent."""

    async def __init__(  # type: ignore[misc]
        self, spec: FleetSpec, agent: str, scheduler: DeploymentHandle, memory: DeploymentHandle
    ) -> None:
        forget_keys(os.environ, spec.settings)  # before anything of the fleet is imported
        fleet = load_fleet(spec.fleet)
        surroundings = Surroundings(
            scheduler=RemoteScheduler(scheduler),
            memory=RemoteMemory(memory),
            resources=await asyncio.to_thread(setup_resources, spec.settings, fleet),
            state=ComposedStateStore(RemoteState(scheduler)),
        )
        self._agent = build_agent(fleet, fleet.agent(agent), surroundings)

    async def visit_whole(self, visit: Visit) -> list[Event | VisitResult]:
        """Run the visit; return what happened, the result last."""
        async with aclosing(self._agent.visit(visit)) as stream:
            return [item async for item in stream]

    async def visit(self, visit: Visit) -> AsyncGenerator[list[Event | VisitResult], None]:
        """Run the visit; yield lists of what happened. Last comes the result."""
        async with aclosing(batched(self._agent.visit(visit), urgent=_is_awaited)) as batches:
            async for batch in batches:
                yield batch


def _is_awaited(item: Event | VisitResult) -> bool:
    """Return whether a listener waits for this: tokens may come in lots, a cost with what follows."""
    return isinstance(item, VisitResult) or item.type in ("step", "tool")
