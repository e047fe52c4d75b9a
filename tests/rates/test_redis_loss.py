"""Redis killed, restarted, hanging: nothing hangs, the limits hold, and it recovers by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from admiralty.core.clock import SystemClock
from admiralty.core.values import Permit
from admiralty.runtime.rates import Limits

from ..conftest import RedisServer, require

if TYPE_CHECKING:
    from admiralty.runtime.rates.redis_limiter import RedisLimiter

KEY = "p/a"
LIMITS = {KEY: Limits(tokens_per_minute=60_000)}  # 1,000 a second
RATE = 1000
LEASE = 0.4

Make = Callable[..., "RedisLimiter"]


@pytest.fixture
async def make(redis_server: RedisServer) -> AsyncIterator[Make]:
    from admiralty.runtime.rates.redis_limiter import RedisLimiter, Timing

    opened: list[RedisLimiter] = []
    timing = Timing(lease=LEASE, longest_pause=0.2, look_again=0.02)

    def build(replicas: int = 1) -> RedisLimiter:
        limiter = RedisLimiter(redis_server.url, LIMITS, SystemClock(), replicas=replicas, timing=timing)
        opened.append(limiter)
        return limiter

    yield build
    if redis_server.running:
        redis_server.send(signal.SIGCONT)
    for limiter in opened:
        await limiter.close()


class Taker:
    """Takes all that it gets, as fast as it can, and notes when."""

    def __init__(self, limiter: RedisLimiter, tokens: int = 10) -> None:
        self.limiter = limiter
        self.tokens = tokens
        self.taken: list[float] = []
        self.slowest = 0.0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            asked = time.monotonic()
            permit = await self.limiter.take([KEY], self.tokens)
            now = time.monotonic()
            self.slowest = max(self.slowest, now - asked)
            if permit.key:
                self.taken.append(now)
            else:
                await asyncio.sleep(min(permit.wait, 0.05))

    def since(self, moment: float) -> int:
        return self.tokens * sum(at >= moment for at in self.taken)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(met: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not met():  # noqa: ASYNC110  # what another process does sets no event of ours
            await asyncio.sleep(0.01)


@pytest.mark.requirement("rates.redis_loss")
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_without_redis_replicas_together_keep_the_limit_and_with_it_again_they_share(
    make: Make, redis_server: RedisServer, fault: signal.Signals
) -> None:
    limiters = [make(replicas=2), make(replicas=2)]
    for limiter in limiters:
        await limiter.start()
    began = time.monotonic()
    takers = [Taker(limiter) for limiter in limiters]
    await until(lambda: all(taker.taken for taker in takers))
    redis_server.send(fault)
    await until(lambda: all(limiter.lost for limiter in limiters))
    lost = time.monotonic()
    await until(lambda: all(taker.since(lost) > 100 for taker in takers))  # they go on by themselves
    for taker in takers:  # each at its own share: half
        assert taker.since(lost) <= RATE / 2 * (time.monotonic() - lost) + taker.tokens
    if fault == signal.SIGSTOP:
        redis_server.send(signal.SIGCONT)
    else:
        redis_server.start()
    await until(lambda: not any(limiter.lost for limiter in limiters))
    found = time.monotonic()
    await until(lambda: all(taker.since(found + 0.1) > 0 for taker in takers))
    for taker in takers:
        await taker.stop()
    # The server began empty, so all together is bounded by the rate alone, whatever happened.
    total = sum(taker.since(began) for taker in takers)
    assert total <= RATE * (time.monotonic() - began + 0.1) + sum(taker.tokens for taker in takers)
    assert max(taker.slowest for taker in takers) < 2


@pytest.mark.requirement("rates.redis_loss")
async def test_a_replica_that_alone_is_cut_off_leaves_the_others_their_share_only(
    make: Make, redis_server: RedisServer
) -> None:
    here, away = make(replicas=2), make(replicas=2)
    await here.start()
    await away.start()
    began = time.monotonic()
    takers = [Taker(here), Taker(away)]
    await until(lambda: all(taker.taken for taker in takers))
    real = away._script

    async def cut(*_: Any, **__: Any) -> None:
        raise ConnectionError("no way to Redis")

    away._script = cut  # type: ignore[assignment]
    await until(lambda: away.lost)
    settled = time.monotonic() + 2 * LEASE
    await until(lambda: takers[1].since(settled) > 100)
    passed = time.monotonic() - settled
    assert takers[0].since(settled) <= RATE / 2 * (passed + 0.1) + 2 * takers[0].tokens
    away._script = real
    await until(lambda: not away.lost)
    for taker in takers:
        await taker.stop()
    total = sum(taker.since(began) for taker in takers)
    assert total <= RATE * (time.monotonic() - began + 0.1) + 2 * 10


@pytest.mark.requirement("rates.redis_loss")
async def test_a_redis_that_is_not_there_at_the_start_is_done_without(
    make: Make, redis_server: RedisServer
) -> None:
    redis_server.stop()
    limiter = make()
    started = time.monotonic()
    await limiter.start()
    assert limiter.lost
    assert time.monotonic() - started < 1
    taker = Taker(limiter)
    await until(lambda: taker.taken)
    redis_server.start()
    await until(lambda: not limiter.lost)
    await taker.stop()


@pytest.mark.requirement("rates.redis_loss")
async def test_a_call_that_meets_a_hanging_redis_is_answered_in_a_fraction_of_a_second(
    make: Make, redis_server: RedisServer
) -> None:
    limiter = make()
    await limiter.start()
    redis_server.send(signal.SIGSTOP)
    started = time.monotonic()
    permit = await limiter.take([KEY], 1)
    assert time.monotonic() - started < 1  # 0.1 s is allowed; the machine may be busy
    assert permit.key == ""
    assert permit.wait <= 0.1
    asked = time.monotonic()
    await asyncio.gather(*(limiter.take([KEY], 1) for _ in range(100)))
    assert time.monotonic() - asked < 0.1  # nobody else waits for it


@pytest.mark.requirement("rates.redis_loss")
async def test_many_at_once_are_no_reason_to_take_redis_for_lost(
    make: Make, redis_server: RedisServer
) -> None:
    limiter = make()
    await limiter.start()
    permit = Permit(key=KEY)
    for _ in range(3):
        await asyncio.gather(*(limiter.take([KEY], 1) for _ in range(400)))
        await asyncio.gather(*(limiter.give_back(permit, tokens=-1) for _ in range(400)))
    assert not limiter.lost
    assert len(limiter._redis.connection_pool._available_connections) <= 16


@pytest.mark.requirement("rates.redis_loss")
async def test_a_process_that_was_busy_itself_does_not_take_redis_for_lost(
    make: Make, redis_server: RedisServer
) -> None:
    limiter = make()
    await limiter.start()
    for _ in range(3):
        task = asyncio.create_task(limiter.take([KEY], 1))
        await asyncio.sleep(0)
        time.sleep(0.35)  # noqa: ASYNC251  # as an import does
        await task
    assert not limiter.lost
    assert limiter._losses == 0


@pytest.mark.requirement("rates.namespace")
async def test_every_key_has_an_end_and_the_name_of_its_installation(
    make: Make, redis_server: RedisServer
) -> None:
    require("redis")
    from redis import Redis

    limiter = make()
    await limiter.take([KEY], 10)
    await limiter.penalize(KEY, 5)
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        names: Any = client.keys("*")
        assert len(names) == 3
        for name in names:
            assert name.startswith("admiralty:{rates}:")
            left: Any = client.ttl(name)
            assert 0 < left <= 86_400
