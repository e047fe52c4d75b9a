"""What every limiter does: in this process, and in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from admiralty.core.clock import SystemClock
from admiralty.core.ports import Limiter
from admiralty.core.values import Permit
from admiralty.runtime.rates import Limits, LocalLimiter

Make = Callable[[Mapping[str, Limits]], Limiter]

A, B, FREE = "p/a", "p/b", "p/free"
FAST = Limits(tokens_per_minute=60_000)  # 1,000 a second


@pytest.fixture(params=["local", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes a limiter whose accounts have rested."""
    opened: list[Limiter] = []
    if request.param == "local":

        def build(limits: Mapping[str, Limits]) -> Limiter:
            return LocalLimiter(limits, SystemClock())
    else:
        server = request.getfixturevalue("redis_server")
        from redis import Redis

        from admiralty.runtime.rates.redis_limiter import RedisLimiter

        with Redis.from_url(server.url) as client:  # a server that has been there for long
            client.hset("test:{rates}:clock", mapping={"at": time.time(), "service": 1000})

        def build(limits: Mapping[str, Limits]) -> Limiter:
            made = RedisLimiter(server.url, limits, SystemClock(), replicas=1, namespace="test")
            opened.append(made)
            return made

    yield build
    for limiter in opened:
        await limiter.close()


async def drain(limiter: Limiter, key: str, tokens: int) -> Permit:
    permit = await limiter.take([key], tokens)
    assert permit.key == key
    return permit


async def taken_within(limiter: Limiter, key: str, tokens: int, seconds: float) -> Permit:
    """Take as one who waits does: again when the limiter says so."""
    async with asyncio.timeout(seconds):
        while not (permit := await limiter.take([key], tokens)).key:
            assert permit.wait > 0
            await asyncio.sleep(permit.wait)
        return permit


@pytest.mark.requirement("rates.limit")
async def test_what_is_gone_comes_back_at_the_rate_of_the_limit(make: Make) -> None:
    limiter = make({A: FAST})
    await limiter.start()
    started = time.monotonic()
    await drain(limiter, A, 60_000)
    refused = await limiter.take([A], 100)
    assert refused.key == ""
    assert 0.05 < refused.wait <= 0.1001
    for _ in range(3):
        await taken_within(limiter, A, 100, 5)
    assert time.monotonic() - started >= 0.29  # 300 tokens at 1,000 a second


@pytest.mark.requirement("rates.limit")
async def test_requests_are_counted_beside_tokens(make: Make) -> None:
    limiter = make({A: Limits(requests_per_minute=3, tokens_per_minute=1000)})
    for _ in range(3):
        await drain(limiter, A, 1)
    refused = await limiter.take([A], 1)
    assert (refused.key, round(refused.wait)) == ("", 20)


@pytest.mark.requirement("rates.keys")
async def test_the_account_with_the_most_room_is_taken_and_among_equals_the_first(make: Make) -> None:
    limiter = make({A: Limits(requests_per_minute=10), B: Limits(requests_per_minute=5)})
    taken = [(await limiter.take([A, B], 5)).key for _ in range(15)]
    assert taken[0] == A
    assert taken.count(A) == 10
    assert taken[:3].count(B) == 1  # its fifth is more than the other's tenth
    assert not (await limiter.take([A, B], 5)).key


@pytest.mark.requirement("rates.true_up")
async def test_what_was_not_used_comes_back_and_what_was_used_above_is_owed(make: Make) -> None:
    limiter = make({A: Limits(tokens_per_minute=600)})
    permit = await drain(limiter, A, 600)
    assert not (await limiter.take([A], 400)).key
    await limiter.give_back(permit, tokens=500)
    again = await taken_within(limiter, A, 400, 5)
    await limiter.give_back(again, tokens=-1100)
    refused = await limiter.take([A], 100)
    assert 108 < refused.wait < 111  # 1,100 tokens are missing, 10 come back each second


@pytest.mark.requirement("rates.true_up")
async def test_a_rested_account_never_has_more_than_its_limit(make: Make) -> None:
    limiter = make({A: Limits(requests_per_minute=2)})
    permit = await drain(limiter, A, 0)
    for _ in range(5):
        await limiter.give_back(permit, requests=1)
    assert [bool((await limiter.take([A], 0)).key) for _ in range(3)] == [True, True, False]


@pytest.mark.requirement("rates.headers")
@pytest.mark.parametrize("blocked", [A, FREE])
async def test_an_account_whose_provider_said_wait_is_left_alone_so_long(make: Make, blocked: str) -> None:
    limiter = make({A: FAST, B: FAST})
    await limiter.take([A], 0)
    await limiter.penalize(blocked, 0.3)
    await limiter.penalize(blocked, 0.1)  # the longer one holds
    refused = await limiter.take([blocked], 1)
    assert refused.key == ""
    assert 0.1 < refused.wait <= 0.3
    assert (await limiter.take([blocked, B], 1)).key == B
    assert (await taken_within(limiter, blocked, 1, 5)).key == blocked


@pytest.mark.requirement("rates.limit")
async def test_a_call_larger_than_the_limit_goes_when_all_is_there_and_leaves_a_debt(make: Make) -> None:
    limiter = make({A: Limits(tokens_per_minute=600)})
    await drain(limiter, A, 1200)
    refused = await limiter.take([A], 10)
    assert 60 < refused.wait < 62


@pytest.mark.requirement("rates.limit")
async def test_an_account_without_limits_is_always_free(make: Make) -> None:
    limiter = make({A: Limits(requests_per_minute=1), FREE: Limits()})
    for _ in range(50):
        assert (await limiter.take([FREE], 10**9)).key == FREE
    await limiter.give_back(Permit(key=FREE), requests=1)
    assert (await limiter.take([FREE], 1)).key == FREE


@pytest.mark.requirement("rates.limit")
async def test_callers_at_once_get_no_more_than_there_is(make: Make) -> None:
    limiter = make({A: Limits(requests_per_minute=20)})
    permits = await asyncio.gather(*(limiter.take([A], 1) for _ in range(60)))
    assert sum(bool(permit.key) for permit in permits) == 20
