"""The pipeline behind the Scheduler port, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing

from admiralty.core.errors import ConfigurationError, ProviderUnavailable
from admiralty.core.ports import AnswerStream, Clock, ModelProvider
from admiralty.core.values import Access, CallStatus, Grant, ModelCall, ModelReply, Tier, TokenDelta
from admiralty.runtime.scheduler.access import AccessControl
from admiralty.runtime.scheduler.dispatch import Dispatch, by_account
from admiralty.runtime.scheduler.pipeline import Attempt, Stage, fold
from admiralty.runtime.scheduler.record_sql import AddRecord, RecordInSql
from admiralty.runtime.scheduler.retry import Patience
from admiralty.runtime.scheduler.route import Route


def default_stages(
    *,
    tier_models: Mapping[Tier, str],
    providers: Iterable[ModelProvider],
    add_record: AddRecord,
    clock: Clock,
    patience: Patience | None = None,
) -> list[Stage]:
    """Return the stages of a model call, in order."""
    return [
        Route(tier_models, clock, patience=patience),
        RecordInSql(add_record, clock),
        Dispatch(by_account(providers), clock),
    ]


class LocalScheduler:
    """Runs the pipeline in this process."""

    def __init__(self, stages: Sequence[Stage], access: AccessControl | None = None) -> None:
        """Fold ``stages``; ``access`` decides on tools, of which none may be called without it."""
        self._stages = stages
        self._access = access
        self._pipeline = fold(stages)

    async def close(self) -> None:
        """Let go of what the stages hold: connections to providers."""
        for stage in self._stages:
            if close := getattr(stage, "close", None):
                await close()
        if self._access is not None:
            await self._access.close()

    def stream(self, call: ModelCall) -> AnswerStream:
        return self._pipeline(Attempt(call=call))

    async def complete(self, call: ModelCall) -> ModelReply:
        async with aclosing(self.stream(call)) as stream:
            return await last_reply(stream)

    async def authorize(self, access: Access) -> Grant:
        if self._access is None:
            raise ConfigurationError("The scheduler has no access control: nothing but models may be asked.")
        return await self._access.authorize(access)

    async def settle(self, grant: Grant, *, status: CallStatus, seconds: float) -> None:
        if self._access is not None:
            await self._access.settle(grant, status=status, seconds=seconds)


async def last_reply(stream: AsyncIterator[TokenDelta | ModelReply]) -> ModelReply:
    """Read a stream to its end and return its reply. Raises ProviderUnavailable if it has none."""
    reply: ModelReply | None = None
    async for chunk in stream:
        if isinstance(chunk, ModelReply):
            reply = chunk
    if reply is None:
        raise ProviderUnavailable("The model's answer broke off before its end.")
    return reply
