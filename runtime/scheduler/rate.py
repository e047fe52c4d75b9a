"""Stage: wait for a place at one of the provider's accounts, and tell the limiter what was used of it.

An account with limits is charged what the call is expected to use, and corrected by what it did use. What
the provider says about its limits is passed on too. Providers without limits pass straight through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from admiralty.core.errors import (
    AdmiraltyError,
    OutputInvalid,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.frozen import replace
from admiralty.core.ports import AnswerStream, Clock, Limiter
from admiralty.core.values import Model, ModelReply, Permit
from admiralty.runtime.rates import Bounds, Lane, Limits, Ticket
from admiralty.runtime.scheduler.breaker import Breakers, open_error
from admiralty.runtime.scheduler.pipeline import Attempt, Next

REST_SECONDS = 1.0
"""How long an account rests where its provider says that nothing is left, but not from when it takes more.

Headers tell when everything is back; by then a provider has taken calls again for long.
"""

LEARNING = 0.1
"""Weight of the latest call in what calls are seen to use of the tokens that they are expected to."""

_FREE = Limits()


class Rate:
    """Sends each call through the account of its provider that has the most room.

    ``keys``: the names of each provider's accounts. ``limits`` by account (``provider/key``); what is missing
    has none. ``limiter`` must have been made with the same.
    """

    def __init__(
        self,
        keys: Mapping[str, Sequence[str]],
        limits: Mapping[str, Limits],
        limiter: Limiter,
        breakers: Breakers,
        clock: Clock,
        *,
        bounds: Bounds | None = None,
    ) -> None:
        self._accounts = {name: tuple(f"{name}/{key}" for key in own) for name, own in keys.items()}
        self._lanes = {name: Lane(name, limiter, clock, bounds or Bounds()) for name in keys}
        self._limits = {account: limit for account, limit in limits.items() if not limit.unlimited}
        self._limiter = limiter
        self._breakers = breakers
        self._clock = clock
        self._busy: dict[str, int] = {}
        self._resting: dict[str, float] = {}  # until when, of accounts whose provider said wait
        self._used: dict[str, float] = {}  # share of their expected tokens that a provider's calls use
        self._late: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open what the limiter needs."""
        await self._limiter.start()

    async def close(self) -> None:
        """End the waiting, and let go of what the limiter holds."""
        for lane in self._lanes.values():
            await lane.close()
        if self._late:
            await asyncio.wait(self._late, timeout=1)
        await self._limiter.close()

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        model = attempt.model
        if model is None or model.provider not in self._lanes:  # dispatch says what is wrong with it
            async with aclosing(following(attempt)) as stream:
                async for chunk in stream:
                    yield chunk
            return
        started = self._clock.monotonic()
        tokens = _expected(attempt)
        permit = await self._enter(attempt, model, tokens)
        attempt.progress.timings["rate"] = self._clock.monotonic() - started
        account = permit.key
        self._busy[account] = self._busy.get(account, 0) + 1
        outcome: ModelReply | AdmiraltyError | None = None
        try:
            sent = replace(attempt, key=account.partition("/")[2])
            async with aclosing(following(sent)) as stream:
                async for chunk in stream:
                    if isinstance(chunk, ModelReply):
                        outcome = chunk
                    yield chunk
        except AdmiraltyError as error:
            outcome = error
            raise
        finally:
            self._leave(account)
            await self._learn(model.provider, account, outcome)
            if account in self._limits:
                requests, rest = unused(tokens, sent=attempt.progress.sent, outcome=outcome)
                if isinstance(outcome, ModelReply) and tokens > 0:
                    self._see(model.provider, 1 - rest / tokens)
                if requests or rest:
                    self._later(self._correct(model.provider, permit, requests, rest))

    async def _enter(self, attempt: Attempt, model: Model, tokens: int) -> Permit:
        accounts = self._accounts[model.provider]
        waits = [self._breakers.wait(account, model.id) for account in accounts]
        if any(waits):
            if all(waits):
                raise open_error(model.id, min(waits))
            accounts = tuple(name for name, wait in zip(accounts, waits, strict=True) if not wait)
        if len(accounts) > 1:  # among those with as much room the one with the least to do
            accounts = tuple(sorted(accounts, key=lambda name: self._busy.get(name, 0)))
        call = attempt.call
        ticket = Ticket(
            tenant=call.caller.identity.tenant,
            keys=accounts,
            tokens=tokens,
            cost=self._seconds(accounts, round(tokens * self._used.get(model.provider, 1.0))),
            priority=call.priority,
        )
        deadlines = [at for at in (call.deadline, attempt.deadline) if at is not None]
        return await self._lanes[model.provider].enter(ticket, min(deadlines, default=None))

    def _seconds(self, accounts: Sequence[str], tokens: int) -> float:
        """Return how long all accounts together take to earn one such call."""
        rate = 0.0
        for account in accounts:
            seconds = self._limits.get(account, _FREE).seconds(tokens)
            if seconds == 0:
                return 0.0
            rate += 1 / seconds
        return 1 / rate

    def _see(self, provider: str, share: float) -> None:
        known = self._used.get(provider, 1.0)
        self._used[provider] = known + LEARNING * (min(1.0, share) - known)

    def _leave(self, account: str) -> None:
        self._busy[account] -= 1
        if not self._busy[account]:
            del self._busy[account]

    async def _learn(self, provider: str, account: str, outcome: ModelReply | AdmiraltyError | None) -> None:
        """Let the account rest where its provider says so; tell the error when another one may be asked."""
        seconds = rest_wanted(outcome)
        if seconds <= 0:
            return
        now = self._clock.monotonic()
        self._resting = {name: until for name, until in self._resting.items() if until > now}
        self._resting[account] = max(now + seconds, self._resting.get(account, 0.0))
        await self._limiter.penalize(account, seconds)
        if isinstance(outcome, RateLimited) and outcome.retry_after is not None:
            soonest = min(self._resting.get(name, now) for name in self._accounts[provider]) - now
            outcome.retry_after = min(outcome.retry_after, soonest)

    async def _correct(self, provider: str, permit: Permit, requests: int, tokens: int) -> None:
        await self._limiter.give_back(permit, requests=requests, tokens=tokens)
        self._lanes[provider].look_again()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it without letting the answer wait for it."""
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def unused(tokens: int, *, sent: bool, outcome: ModelReply | AdmiraltyError | None) -> tuple[int, int]:
    """Return the requests and tokens of a charge that were not used; negative tokens: more were used.

    What nobody knows stays charged: a request that was sent always, tokens where they may have been used.
    """
    if not sent:
        return 1, tokens
    reply = outcome.reply if isinstance(outcome, OutputInvalid) else outcome
    if isinstance(reply, ModelReply):
        told = reply.metadata.get("usage_reported", True) and reply.usage.total_tokens > 0
        return 0, tokens - reply.usage.total_tokens if told else 0
    if isinstance(outcome, RateLimited | ProviderRejected | ProviderUnavailable):
        return 0, 0 if outcome.details.get("billed") == "unknown" else tokens
    return 0, 0


def rest_wanted(outcome: ModelReply | AdmiraltyError | None) -> float:
    """Return the seconds for which the provider wants its account left alone; 0: not at all.

    It says so by refusing a call, or by headers that nothing is left of a limit.
    """
    if outcome is None:
        return 0.0
    if isinstance(outcome, RateLimited) and "refused" not in outcome.details:
        return REST_SECONDS if outcome.retry_after is None else outcome.retry_after
    told = outcome.metadata if isinstance(outcome, ModelReply) else outcome.details
    limits = told.get("rate_limits")
    if not limits:
        return 0.0
    return max(
        (
            min(REST_SECONDS, limits.get(f"{what}_reset_seconds", REST_SECONDS))
            for what in ("requests", "tokens")
            if limits.get(f"{what}_remaining", 1) <= 0
        ),
        default=0.0,
    )


def _expected(attempt: Attempt) -> int:
    limit = attempt.call.max_output_tokens if attempt.output_tokens is None else attempt.output_tokens
    return attempt.input_tokens + (limit or 0)
