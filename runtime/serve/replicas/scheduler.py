"""The replica that owns the providers: every model call of the fleet passes here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from ray.serve.handle import DeploymentHandle

from admiralty.core.values import Access, CallStatus, Grant, ModelCall, ModelReply, TokenDelta
from admiralty.runtime.composition.fleet import load_fleet
from admiralty.runtime.composition.scheduler import build_scheduler
from admiralty.runtime.serve.batches import batched
from admiralty.runtime.serve.metrics import RayMetrics
from admiralty.runtime.serve.remote import RemoteMemory
from admiralty.runtime.serve.replicas import FleetSpec
from admiralty.runtime.state import SqlStateStore, call_state
from admiralty.runtime.storage import Database


class SchedulerReplica:
    """Owns the providers: every model call of the fleet passes here."""

    async def __init__(self, spec: FleetSpec, memory: DeploymentHandle) -> None:  # type: ignore[misc]
        fleet = load_fleet(spec.fleet)
        self._database = await asyncio.to_thread(Database.of, spec.settings)
        self._scheduler = build_scheduler(
            spec.settings, fleet, RemoteMemory(memory), self._database, RayMetrics()
        )
        self._state = SqlStateStore(self._database, history=spec.settings.state_history)
        await self._scheduler.start()

    async def ready(self) -> bool:
        """Return that this replica is up."""
        return True

    async def stream(self, call: ModelCall) -> AsyncGenerator[list[TokenDelta | ModelReply], None]:
        """Forward to the scheduler; yield lists of what it yields."""
        whole = batched(self._scheduler.stream(call), urgent=lambda chunk: isinstance(chunk, ModelReply))
        async with aclosing(whole) as batches:
            async for batch in batches:
                yield batch

    async def complete(self, call: ModelCall) -> ModelReply:
        """Forward to the scheduler."""
        return await self._scheduler.complete(call)

    async def authorize(self, access: Access) -> Grant:
        """Forward to the scheduler."""
        return await self._scheduler.authorize(access)

    async def settle(
        self, grant: Grant, status: CallStatus, seconds: float, outcome: Mapping[str, Any] | None = None
    ) -> None:
        """Forward to the scheduler."""
        await self._scheduler.settle(grant, status=status, seconds=seconds, outcome=outcome)

    async def state(self, call: str, *arguments: Any) -> Any:
        """Answer a call about shared state."""
        return await call_state(self._state.primitives, call, arguments)

    async def __del__(self) -> None:
        """Settle what is under way, and let go; Serve awaits this."""
        await self._scheduler.close()
        await self._database.close()
