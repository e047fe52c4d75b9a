"""The replica that owns the providers: every model call of the fleet passes here."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from ray.serve.handle import DeploymentHandle

from admiralty.core.ports import AnswerStream
from admiralty.core.values import ModelCall, ModelReply
from admiralty.runtime.composition.fleet import load_fleet
from admiralty.runtime.composition.scheduler import build_scheduler
from admiralty.runtime.serve.remote import RemoteMemory
from admiralty.runtime.serve.replicas import FleetSpec
from admiralty.runtime.storage import Database


class SchedulerReplica:
    """Owns the providers: every model call of the fleet passes here."""

    async def __init__(self, spec: FleetSpec, memory: DeploymentHandle) -> None:  # type: ignore[misc]
        fleet = load_fleet(spec.fleet)
        self._database = await asyncio.to_thread(Database.of, spec.settings)
        self._scheduler = build_scheduler(spec.settings, fleet, RemoteMemory(memory), self._database)

    async def stream(self, call: ModelCall) -> AnswerStream:
        """Forward to the scheduler."""
        async with aclosing(self._scheduler.stream(call)) as stream:
            async for chunk in stream:
                yield chunk

    async def complete(self, call: ModelCall) -> ModelReply:
        """Forward to the scheduler."""
        return await self._scheduler.complete(call)
