"""One process of the scheduler benchmark: asks a provider bare, or through a whole scheduler, as it is told.

    python -m benchmarks.scheduler_worker PLAN_AS_JSON

Prints `ready`, then reads a JSON `Order` a line from its input and prints a `Measured` a line, until its
input ends. Both ways use the same provider object and build the same calls.
"""

import asyncio
import dataclasses
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from langchain_core.messages import AIMessage

from admiralty.core.ports import AnswerStream, ModelProvider
from admiralty.core.settings import Settings
from admiralty.core.values import ModelCall, ModelReply, Usage
from admiralty.runtime.composition.scheduler import build_providers
from admiralty.runtime.scheduler import LocalScheduler
from benchmarks.client import percentile
from benchmarks.fleet import fleet
from benchmarks.governed import NoMemory, model_call, open_scheduler

ANSWER: Final = "Your order is on its way and should arrive on Friday as planned."
ACCOUNT: Final = ("openai", "default")
MIN_WARM_UP: Final = 30

Way = Literal["bare", "governed"]
Ask = Callable[[ModelCall], Awaitable[ModelReply]]


@dataclass(frozen=True, kw_only=True)
class Order:
    """One measurement to make."""

    way: Way
    concurrency: int
    seconds: float


@dataclass(kw_only=True)
class Measured:
    """One measurement. Times in milliseconds, latencies of whole calls."""

    calls: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Of this process with all its threads, a call."""
    errors: int = 0
    first_error: str | None = None
    stages: dict[str, float] = field(default_factory=dict)
    """Median time that each stage says it took."""


class InstantProvider:
    """A provider in this process that answers at once, always the same."""

    name = "openai"

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        yield ModelReply(
            message=AIMessage(ANSWER),
            model=f"{self.name}:{model}",
            tier=call.tier,
            usage=Usage(input_tokens=110, output_tokens=13),
            cost=None,
            seconds=0.0,
            metadata={"method": "model"},
        )


class StageTimes:
    """Keeps the seconds that each stage took; everything else that is measured it forgets."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Forget it."""

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        if name == "stage_seconds":
            self.seconds[tags["stage"]].append(value)


class Bench:
    """Makes calls in a closed loop, one way or the other."""

    def __init__(
        self, worker: int, provider: ModelProvider, scheduler: LocalScheduler, times: StageTimes
    ) -> None:
        self._worker = worker
        self._provider = provider
        self._times = times
        self._ways: dict[str, Ask] = {"bare": self._bare, "governed": scheduler.complete}
        self._serial = 0

    async def measure(self, order: Order) -> Measured:
        """Measure as ordered, after a warm-up of some calls."""
        ask = self._ways[order.way]
        warm = max(MIN_WARM_UP, 2 * order.concurrency)
        await self._run(ask, order.concurrency, calls=warm, seconds=30.0)
        self._times.seconds.clear()
        cpu, begin = time.process_time(), time.perf_counter()
        latencies, errors = await self._run(ask, order.concurrency, calls=10**9, seconds=order.seconds)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        stages = {stage: statistics.median(spent) * 1000 for stage, spent in self._times.seconds.items()}
        return Measured(
            calls=len(latencies),
            calls_per_second=len(latencies) / seconds,
            p50_ms=percentile(latencies, 0.5) * 1000,
            p99_ms=percentile(latencies, 0.99) * 1000,
            cpu_ms=cpu / max(1, len(latencies)) * 1000,
            errors=len(errors),
            first_error=next(iter(errors), None),
            stages=stages,
        )

    async def _run(
        self, ask: Ask, concurrency: int, *, calls: int, seconds: float
    ) -> tuple[list[float], list[str]]:
        latencies: list[float] = []
        errors: list[str] = []
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end and len(latencies) + len(errors) < calls:
                self._serial += 1
                begin = time.perf_counter()
                call = model_call(
                    f"call_w{self._worker}n{self._serial:09d}{time.time_ns():x}",
                    self._serial,
                    max_output_tokens=100,
                    streaming=False,
                )
                try:
                    await ask(call)
                except Exception as error:  # any of them must stand in the report
                    errors.append(f"{type(error).__name__}: {error}"[:300])
                else:
                    latencies.append(time.perf_counter() - begin)
                await asyncio.sleep(0)  # what answers at once must not keep the loop to itself

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return latencies, errors

    async def _bare(self, call: ModelCall) -> ModelReply:
        async for chunk in self._provider.stream(call, "mock"):
            if isinstance(chunk, ModelReply):
                return chunk
        raise RuntimeError("no reply")


async def work(plan: Mapping[str, Any]) -> None:
    """Live as one worker."""
    loop = asyncio.get_running_loop()
    settings = Settings.load(**plan["settings"])
    instant: dict[tuple[str, str], ModelProvider] = {ACCOUNT: InstantProvider()}
    providers = instant if plan["provider"] == "instant" else build_providers(settings, fleet, NoMemory())
    times = StageTimes()
    async with open_scheduler(settings, providers=providers, metrics=times) as (scheduler, _):
        bench = Bench(plan["worker"], providers[ACCOUNT], scheduler, times)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            measured = await bench.measure(Order(**json.loads(line)))
            print(json.dumps(dataclasses.asdict(measured)), flush=True)


def main() -> None:
    asyncio.run(work(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
