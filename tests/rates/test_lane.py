"""Calls that wait for a provider's accounts, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admiralty.core.errors import DeadlineExceeded, RateLimited
from admiralty.core.values import Permit
from admiralty.runtime.rates import Bounds, Lane, Limits, LocalLimiter, Ticket

from ..conftest import VirtualTime

KEY = "p/a"


def open_lane(time: VirtualTime, limits: Limits, bounds: Bounds | None = None) -> tuple[Lane, LocalLimiter]:
    limiter = LocalLimiter({KEY: limits}, time)
    return Lane("p", limiter, time, bounds or Bounds(waiting=2000, seconds=1e6)), limiter


def ticket(tenant: str = "t", *, tokens: int = 0, cost: float = 1.0, priority: int = 0) -> Ticket:
    return Ticket(tenant=tenant, keys=(KEY,), tokens=tokens, cost=cost, priority=priority)


@pytest.mark.requirement("rates.fair")
def test_a_tenant_with_a_thousand_calls_delays_anothers_single_one_by_a_slot(virtual: VirtualTime) -> None:
    async def scenario() -> float:
        lane, _ = open_lane(virtual, Limits(requests_per_minute=60))
        crowd = [asyncio.create_task(lane.enter(ticket("busy"), None)) for _ in range(1060)]
        await asyncio.sleep(10.5)
        came = virtual.now()
        await lane.enter(ticket("other"), None)
        waited = virtual.now() - came
        await asyncio.gather(*crowd)
        assert lane.waiting == 0
        return waited

    assert virtual.run(scenario()) <= 1.001  # one call a second
    assert virtual.passed == pytest.approx(1001, abs=0.1)


@pytest.mark.requirement("rates.limit")
@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.floats(0, 120), st.sampled_from("ab"), st.integers(0, 1500), st.integers(0, 2)),
        max_size=40,
    ),
    limits=st.builds(
        Limits,
        requests_per_minute=st.one_of(st.none(), st.integers(1, 30)),
        tokens_per_minute=st.one_of(st.none(), st.integers(100, 5000)),
    ),
)
def test_everyone_gets_through_and_never_more_than_the_limit(
    calls: list[tuple[float, str, int, int]], limits: Limits
) -> None:
    virtual = VirtualTime()
    sent: list[tuple[float, int]] = []

    async def call(lane: Lane, at: float, tenant: str, tokens: int, priority: int) -> None:
        await asyncio.sleep(at)
        mine = ticket(tenant, tokens=tokens, cost=limits.seconds(tokens), priority=priority)
        await lane.enter(mine, None)
        sent.append((virtual.passed, tokens))

    async def scenario() -> None:
        lane, _ = open_lane(virtual, limits)
        await asyncio.gather(*(call(lane, *each) for each in calls))

    virtual.run(scenario())
    assert len(sent) == len(calls)
    for index, (begin, _) in enumerate(sent):
        for end in range(index, len(sent)):
            minutes = 1 + (sent[end][0] - begin) / 60  # what is there after a rest, and what comes back
            part = sent[index : end + 1]
            if limits.requests_per_minute:
                assert len(part) <= limits.requests_per_minute * minutes + 1e-3
            if limits.tokens_per_minute:  # one that is larger than the limit leaves a debt
                over = max(0, max(tokens for _, tokens in part) - limits.tokens_per_minute)
                assert sum(tokens for _, tokens in part) <= limits.tokens_per_minute * minutes + over + 1


@pytest.mark.requirement("rates.bounds")
def test_beyond_the_bounds_a_call_is_refused_at_once_with_the_time_to_come_back(virtual: VirtualTime) -> None:
    async def scenario() -> None:
        lane, _ = open_lane(virtual, Limits(requests_per_minute=6), Bounds(waiting=3, seconds=100))
        slot = ticket(cost=10)
        for _ in range(6):
            await lane.enter(slot, None)
        waiting = [asyncio.create_task(lane.enter(ticket(cost=10), None)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="3 calls wait for p already") as refused:
            await lane.enter(ticket(cost=10), None)
        assert refused.value.retry_after == pytest.approx(40)  # ten to the next, three before
        assert refused.value.details == {"refused": "queue"}
        await asyncio.gather(*waiting)
        lane, limiter = open_lane(virtual, Limits(requests_per_minute=6), Bounds(seconds=100))
        await limiter.penalize(KEY, 101)
        with pytest.raises(RateLimited, match="more than is allowed") as refused:
            await lane.enter(slot, None)
        assert refused.value.retry_after == pytest.approx(101)
        assert lane.waiting == 0

    virtual.run(scenario())


@pytest.mark.requirement("rates.deadline")
def test_what_cannot_be_served_before_its_deadline_is_refused_at_once_else_when_it_passes(
    virtual: VirtualTime,
) -> None:
    async def scenario() -> None:
        lane, limiter = open_lane(virtual, Limits(requests_per_minute=6))
        for _ in range(6):
            await lane.enter(ticket(), None)
        began = virtual.now()
        with pytest.raises(RateLimited, match="beyond its deadline") as refused:
            await lane.enter(ticket(), began + 9)
        assert virtual.now() == began
        assert refused.value.retry_after == pytest.approx(10)
        task = asyncio.create_task(lane.enter(ticket(), began + 11))
        await asyncio.sleep(1)
        await limiter.penalize(KEY, 60)  # nobody knew
        with pytest.raises(DeadlineExceeded, match="while it waited for p"):
            await task
        assert virtual.now() == pytest.approx(began + 11)
        assert lane.waiting == 0

    virtual.run(scenario())


@pytest.mark.requirement("rates.leave")
def test_those_who_leave_take_nothing_and_hold_nobody_up(virtual: VirtualTime) -> None:
    async def scenario() -> None:
        lane, _ = open_lane(virtual, Limits(requests_per_minute=6))
        for _ in range(6):
            await lane.enter(ticket(), None)
        gone = [asyncio.create_task(lane.enter(ticket(), None)) for _ in range(100)]
        await asyncio.sleep(1)
        began = virtual.now()
        last = asyncio.create_task(lane.enter(ticket(), None))
        for task in gone:
            task.cancel()
        assert (await last).key == KEY
        assert virtual.now() - began <= 10
        assert lane.waiting == 0
        assert not lane._futures

    virtual.run(scenario())


@pytest.mark.requirement("rates.leave")
def test_one_who_leaves_in_the_moment_of_its_turn_passes_it_on(virtual: VirtualTime) -> None:
    leaving: list[asyncio.Task[Permit]] = []

    class Watched(LocalLimiter):
        async def take(self, keys: Sequence[str], tokens: int) -> Permit:
            if leaving and len(lane._futures) > lane.waiting:  # it was served, and has not noticed yet
                leaving.pop().cancel()
            return await super().take(keys, tokens)

    lane = Lane("p", Watched({KEY: Limits(requests_per_minute=6)}, virtual), virtual, Bounds())

    async def scenario() -> None:
        for _ in range(6):
            await lane.enter(ticket(), None)
        first, second = (asyncio.create_task(lane.enter(ticket(), None)) for _ in range(2))
        await asyncio.sleep(1)
        leaving.append(first)
        assert (await second).key == KEY
        assert first.cancelled()
        assert virtual.passed == pytest.approx(10)

    virtual.run(scenario())


@pytest.mark.requirement("rates.true_up")
def test_room_that_comes_back_early_is_used_at_once(virtual: VirtualTime) -> None:
    async def scenario() -> None:
        lane, limiter = open_lane(virtual, Limits(tokens_per_minute=600))
        permit = await lane.enter(ticket(tokens=600), None)
        waiting = asyncio.create_task(lane.enter(ticket(tokens=300), None))
        await asyncio.sleep(1)
        assert not waiting.done()
        await limiter.give_back(permit, tokens=400)
        lane.look_again()
        await waiting
        assert virtual.passed == pytest.approx(1)

    virtual.run(scenario())


@pytest.mark.requirement("rates.leave")
def test_closing_ends_the_waiting(virtual: VirtualTime) -> None:
    async def scenario() -> None:
        lane, limiter = open_lane(virtual, Limits(requests_per_minute=1))
        await limiter.penalize(KEY, 1000)
        waiting = asyncio.create_task(lane.enter(ticket(), None))
        await asyncio.sleep(1)
        await lane.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert lane.waiting == 0

    virtual.run(scenario())


@pytest.mark.requirement("rates.bounds")
def test_who_comes_while_the_limiter_is_asked_is_refused_only_if_there_is_no_room(
    virtual: VirtualTime,
) -> None:
    class Distant(LocalLimiter):
        async def take(self, keys: Sequence[str], tokens: int) -> Permit:
            await asyncio.sleep(0.001)
            return await super().take(keys, tokens)

    async def scenario() -> None:
        limiter = Distant({KEY: Limits(requests_per_minute=60)}, virtual)
        lane = Lane("p", limiter, virtual, Bounds(seconds=10))
        calls = (lane.enter(ticket("ab"[n % 2]), None) for n in range(100))
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, RateLimited)]
        assert 29 <= len(refused) <= 30  # 60 at once, 10 in the ten seconds that are allowed
        assert sum(isinstance(result, Permit) for result in results) == 100 - len(refused)
        assert virtual.passed == pytest.approx(11, abs=1)
        assert not lane._unsure
        assert not lane._futures

    virtual.run(scenario())


@pytest.mark.requirement("rates.leave")
def test_nobody_waits_for_a_limiter_that_broke(virtual: VirtualTime) -> None:
    class Broken(LocalLimiter):
        async def take(self, keys: Sequence[str], tokens: int) -> Permit:
            if virtual.passed > 5:
                raise RuntimeError("broken")
            return await super().take(keys, tokens)

    async def scenario() -> None:
        lane = Lane("p", Broken({KEY: Limits(requests_per_minute=6)}, virtual), virtual, Bounds())
        for _ in range(6):
            await lane.enter(ticket(), None)
        with pytest.raises(RuntimeError, match="broken"):
            await lane.enter(ticket(), None)
        assert lane.waiting == 0

    virtual.run(scenario())


def test_shares_of_limits_are_what_they_say() -> None:
    whole: Mapping[str, float] = {"requests_per_minute": 90, "tokens_per_minute": 3000}
    assert Limits(**whole).share(1 / 3) == Limits(requests_per_minute=30, tokens_per_minute=1000)
    assert Limits(**whole).seconds(1000) == 20
    assert Limits().share(0.5).unlimited
