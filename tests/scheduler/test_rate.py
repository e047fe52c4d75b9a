"""A place at a provider's account: which one, what it is charged, and what its provider says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from admiralty.core.errors import (
    AdmiraltyError,
    OutputInvalid,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Identity, ModelReply, Usage
from admiralty.runtime.rates import Limits, LocalLimiter
from admiralty.runtime.scheduler.breaker import BreakerRules, Breakers
from admiralty.runtime.scheduler.dispatch import Dispatch
from admiralty.runtime.scheduler.pipeline import Attempt, Next, Stage, fold
from admiralty.runtime.scheduler.rate import Rate, rest_wanted, unused
from admiralty.runtime.scheduler.route import Route

from ..conftest import VirtualTime
from .conftest import CALL, MODEL, FakeProvider, read, reply

A, B = "fake/a", "fake/b"


class Desk:
    """Rate and dispatch over accounts ``a`` and ``b`` of one provider."""

    def __init__(self, time: VirtualTime, limits: Mapping[str, Limits], keys: str = "ab") -> None:
        self.time = time
        self.accounts = {key: FakeProvider(reply()) for key in keys}
        self.breakers = Breakers(time, BreakerRules(failures=1, pause=30))
        limiter = LocalLimiter(limits, time)
        self.rate = Rate({"fake": list(keys)}, limits, limiter, self.breakers, time)
        providers = {("fake", key): provider for key, provider in self.accounts.items()}
        self.stages: list[Stage] = [self.rate, Dispatch(providers, time, self.breakers)]
        self.ask: Next = fold(self.stages)
        self.times: list[float] = []

    async def call(self, tenant: str = "t", **changes: Any) -> ModelReply:
        caller = replace(CALL.caller, identity=Identity(tenant=tenant))
        attempt = Attempt(call=replace(CALL, caller=caller), model=MODEL, **changes)
        *_, last = await read(self.ask(attempt))
        self.times.append(self.time.passed)
        assert isinstance(last, ModelReply)
        return last

    @property
    def asked(self) -> dict[str, int]:
        return {key: len(provider.asked) for key, provider in self.accounts.items()}


@pytest.mark.requirement("rates.limit")
def test_calls_beyond_the_limit_wait_their_time(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {A: Limits(requests_per_minute=6)}, "a")

    async def scenario() -> None:
        await asyncio.gather(*(desk.call() for _ in range(9)))

    virtual.run(scenario())
    assert desk.times == pytest.approx([0] * 6 + [10, 20, 30])


@pytest.mark.requirement("rates.keys")
def test_calls_spread_over_accounts_by_room_and_by_what_is_under_way(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {A: Limits(requests_per_minute=30), B: Limits(requests_per_minute=10)})

    async def scenario() -> None:
        await asyncio.gather(*(desk.call() for _ in range(40)))

    virtual.run(scenario())
    assert desk.asked == {"a": 30, "b": 10}
    assert virtual.passed == 0
    free = Desk(virtual, {})
    for provider in free.accounts.values():
        provider.chunks = (1.0, reply())

    async def at_once() -> None:
        await asyncio.gather(*(free.call() for _ in range(10)))

    virtual.run(at_once())
    assert free.asked == {"a": 5, "b": 5}


@pytest.mark.requirement("rates.true_up")
def test_tokens_are_charged_as_expected_and_then_as_used(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {A: Limits(tokens_per_minute=600)}, "a")
    desk.accounts["a"].chunks = (5.0, reply(usage=Usage(input_tokens=60, output_tokens=40)))

    async def scenario() -> None:
        await asyncio.gather(*(desk.call(input_tokens=50, output_tokens=250) for _ in range(3)))

    virtual.run(scenario())
    # The third finds room as soon as the others are known to have used 100 of their 300.
    assert desk.times == pytest.approx([5, 5, 10])


@pytest.mark.requirement("rates.bounds", "rates.true_up")
def test_the_wait_is_reckoned_from_what_calls_use_and_not_from_what_they_may(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {A: Limits(tokens_per_minute=600)}, "a")
    desk.accounts["a"].chunks = (reply(usage=Usage(input_tokens=25, output_tokens=5)),)

    async def crowd() -> int:
        calls = (desk.call(input_tokens=50, output_tokens=250) for _ in range(12))
        results = await asyncio.gather(*calls, return_exceptions=True)
        return sum(isinstance(result, RateLimited) for result in results)

    async def scenario() -> None:
        assert await crowd() > 6  # 300 tokens each, as far as anybody knows: half a minute
        for _ in range(60):
            await desk.call(input_tokens=50, output_tokens=250)
            await asyncio.sleep(5)
        assert await crowd() == 0  # 30 tokens each, as was seen

    virtual.run(scenario())


@pytest.mark.requirement("rates.headers")
def test_a_busy_account_rests_while_another_is_asked_at_once(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {})
    desk.accounts["a"].chunks = (RateLimited("busy", retry_after=7.0),)
    ask = fold([Route(dict.fromkeys(("none", "small", "mid", "frontier"), "fake:m"), virtual), *desk.stages])

    async def scenario() -> None:
        for _ in range(5):
            await read(ask(Attempt(call=CALL)))

    virtual.run(scenario())
    assert desk.asked == {"a": 1, "b": 5}
    assert virtual.passed < 1  # jitter only
    virtual.passed += 10
    desk.accounts["a"].chunks = (reply(),)
    virtual.run(read(ask(Attempt(call=CALL))))
    assert desk.asked["a"] == 2


@pytest.mark.requirement("rates.headers")
def test_a_call_waits_out_what_its_only_account_is_asked_to(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {}, "a")
    desk.accounts["a"].chunks = (RateLimited("busy", retry_after=7.0),)

    async def scenario() -> None:
        with pytest.raises(RateLimited) as failed:
            await desk.call()
        assert failed.value.retry_after == 7.0
        desk.accounts["a"].chunks = (reply(metadata={"rate_limits": {"requests_remaining": 0.0}}),)
        await desk.call()
        await desk.call()

    virtual.run(scenario())
    assert desk.times == pytest.approx([7, 8])


@pytest.mark.requirement("rates.keys", "breaker.open")
def test_an_account_that_is_left_alone_is_passed_over_and_if_all_are_the_call_fails_at_once(
    virtual: VirtualTime,
) -> None:
    desk = Desk(virtual, {})
    desk.accounts["a"].chunks = (ProviderUnavailable("down"),)

    async def scenario() -> None:
        with pytest.raises(ProviderUnavailable, match="down"):
            await desk.call()
        for _ in range(4):
            await desk.call()
        assert desk.asked == {"a": 1, "b": 4}
        desk.accounts["b"].chunks = (ProviderUnavailable("down"),)
        with pytest.raises(ProviderUnavailable, match="down"):
            await desk.call()
        with pytest.raises(ProviderUnavailable, match="left alone") as refused:
            await desk.call()
        assert refused.value.retry_after == pytest.approx(30)
        assert desk.asked == {"a": 1, "b": 5}

    virtual.run(scenario())


@pytest.mark.requirement("rates.fair")
def test_tenants_take_turns(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {A: Limits(requests_per_minute=60)}, "a")

    async def scenario() -> None:
        crowd = [asyncio.create_task(desk.call("busy")) for _ in range(100)]
        await asyncio.sleep(3.5)
        began = virtual.passed
        await desk.call("other")
        assert virtual.passed - began <= 1.5
        await asyncio.gather(*crowd)

    virtual.run(scenario())


@pytest.mark.requirement("rates.leave")
def test_nothing_is_kept_of_calls_that_are_over(virtual: VirtualTime) -> None:
    desk = Desk(virtual, {A: Limits(requests_per_minute=60)}, "a")

    async def scenario() -> None:
        tasks = [asyncio.create_task(desk.call()) for _ in range(70)]
        await asyncio.sleep(2)
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert not desk.rate._busy
        assert not desk.rate._late
        await desk.rate.close()

    virtual.run(scenario())


def test_a_provider_that_nobody_knows_is_left_to_dispatch(virtual: VirtualTime) -> None:
    seen: list[Attempt] = []

    async def last(attempt: Attempt, _: Next) -> AnswerStream:
        seen.append(attempt)
        yield reply()

    rate = Rate({}, {}, LocalLimiter({}, virtual), Breakers(virtual), virtual)
    virtual.run(read(fold([rate, last])(Attempt(call=CALL, model=MODEL))))
    assert seen[0].key == ""


REPLY = reply(usage=Usage(input_tokens=30, output_tokens=20))


@pytest.mark.requirement("rates.true_up")
@pytest.mark.parametrize(
    ("sent", "outcome", "back"),
    [
        (False, None, (1, 100)),
        (False, RateLimited("full", refused="queue"), (1, 100)),
        (True, REPLY, (0, 50)),
        (True, replace(REPLY, usage=Usage(input_tokens=130)), (0, -30)),
        (True, replace(REPLY, metadata={"usage_reported": False}), (0, 0)),
        (True, OutputInvalid("no JSON", reply=REPLY), (0, 50)),
        (True, RateLimited("busy"), (0, 100)),
        (True, ProviderRejected("bad"), (0, 100)),
        (True, ProviderUnavailable("down"), (0, 100)),
        (True, ProviderUnavailable("broke off", billed="unknown"), (0, 0)),
        (True, None, (0, 0)),  # left, or the deadline passed
    ],
)
def test_what_a_call_did_not_use_is_known_or_stays_charged(
    sent: bool, outcome: ModelReply | AdmiraltyError | None, back: tuple[int, int]
) -> None:
    assert unused(100, sent=sent, outcome=outcome) == back


@pytest.mark.requirement("rates.headers")
@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (None, 0),
        (REPLY, 0),
        (RateLimited("busy", retry_after=7.0), 7),
        (RateLimited("busy"), 1),
        (RateLimited("ours", retry_after=7.0, refused="queue"), 0),
        (reply(metadata={"rate_limits": {"requests_remaining": 3.0, "requests_reset_seconds": 9.0}}), 0),
        (reply(metadata={"rate_limits": {"requests_remaining": 0.0, "requests_reset_seconds": 9.0}}), 1),
        (reply(metadata={"rate_limits": {"tokens_remaining": 0.0, "tokens_reset_seconds": 0.2}}), 0.2),
        (ProviderUnavailable("down", rate_limits={"tokens_remaining": 0.0}), 1),
    ],
)
def test_how_long_a_provider_wants_to_be_left_alone(
    outcome: ModelReply | AdmiraltyError | None, seconds: float
) -> None:
    assert rest_wanted(outcome) == seconds
