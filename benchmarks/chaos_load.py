"""The load of a chaos run, and who breaks it: many conversations at once, and something dies all the time."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from benchmarks.chaos_points import POINTS
from benchmarks.chaos_run import Scene
from benchmarks.services import Service

TIGHT, ROOMY = "tight", "roomy"
"""Tenants: one whose money does not last, and one with enough."""

_TOOLS: Final = {"book": 40, "stamp": 25, "wire": 10, "refund": 10, "look": 15}
"""What is asked for how often, in percent."""


@dataclass(kw_only=True)
class Breaker:
    """Kills and stops workers, at points and at any moment; and servers, if there are any."""

    scene: Scene
    per_minute: float
    services: Sequence[Service] = ()
    """Servers that are killed now and then, and come back after half a second."""
    service_seconds: float = 45.0
    """Between two kills of servers."""
    counts: Counter[str] = field(default_factory=Counter)

    async def work(self) -> None:
        """Break things for ever."""
        next_service = time.monotonic() + self.service_seconds
        while True:
            await asyncio.sleep(random.expovariate(self.per_minute / 60))
            if self.services and time.monotonic() > next_service:
                next_service = time.monotonic() + self.service_seconds
                await self._restart(random.choice(self.services))
            else:
                self._break()

    def _break(self) -> None:
        draw, workers = random.random(), self.scene.workers
        if draw < 0.5:
            number = signal.SIGSTOP if random.random() < 0.25 else signal.SIGKILL
            self.scene.points.arm(random.choice(list(POINTS)), number)
            self.counts["armed"] += 1
        elif draw < 0.8:
            workers.kill()
        else:
            workers.stop(random.uniform(1.0, 3.0) * 2)

    async def _restart(self, service: Service) -> None:
        self.counts[f"{type(service).__name__} kills"] += 1
        await asyncio.to_thread(service.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(service.start)


async def in_parallel(many: int, jobs: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Do the jobs, so many at once."""
    waiting = list(reversed(jobs))

    async def work() -> None:
        while waiting:
            await waiting.pop()()

    await asyncio.gather(*(work() for _ in range(many)))


def till_jobs(scene: Scene, conversations: int, turns: int = 2) -> list[Callable[[], Awaitable[object]]]:
    """Conversations with the till: every tenth has too little money, every twentieth speaks twice at once."""

    async def talk(number: int) -> None:
        tenant = TIGHT if number % 10 == 0 else ROOMY
        conversation = await scene.clients[tenant].open()
        for _ in range(turns):
            await _say(scene, conversation, tenant, may_fail=tenant == TIGHT)

    async def talk_twice(number: int) -> None:
        conversation = await scene.clients[ROOMY].open()
        ways = ("reject", "enqueue", "interrupt", "rollback")

        async def late(place: int) -> None:
            await asyncio.sleep(random.uniform(0.0, 0.1) * place)
            way = random.choice(ways)
            await _say(scene, conversation, ROOMY, may_fail=True, multitask_strategy=way)

        await asyncio.gather(*(late(place) for place in range(2 + number % 3)))

    return [partial(talk_twice if number % 20 == 7 else talk, number) for number in range(conversations)]


def support_jobs(scene: Scene, conversations: int) -> list[Callable[[], Awaitable[object]]]:
    """Conversations with the support desk; every tenth customer's shop has too little money."""

    def serve(number: int) -> Awaitable[object]:
        tight = number % 10 == 0
        return scene.serve_customer(number, TIGHT if tight else ROOMY, may_fail=tight)

    return [partial(serve, number) for number in range(conversations)]


async def _say(scene: Scene, conversation: str, tenant: str, *, may_fail: bool, **body: str) -> None:
    [tool] = random.choices(list(_TOOLS), list(_TOOLS.values()))
    rejected = tool == "refund" and random.random() < 0.3
    await scene.say(
        tool, conversation=conversation, tenant=tenant, rejected=rejected, may_fail=may_fail, **body
    )
