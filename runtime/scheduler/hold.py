"""Stage: set the worst case's price aside in every budget that the call counts in, before anything is asked.

The output that is paid for is the output limit that the provider is given, so that a call cannot cost
more than its hold. Without a wish from the caller it is sized by what the agent usually needs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from admiralty.core.errors import ConfigurationError
from admiralty.core.frozen import replace
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import Model
from admiralty.runtime.ledger.estimate import Estimator, Expectation, extras, measure
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.prices import PriceBook
from admiralty.runtime.ledger.scopes import scopes_of
from admiralty.runtime.ledger.values import Entry, HoldRequest, Quote
from admiralty.runtime.scheduler.pipeline import Attempt, Next

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 0.25
"""How often calls that wait because little is known of their like look what other processes have learned."""

Key = tuple[str, str, str]
"""Fleet, agent and model: what is learned is learned of these."""


class Hold:
    """Asks the ledger for the money; what costs nothing passes without a hold."""

    def __init__(self, ledger: Ledger, prices: PriceBook, estimator: Estimator, clock: Clock) -> None:
        self._ledger = ledger
        self._prices = prices
        self._estimator = estimator
        self._clock = clock
        self._loaded: set[Key] = set()
        self._learning: dict[Key, tuple[int, asyncio.Task[None]]] = {}

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        started = self._clock.monotonic()
        attempt = await self._held(attempt)
        attempt.progress.timings["hold"] = self._clock.monotonic() - started
        async with aclosing(following(attempt)) as stream:
            async for chunk in stream:
                yield chunk

    async def _held(self, attempt: Attempt) -> Attempt:
        call, model = attempt.call, attempt.model
        if model is None:
            raise ConfigurationError(f"Call {call.id} was not routed to a model.")
        attempt = replace(attempt, measure=attempt.measure or measure(call))
        if not self._costs(model):
            return replace(attempt, input_tokens=attempt.measure, output_tokens=call.max_output_tokens)
        key = (call.caller.fleet, call.caller.agent, model.id)
        if key not in self._loaded and not self._estimator.known(key):
            await self._load(key)
        expectation, quote = self._expect(attempt, model)
        if quote.amount(expectation.output_tokens) > 0:
            request = self._request(attempt, expectation, quote)
            async with self._others_lessons(key, wanted=expectation.unproven):
                hold = await self._ledger.reserve(request, lambda: self._again(attempt, model))
            attempt = replace(attempt, hold=hold, output_tokens=hold.output_tokens)
            expected, quote = hold.request.entry.expected_input, hold.request.quote
        else:
            attempt = replace(attempt, output_tokens=expectation.output_tokens)
            expected = expectation.input_tokens
        deadline = call.deadline
        if quote.seconds is not None:  # time is money: what was not paid for must not be used
            until = self._clock.now() + quote.seconds
            deadline = until if deadline is None else min(deadline, until)
        return replace(attempt, input_tokens=expected, deadline=deadline)

    def _costs(self, model: Model) -> bool:
        quote = self._prices.quote(model, 1_000_000, seconds=3600.0)
        return quote.fixed > 0 or quote.per_million > 0

    def _expect(self, attempt: Attempt, model: Model) -> tuple[Expectation, Quote]:
        call = attempt.call
        expectation = self._estimator.expect(
            (call.caller.fleet, call.caller.agent, model.id),
            attempt.measure,
            call.max_output_tokens,
            self._prices.max_output(model),
        )
        left = None if call.deadline is None else max(0.0, call.deadline - self._clock.now())
        quote = self._prices.quote(model, expectation.input_tokens, seconds=left, extras=extras(call))
        return expectation, quote

    def _again(self, attempt: Attempt, model: Model) -> HoldRequest:
        return self._request(attempt, *self._expect(attempt, model))

    def _request(self, attempt: Attempt, expectation: Expectation, quote: Quote) -> HoldRequest:
        call = attempt.call
        return HoldRequest(
            id=attempt.id or call.id,
            quote=quote,
            wanted=expectation.output_tokens,
            floor=expectation.floor,
            entry=entry_of(replace(attempt, input_tokens=expectation.input_tokens), self._prices.version),
            scopes=scopes_of(call.caller),
            priority=call.priority,
            deadline=call.deadline,
            factor=expectation.factor,
            unproven=expectation.unproven,
        )

    async def _load(self, key: Key) -> None:
        """Learn what the ledger knows of such calls."""
        self._loaded.add(key)
        self._estimator.load(key, await self._ledger.recent(*key))

    @asynccontextmanager
    async def _others_lessons(self, key: Key, *, wanted: bool) -> AsyncIterator[None]:
        """Learn what other processes' calls have cost, while a call waits for want of knowledge."""
        if not wanted:
            yield
            return
        users, task = self._learning.get(key) or (0, asyncio.create_task(self._reload(key)))
        self._learning[key] = (users + 1, task)
        try:
            yield
        finally:
            users, task = self._learning.pop(key)
            if users > 1:
                self._learning[key] = (users - 1, task)
            else:
                task.cancel()  # not waited for: whoever is cancelled meanwhile would not learn of it

    async def _reload(self, key: Key) -> None:
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await self._load(key)
            except Exception:
                logger.exception("what calls of %s cost could not be looked up", key)


def entry_of(attempt: Attempt, price_book: str) -> Entry:
    """Return the ledger's entry for an attempt, as far as it is known before it is made."""
    call, model = attempt.call, attempt.model
    return Entry(
        id=attempt.id or call.id,
        call_id=call.id,
        kind="model",
        caller=call.caller,
        model=model.id if model else "",
        tier=model.tier if model else call.tier,
        status="expired",
        cost=None,
        measure=attempt.measure,
        expected_input=attempt.input_tokens,
        output_limit=attempt.output_tokens or 0,
        factor=attempt.hold.request.factor if attempt.hold else 1.0,
        price_book=price_book,
        policy=attempt.policy,
    )
