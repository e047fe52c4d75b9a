"""Asking the provider: with the limit that is paid for, within the deadline, and not while it fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from admiralty.core.errors import (
    AdmiraltyError,
    ConfigurationError,
    DeadlineExceeded,
    OutputInvalid,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.values import ModelReply, TokenDelta
from admiralty.runtime.scheduler.breaker import BreakerRules, Breakers
from admiralty.runtime.scheduler.dispatch import Dispatch, by_account
from admiralty.runtime.scheduler.pipeline import Attempt, Next, Progress, fold

from ..conftest import VirtualTime
from .conftest import CALL, MODEL, FakeProvider, read, reply


def attempt(**changes: Any) -> Attempt:
    return replace(Attempt(call=CALL, id="call_1", model=MODEL, progress=Progress()), **changes)


def pipeline(provider: FakeProvider, time: VirtualTime, breakers: Breakers | None = None) -> Next:
    return fold([Dispatch(by_account([provider]), time, breakers)])


@pytest.mark.requirement("dispatch.limit")
def test_the_provider_is_given_the_output_that_is_paid_for_and_the_tier_that_was_chosen(
    virtual: VirtualTime,
) -> None:
    provider = FakeProvider(reply())
    ask = pipeline(provider, virtual)
    wishes = replace(CALL, max_output_tokens=500)
    lowered = replace(MODEL, tier="small")
    virtual.run(read(ask(attempt(call=wishes, output_tokens=40, model=lowered))))
    virtual.run(read(ask(attempt(call=wishes))))
    (first, name), (second, _) = provider.asked
    assert (first.max_output_tokens, first.tier, name) == (40, "small", "m")
    assert second == wishes


@pytest.mark.requirement("dispatch.progress")
def test_progress_tells_what_was_sent_and_what_has_come(virtual: VirtualTime) -> None:
    class Watching(FakeProvider):
        async def stream(self, call: Any, model: str) -> Any:
            assert current.progress.sent
            async for chunk in super().stream(call, model):
                yield chunk

    current = attempt()
    broken = ConnectionError("gone")
    ask = pipeline(Watching(TokenDelta(text="Grüße"), TokenDelta(text="!"), broken), virtual)
    with pytest.raises(ProviderUnavailable, match="ConnectionError: gone") as failed:
        virtual.run(read(ask(current)))
    assert current.progress.text_bytes == 8
    assert failed.value.details["billed"] == "unknown"
    assert current.progress.timings["dispatch"] >= 0


@pytest.mark.requirement("dispatch.billed", "scheduler.errors")
@pytest.mark.parametrize(
    ("chunks", "kind", "unknown"),
    [
        ((RateLimited("slow down", retry_after=2.0),), RateLimited, False),
        ((ProviderUnavailable("refused"),), ProviderUnavailable, False),
        ((TokenDelta(text="x"), ProviderUnavailable("broke off")), ProviderUnavailable, True),
        ((KeyError("inside"),), ProviderUnavailable, True),
        ((), ProviderUnavailable, True),
        ((TokenDelta(text="x"),), ProviderUnavailable, True),
        ((None,), DeadlineExceeded, True),
        ((TokenDelta(text="x"), None), DeadlineExceeded, True),
    ],
)
def test_an_error_is_one_of_ours_and_tells_whether_it_may_have_cost_something(
    virtual: VirtualTime, chunks: Any, kind: type[AdmiraltyError], unknown: bool
) -> None:
    provider = FakeProvider(*chunks)
    due = replace(CALL, deadline=virtual.now() + 30)
    with pytest.raises(kind) as failed:
        virtual.run(read(pipeline(provider, virtual)(attempt(call=due))))
    assert (failed.value.details.get("billed") == "unknown") == unknown
    assert getattr(failed.value, "retry_after", None) == (2.0 if kind is RateLimited else None)
    assert provider.closed


@pytest.mark.requirement("scheduler.deadline")
@pytest.mark.parametrize(("of_call", "of_attempt"), [(20, None), (None, 20), (20, 60), (60, 20)])
def test_nobody_waits_beyond_the_earlier_deadline(
    virtual: VirtualTime, of_call: float | None, of_attempt: float | None
) -> None:
    began = virtual.now()
    due = [None if seconds is None else began + seconds for seconds in (of_call, of_attempt)]
    current = attempt(call=replace(CALL, deadline=due[0]), deadline=due[1])
    with pytest.raises(DeadlineExceeded):
        virtual.run(read(pipeline(FakeProvider(TokenDelta(text="x"), None), virtual)(current)))
    assert virtual.now() == pytest.approx(began + 20)


@pytest.mark.requirement("scheduler.deadline", "dispatch.billed")
def test_after_the_deadline_no_provider_is_asked(virtual: VirtualTime) -> None:
    provider = FakeProvider(reply())
    current = attempt(call=replace(CALL, deadline=virtual.now()))
    with pytest.raises(DeadlineExceeded) as failed:
        virtual.run(read(pipeline(provider, virtual)(current)))
    assert provider.asked == []
    assert not current.progress.sent
    assert "billed" not in failed.value.details


@pytest.mark.requirement("scheduler.leave")
async def test_leaving_ends_the_call_at_the_provider(virtual: VirtualTime) -> None:
    provider = FakeProvider(TokenDelta(text="x"), None)
    stream = pipeline(provider, virtual)(attempt())
    assert await anext(stream) == TokenDelta(text="x")
    await stream.aclose()
    assert provider.closed
    waiting = FakeProvider(None)
    task = asyncio.create_task(read(pipeline(waiting, virtual)(attempt())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.closed


@pytest.mark.requirement("rates.keys")
def test_each_account_is_a_provider_of_its_own(virtual: VirtualTime) -> None:
    one, two = FakeProvider(reply()), FakeProvider(reply())
    ask = fold([Dispatch({("fake", "a"): one, ("fake", "b"): two}, virtual)])
    virtual.run(read(ask(attempt(key="b"))))
    assert (len(one.asked), len(two.asked)) == (0, 1)


@pytest.mark.requirement("scheduler.errors")
def test_a_provider_that_nobody_built_is_named_with_the_known_ones(virtual: VirtualTime) -> None:
    elsewhere = replace(MODEL, provider="elsewhere")
    with pytest.raises(ConfigurationError, match=r"models\['mid'\] = 'elsewhere:m'.* There are: fake"):
        virtual.run(read(pipeline(FakeProvider(), virtual)(attempt(model=elsewhere))))


@pytest.mark.requirement("breaker.open")
def test_a_provider_that_keeps_failing_is_not_asked_for_a_while_then_tried_once(
    virtual: VirtualTime,
) -> None:
    provider = FakeProvider(ProviderUnavailable("down"))
    ask = pipeline(provider, virtual, Breakers(virtual, BreakerRules(failures=3, pause=10)))
    for _ in range(5):
        with pytest.raises(ProviderUnavailable) as failed:
            virtual.run(read(ask(attempt())))
    assert len(provider.asked) == 3
    assert failed.value.retry_after == pytest.approx(10)
    virtual.passed += 10
    provider.chunks = (reply(),)
    assert isinstance(virtual.run(read(ask(attempt())))[-1], ModelReply)


@pytest.mark.requirement("breaker.open")
@pytest.mark.parametrize(
    "answer",
    [RateLimited("busy"), ProviderRejected("bad key"), OutputInvalid("no JSON"), DeadlineExceeded("late")],
)
def test_a_provider_that_answers_or_was_not_waited_for_is_not_taken_for_broken(
    virtual: VirtualTime, answer: AdmiraltyError
) -> None:
    provider = FakeProvider(answer)
    ask = pipeline(provider, virtual, Breakers(virtual, BreakerRules(failures=2)))
    for _ in range(5):
        with pytest.raises(type(answer)):
            virtual.run(read(ask(attempt())))
    assert len(provider.asked) == 5
