"""What is measured of every call, and what an error tells of its cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core.clock import SystemClock
from admiralty.core.errors import AdmiraltyError, BudgetExceeded, OutputInvalid, ProviderUnavailable
from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream, Metrics
from admiralty.core.values import Caller, Identity, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.scheduler import LocalScheduler
from admiralty.runtime.scheduler.pipeline import Attempt, Next
from admiralty.runtime.scheduler.record import Record

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")
CALL = ModelCall(id="call_1", caller=CALLER, messages=(HumanMessage("hi"),), tier="mid")
TAGS = {"agent": "a", "model": "fake:m", "tier": "mid"}
REPLY = ModelReply(
    message=AIMessage("Hello."),
    model="fake:m",
    tier="mid",
    usage=Usage(input_tokens=3, output_tokens=2, cached_tokens=1),
    cost=Nanos(500_000_000),
    seconds=0.1,
)


class Kept:
    """Metrics that are kept."""

    def __init__(self) -> None:
        self.added: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.observed: list[tuple[str, Mapping[str, str]]] = []

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        key = (name, tuple(sorted(tags.items())))
        self.added[key] = self.added.get(key, 0.0) + value

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        assert value >= 0
        self.observed.append((name, tags))

    def of(self, name: str, **tags: str) -> float:
        return sum(
            value
            for (known, given), value in self.added.items()
            if known == name and tags.items() <= dict(given).items()
        )


def scheduler(metrics: Metrics | None, *chunks: Any, settled: int | None = None) -> LocalScheduler:
    async def answer(attempt: Attempt, _: Next) -> AnswerStream:
        attempt.progress.timings |= {"hold": 0.001, "settle": 0.002}
        attempt.progress.settled = None if settled is None else Nanos(settled)
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if chunk is None:
                await asyncio.Event().wait()
            yield chunk

    return LocalScheduler([Record(metrics, SystemClock()), answer])


@pytest.mark.requirement("metrics.ray")
async def test_an_answer_is_counted_with_its_tokens_cost_and_seconds() -> None:
    kept = Kept()
    await scheduler(kept, TokenDelta(text="x"), REPLY, settled=750_000_000).complete(CALL)
    assert kept.of("calls", **TAGS, status="ok") == 1
    assert kept.of("tokens", **TAGS, kind="input") == 3
    assert kept.of("tokens", **TAGS, kind="cached") == 1
    assert kept.of("cost_usd", **TAGS) == pytest.approx(0.75), "what was paid, failed attempts included"
    assert [(name, tags.get("stage")) for name, tags in kept.observed] == [
        ("call_seconds", None),
        ("stage_seconds", "hold"),
        ("stage_seconds", "settle"),
    ]


@pytest.mark.requirement("metrics.ray", "cost.failed")
@pytest.mark.parametrize(
    ("error", "status", "settled", "cost"),
    [
        (ProviderUnavailable("gone"), "error", 2_000_000, "0.002"),
        (ProviderUnavailable("gone"), "error", 0, None),
        (BudgetExceeded("spent"), "refused", None, None),
        (OutputInvalid("broken", reply=REPLY), "error", 500_000_000, "0.5"),
    ],
)
async def test_an_error_tells_what_its_call_cost_and_refusals_are_counted_by_reason(
    error: AdmiraltyError, status: str, settled: int | None, cost: str | None
) -> None:
    kept = Kept()
    with pytest.raises(type(error)) as failed:
        await scheduler(kept, error, settled=settled).complete(CALL)
    assert failed.value.details.get("cost_usd") == cost
    assert kept.of("calls", agent="a", status=status) == 1
    assert kept.of("refused", agent="a", code=error.code) == (status == "refused")
    assert kept.of("tokens", kind="output") == (2 if isinstance(error, OutputInvalid) else 0)


@pytest.mark.requirement("metrics.ray", "scheduler.leave")
async def test_a_caller_who_leaves_is_counted_as_cancelled_unless_the_answer_was_there() -> None:
    kept = Kept()
    async with aclosing(scheduler(kept, TokenDelta(text="x"), None).stream(CALL)) as stream:
        await anext(stream)
    assert kept.of("calls", status="cancelled") == 1
    async with aclosing(scheduler(kept, REPLY).stream(CALL)) as stream:
        await anext(stream)
    assert kept.of("calls", status="ok") == 1


@pytest.mark.requirement("metrics.ray")
async def test_rays_adapter_knows_everything_that_is_measured() -> None:
    ray_metrics = pytest.importorskip("admiralty.runtime.serve.metrics")
    adapter = ray_metrics.RayMetrics()
    await scheduler(adapter, REPLY, settled=5).complete(CALL)
    with pytest.raises(BudgetExceeded):
        await scheduler(adapter, BudgetExceeded("spent")).complete(CALL)
    access = {"agent": "a", "action": "tool:call", "resource": "t"}
    adapter.add("refused", 1, {**access, "code": "denied"})
    adapter.add("tool_cost_usd", 0.0, access)
    adapter.add("tool_cost_usd", 0.1, access)
    adapter.observe("tool_seconds", 0.1, {**access, "status": "ok"})
    await scheduler(None, REPLY).complete(CALL)
