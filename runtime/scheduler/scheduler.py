"""The pipeline behind the Scheduler port, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from admiralty.core.errors import ConfigurationError, ProviderUnavailable
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Access, CallStatus, Grant, ModelCall, ModelReply, TokenDelta
from admiralty.runtime.scheduler.access import AccessControl
from admiralty.runtime.scheduler.pipeline import Attempt, Stage, fold


class Service(Protocol):
    """Something that works in the background for as long as the scheduler does."""

    async def close(self) -> None:
        """Stop, and let go of what it holds."""
        ...


class LocalScheduler:
    """Runs the pipeline in this process."""

    def __init__(
        self,
        stages: Sequence[Stage],
        access: AccessControl | None = None,
        services: Sequence[Service] = (),
    ) -> None:
        """Fold ``stages``; ``access`` decides on tools, of which none may be called without it.

        ``services`` are what the stages need: started before them, closed after them, in reverse.
        """
        self._stages = stages
        self._access = access
        self._services = services
        self._pipeline = fold(stages)

    async def start(self) -> None:
        """Start what works in the background."""
        for part in (*self._services, *self._stages):
            if start := getattr(part, "start", None):
                await start()

    async def close(self) -> None:
        """End what nobody waits for, then stop the services and let go of the providers."""
        for part in (*self._stages, *reversed(self._services)):
            if close := getattr(part, "close", None):
                await close()

    def stream(self, call: ModelCall) -> AnswerStream:
        return self._pipeline(Attempt(call=call))

    async def complete(self, call: ModelCall) -> ModelReply:
        async with aclosing(self.stream(call)) as stream:
            return await last_reply(stream)

    async def authorize(self, access: Access) -> Grant:
        if self._access is None:
            raise ConfigurationError("The scheduler has no access control: nothing but models may be asked.")
        return await self._access.authorize(access)

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        if self._access is not None:
            await self._access.settle(grant, status=status, seconds=seconds, outcome=outcome)


async def last_reply(stream: AsyncIterator[TokenDelta | ModelReply]) -> ModelReply:
    """Read a stream to its end and return its reply. Raises ProviderUnavailable if it has none."""
    reply: ModelReply | None = None
    async for chunk in stream:
        if isinstance(chunk, ModelReply):
            reply = chunk
    if reply is None:
        raise ProviderUnavailable("The model's answer broke off before its end.")
    return reply
