"""Stage: ask the provider, within the deadline. The only code that holds providers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing

from admiralty.core.errors import AdmiraltyError, ConfigurationError, DeadlineExceeded, ProviderUnavailable
from admiralty.core.ports import AnswerStream, Clock, ModelProvider
from admiralty.core.values import ModelReply
from admiralty.runtime.scheduler.pipeline import Attempt, Next


class Dispatch:
    """Hands a call to the provider of its model; whatever that raises arrives as one of our errors."""

    def __init__(self, providers: Iterable[ModelProvider], clock: Clock) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._clock = clock

    async def close(self) -> None:
        """Close the providers' connections, of those that keep some."""
        for provider in self._providers.values():
            if close := getattr(provider, "close", None):
                await close()

    async def __call__(self, attempt: Attempt, _: Next) -> AnswerStream:
        call, model = attempt.call, attempt.model
        if model is None:
            raise ConfigurationError(f"Call {call.id} was not routed to a model.")
        provider = self._providers.get(model.provider)
        if provider is None:
            known = ", ".join(sorted(self._providers))
            raise ConfigurationError(
                f"models[{model.tier!r}] = {model.id!r}: no such provider. There are: {known}."
            )
        async with aclosing(provider.stream(call, model.name)) as stream:
            while True:
                try:
                    async with asyncio.timeout(self._seconds_left(call.deadline)):
                        chunk = await anext(stream)
                except StopAsyncIteration:
                    raise ProviderUnavailable(f"{model.id} ended its answer without a result.") from None
                except TimeoutError:
                    raise DeadlineExceeded(f"{model.id} did not answer before the deadline.") from None
                except AdmiraltyError:
                    raise
                except Exception as error:
                    raise ProviderUnavailable(
                        f"{model.id} failed: {type(error).__name__}: {error}"
                    ) from error
                yield chunk
                if isinstance(chunk, ModelReply):
                    return

    def _seconds_left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - self._clock.now())
