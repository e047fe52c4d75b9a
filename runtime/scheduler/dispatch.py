"""Stage: ask the provider, within the deadline and the output that is paid for.

The only code that holds providers. Knows which of them fail again and again, and leaves those alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing

from admiralty.core.errors import (
    AdmiraltyError,
    ConfigurationError,
    DeadlineExceeded,
    ProviderUnavailable,
)
from admiralty.core.frozen import replace
from admiralty.core.ports import AnswerStream, Clock, ModelProvider
from admiralty.core.values import Model, ModelCall, ModelReply, TokenDelta
from admiralty.runtime.scheduler.breaker import Breakers
from admiralty.runtime.scheduler.pipeline import Attempt, Next

DEFAULT_KEY = "default"
"""Name of a provider's only account."""

Providers = Mapping[tuple[str, str], ModelProvider]
"""Providers by their name and the name of the account that they use."""


def by_account(providers: Iterable[ModelProvider]) -> Providers:
    """Return providers that have one account each."""
    return {(provider.name, DEFAULT_KEY): provider for provider in providers}


class Dispatch:
    """Hands a call to the provider of its model; whatever that raises arrives as one of our errors."""

    def __init__(self, providers: Providers, clock: Clock, breakers: Breakers | None = None) -> None:
        self._providers = providers
        self._clock = clock
        self._breakers = breakers or Breakers(clock)

    async def close(self) -> None:
        """Close the providers' connections, of those that keep some."""
        for provider in self._providers.values():
            if close := getattr(provider, "close", None):
                await close()

    async def __call__(self, attempt: Attempt, _: Next) -> AnswerStream:
        model = attempt.model
        if model is None:
            raise ConfigurationError(f"Call {attempt.call.id} was not routed to a model.")
        key = attempt.key or DEFAULT_KEY
        provider = self._provider(model, key)
        deadline = _earlier(attempt.call.deadline, attempt.deadline)
        if deadline is not None and deadline <= self._clock.now():
            raise DeadlineExceeded(f"The deadline passed before {model.id} was asked.")
        account = f"{model.provider}/{key}"
        trial = self._breakers.admit(account, model.id)
        answered = failed = False
        started = self._clock.monotonic()
        try:
            async with aclosing(self._ask(attempt, provider, model, deadline)) as stream:
                async for chunk in stream:
                    if isinstance(chunk, ModelReply):
                        answered = True
                    yield chunk
        except ProviderUnavailable:
            failed = True
            raise
        except DeadlineExceeded:  # says more about the caller than about the provider
            raise
        except AdmiraltyError:
            answered = True
            raise
        finally:
            attempt.progress.timings["dispatch"] = self._clock.monotonic() - started
            if answered:
                self._breakers.succeeded(account, model.id)
            elif failed:
                self._breakers.failed(account, model.id, trial=trial)
            else:
                self._breakers.abandoned(account, model.id, trial=trial)

    async def _ask(
        self, attempt: Attempt, provider: ModelProvider, model: Model, deadline: float | None
    ) -> AnswerStream:
        progress = attempt.progress
        call = _allowed(attempt, model)
        progress.sent = True
        async with aclosing(provider.stream(call, model.name)) as stream:
            while True:
                try:
                    if deadline is None:
                        chunk = await anext(stream)
                    else:
                        async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                            chunk = await anext(stream)
                except StopAsyncIteration:
                    raise ProviderUnavailable(
                        f"{model.id} ended its answer without a result.", billed="unknown"
                    ) from None
                except TimeoutError as error:
                    if deadline is None or deadline > self._clock.now():  # the provider's own
                        raise ProviderUnavailable(
                            f"{model.id} did not answer in time: {error}", billed="unknown"
                        ) from error
                    raise DeadlineExceeded(
                        f"{model.id} did not answer before the deadline.", billed="unknown"
                    ) from None
                except AdmiraltyError as error:
                    if progress.text_bytes:  # what has come was made, whatever became of the rest
                        error.details.setdefault("billed", "unknown")
                    raise
                except Exception as error:
                    raise ProviderUnavailable(
                        f"{model.id} failed: {type(error).__name__}: {error}", billed="unknown"
                    ) from error
                if isinstance(chunk, TokenDelta):
                    progress.text_bytes += len(chunk.text.encode())
                yield chunk
                if isinstance(chunk, ModelReply):
                    return

    def _provider(self, model: Model, key: str) -> ModelProvider:
        provider = self._providers.get((model.provider, key))
        if provider is None:
            known = ", ".join(sorted({name for name, _ in self._providers}))
            raise ConfigurationError(
                f"models[{model.tier!r}] = {model.id!r}: no such provider. There are: {known}."
            )
        return provider


def _allowed(attempt: Attempt, model: Model) -> ModelCall:
    """Return the call as the provider is asked it: with the output that is paid for, and its model's tier."""
    call = attempt.call
    limit = call.max_output_tokens if attempt.output_tokens is None else attempt.output_tokens
    if limit == call.max_output_tokens and model.tier == call.tier:
        return call
    return replace(call, max_output_tokens=limit, tier=model.tier)


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
