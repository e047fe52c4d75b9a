"""The loop over the attempts of one call."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from admiralty.core.errors import (
    AdmiraltyError,
    BudgetExceeded,
    ConfigurationError,
    Denied,
    OutputInvalid,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream
from admiralty.core.values import TIERS, ModelReply, TokenDelta
from admiralty.runtime.scheduler.pipeline import Attempt, Next, fold
from admiralty.runtime.scheduler.retry import Patience
from admiralty.runtime.scheduler.route import Route

from ..conftest import VirtualTime
from .conftest import CALL, Script, read, reply

TIER_MODELS: Any = {"none": "x:none", "small": "x:small", "mid": "x:mid", "frontier": "x:frontier"}
DOWN = ProviderUnavailable("down")


def route(time: VirtualTime, *stages: Any, **options: Any) -> Next:
    options.setdefault("fallbacks", {"x:mid": ["y:one"]})
    return fold([Route(TIER_MODELS, time, draw=lambda: 1.0, **options), *stages])


@pytest.mark.requirement("route.tiers")
@pytest.mark.parametrize("tier", TIERS)
def test_each_tier_goes_to_its_model(virtual: VirtualTime, tier: Any) -> None:
    script = Script([TokenDelta(text="a"), reply()])
    answer = virtual.run(read(route(virtual, script)(Attempt(call=replace(CALL, tier=tier)))))
    assert answer == [TokenDelta(text="a"), reply()]
    (attempt,) = script.attempts
    assert attempt.model is not None
    assert (attempt.model.id, attempt.model.tier, attempt.id) == (f"x:{tier}", tier, "call_1")


@pytest.mark.requirement("route.retry", "route.fallback")
def test_attempts_have_ids_and_progress_of_their_own_and_pauses_between(virtual: VirtualTime) -> None:
    script = Script([RateLimited("busy", retry_after=2.0)], [DOWN], [reply()])
    whole = Attempt(call=CALL)
    virtual.run(read(route(virtual, script)(whole)))
    assert script.models == ["x:mid", "x:mid", "y:one"]
    assert [attempt.id for attempt in script.attempts] == ["call_1", "call_1-2", "call_1-3"]
    assert len({id(attempt.progress) for attempt in (*script.attempts, whole)}) == 4
    assert virtual.passed == pytest.approx(2.25)
    assert whole.progress.timings["route"] == pytest.approx(2.25)


class Charges:
    """Stands for the stages that settle: charges each attempt what the test says."""

    def __init__(self, *costs: int | None) -> None:
        self._costs = iter(costs)

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        attempt.progress.sent = True
        attempt.progress.timings["rate"] = 1.0
        cost = next(self._costs)
        attempt.progress.settled = None if cost is None else Nanos(cost)
        async with aclosing(following(attempt)) as stream:
            async for chunk in stream:
                yield (
                    replace(chunk, cost=attempt.progress.settled) if isinstance(chunk, ModelReply) else chunk
                )


@pytest.mark.requirement("route.cost")
@pytest.mark.parametrize(("costs", "total"), [((5, 0, 7), 12), ((None, 0, 7), None), ((5, 0, None), None)])
def test_the_reply_costs_what_all_attempts_cost(
    virtual: VirtualTime, costs: tuple[int | None, ...], total: int | None
) -> None:
    script = Script([DOWN], [DOWN], [reply(cost=None)])
    whole = Attempt(call=CALL)
    (answer,) = virtual.run(read(route(virtual, Charges(*costs), script)(whole)))
    assert answer.cost == total
    assert whole.progress.settled == sum(cost for cost in costs if cost is not None)
    assert whole.progress.timings["rate"] == 3.0
    assert whole.progress.sent


@pytest.mark.requirement("route.cost")
def test_an_invalid_answer_tells_the_cost_of_all_attempts_too(virtual: VirtualTime) -> None:
    script = Script([DOWN], [OutputInvalid("no JSON", reply=reply(cost=7))])
    with pytest.raises(OutputInvalid) as failed:
        virtual.run(read(route(virtual, Charges(5, 7), script)(Attempt(call=CALL))))
    assert failed.value.reply is not None
    assert failed.value.reply.cost == 12


@pytest.mark.requirement("route.tried")
def test_when_all_fail_the_error_says_what_was_tried(virtual: VirtualTime) -> None:
    script = Script([DOWN], [RateLimited("busy")], [DOWN], [RateLimited("full", retry_after=3.0)])
    with pytest.raises(RateLimited, match=r"full Tried: x:mid \(provider_unavailable\), x:mid") as failed:
        virtual.run(read(route(virtual, script)(Attempt(call=CALL))))
    assert failed.value.retry_after == 3.0
    assert failed.value.details["tried"] == [
        {"model": "x:mid", "error": "provider_unavailable"},
        {"model": "x:mid", "error": "rate_limited"},
        {"model": "y:one", "error": "provider_unavailable"},
        {"model": "y:one", "error": "rate_limited"},
    ]


@pytest.mark.requirement("route.seen")
def test_nothing_is_tried_again_once_text_was_seen(virtual: VirtualTime) -> None:
    script = Script([TokenDelta(text="On"), DOWN], [reply()])
    with pytest.raises(ProviderUnavailable):
        virtual.run(read(route(virtual, script)(Attempt(call=CALL))))
    assert len(script.attempts) == 1


@pytest.mark.requirement("route.refusals")
@pytest.mark.parametrize("refusal", [Denied("no"), BudgetExceeded("no money")])
def test_a_refusal_is_not_dodged_by_another_provider(virtual: VirtualTime, refusal: AdmiraltyError) -> None:
    script = Script([refusal], [reply()])
    call = replace(CALL, lowest_tier=CALL.tier)
    with pytest.raises(type(refusal)):
        virtual.run(read(route(virtual, script)(Attempt(call=call))))
    assert script.models == ["x:mid"]


@pytest.mark.requirement("route.lower")
def test_when_money_is_short_a_lower_tier_answers(virtual: VirtualTime) -> None:
    script = Script([BudgetExceeded("no")], [BudgetExceeded("no")], [reply()])
    call = replace(CALL, tier="frontier", lowest_tier="small")
    virtual.run(read(route(virtual, script)(Attempt(call=call))))
    assert script.models == ["x:frontier", "x:mid", "x:small"]


@pytest.mark.requirement("route.deadline")
def test_a_pause_that_ends_after_the_deadline_is_not_begun(virtual: VirtualTime) -> None:
    script = Script([RateLimited("busy", retry_after=5.0)], [reply()])
    call = replace(CALL, deadline=virtual.now() + 4)
    with pytest.raises(RateLimited) as failed:
        virtual.run(read(route(virtual, script, fallbacks={})(Attempt(call=call))))
    assert failed.value.retry_after == 5.0
    assert virtual.passed == 0


@pytest.mark.requirement("route.bounded")
def test_settings_bound_the_attempts(virtual: VirtualTime) -> None:
    script = Script(*([DOWN],) * 10)
    with pytest.raises(ProviderUnavailable):
        virtual.run(read(route(virtual, script, patience=Patience(attempts=7))(Attempt(call=CALL))))
    assert len(script.attempts) == 7


def test_a_tier_without_a_model_is_refused_at_construction(virtual: VirtualTime) -> None:
    with pytest.raises(ConfigurationError, match="no entry for tier 'small'"):
        Route({"none": "x:m"}, virtual)
