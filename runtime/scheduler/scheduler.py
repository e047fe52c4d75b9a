"""The pipeline behind the Scheduler port, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing

from admiralty.core.errors import ProviderUnavailable
from admiralty.core.ports import AnswerStream, Clock, ModelProvider
from admiralty.core.values import ModelCall, ModelReply, Tier, TokenDelta
from admiralty.runtime.scheduler.dispatch import Dispatch
from admiralty.runtime.scheduler.pipeline import Attempt, Stage, fold
from admiralty.runtime.scheduler.record import AddRecord, Record
from admiralty.runtime.scheduler.route import Route


def default_stages(
    *,
    tier_models: Mapping[Tier, str],
    providers: Iterable[ModelProvider],
    add_record: AddRecord,
    clock: Clock,
) -> list[Stage]:
    """Return the stages of a model call, in order."""
    return [
        Route(tier_models),
        Record(add_record, clock),
        Dispatch(providers, clock),
    ]


class LocalScheduler:
    """Runs the pipeline in this process."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._pipeline = fold(stages)

    async def close(self) -> None:
        """Let go of what the stages hold: connections to providers."""
        for stage in self._stages:
            if close := getattr(stage, "close", None):
                await close()

    def stream(self, call: ModelCall) -> AnswerStream:
        return self._pipeline(Attempt(call=call))

    async def complete(self, call: ModelCall) -> ModelReply:
        async with aclosing(self.stream(call)) as stream:
            return await last_reply(stream)


async def last_reply(stream: AsyncIterator[TokenDelta | ModelReply]) -> ModelReply:
    """Read a stream to its end and return its reply. Raises ProviderUnavailable if it has none."""
    reply: ModelReply | None = None
    async for chunk in stream:
        if isinstance(chunk, ModelReply):
            reply = chunk
    if reply is None:
        raise ProviderUnavailable("The model's answer broke off before its end.")
    return reply
