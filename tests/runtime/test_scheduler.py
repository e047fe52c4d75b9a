"""The scheduler's pipeline: stages in order, nothing ungoverned, everything recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core.clock import SystemClock
from admiralty.core.errors import (
    AdmiraltyError,
    ConfigurationError,
    DeadlineExceeded,
    OutputInvalid,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream
from admiralty.core.values import TIERS, Caller, Identity, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.scheduler import LocalScheduler, default_stages
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.runtime.scheduler.pipeline import Attempt, Next
from admiralty.runtime.storage.usage import ModelCallRecord

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")
CALL = ModelCall(id="call_1", caller=CALLER, messages=(HumanMessage("hi"),), tier="mid")


def reply(text: str = "Hello there.") -> ModelReply:
    return ModelReply(
        message=AIMessage(text),
        model="fake:m-mid",
        tier="mid",
        usage=Usage(input_tokens=3, output_tokens=2),
        cost=Nanos(7),
        seconds=0.1,
    )


class FakeProvider:
    """Streams what a test gives it: chunks, errors, or waiting for ever."""

    name = "fake"

    def __init__(self, *chunks: TokenDelta | ModelReply | Exception | None) -> None:
        self.chunks = chunks
        self.asked: list[tuple[ModelCall, str]] = []
        self.closed = False
        self.was_asked = asyncio.Event()

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        self.asked.append((call, model))
        self.was_asked.set()
        try:
            for chunk in self.chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk is None:
                    await asyncio.Event().wait()
                else:
                    yield chunk
        finally:
            self.closed = True


class Log(list[ModelCallRecord]):
    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    async def add(self, record: ModelCallRecord) -> None:
        await asyncio.sleep(0)
        self.append(record)
        self.written.set()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def build(log: Log) -> Callable[..., LocalScheduler]:
    def make(provider: Any, models: dict[str, str] | None = None) -> LocalScheduler:
        tiers: Any = models or {tier: f"fake:m-{tier}" for tier in TIERS}
        return LocalScheduler(
            default_stages(
                tier_models=tiers, providers=by_account([provider]), add_record=log.add, clock=SystemClock()
            )
        )

    return make


async def read(stream: AnswerStream) -> list[Any]:
    async with aclosing(stream):
        return [chunk async for chunk in stream]


@pytest.mark.requirement("scheduler.order")
async def test_stages_run_in_the_order_of_the_list_and_see_the_answer_in_reverse() -> None:
    seen: list[str] = []

    def stage(name: str) -> Any:
        async def run(attempt: Attempt, following: Next) -> AnswerStream:
            seen.append(f"{name} in")
            async with aclosing(following(attempt)) as stream:
                async for chunk in stream:
                    seen.append(f"{name} out")
                    yield chunk

        return run

    async def answer(attempt: Attempt, _: Next) -> AnswerStream:
        yield reply()

    await LocalScheduler([stage("a"), stage("b"), answer]).complete(CALL)
    assert seen == ["a in", "b in", "b out", "a out"]


@pytest.mark.requirement("scheduler.closed")
async def test_nothing_is_answered_where_no_stage_answers() -> None:
    with pytest.raises(ConfigurationError, match="no stages"):
        LocalScheduler([])

    async def passes(attempt: Attempt, following: Next) -> AnswerStream:
        async for chunk in following(attempt):
            yield chunk

    with pytest.raises(ConfigurationError, match="dispatch must be the last"):
        await LocalScheduler([passes]).complete(CALL)

    async def silent(attempt: Attempt, following: Next) -> AnswerStream:
        chunks: list[ModelReply] = []
        for chunk in chunks:
            yield chunk

    with pytest.raises(ProviderUnavailable):
        await LocalScheduler([silent]).complete(CALL)


@pytest.mark.requirement("scheduler.record")
async def test_an_answer_goes_out_only_when_it_is_recorded(
    build: Callable[..., LocalScheduler], log: Log
) -> None:
    provider = FakeProvider(TokenDelta(text="Hello "), TokenDelta(text="there."), reply())
    async with aclosing(build(provider).stream(CALL)) as stream:
        chunks = []
        async for chunk in stream:
            chunks.append(chunk)
            assert len(log) == isinstance(chunk, ModelReply)
    assert chunks == [TokenDelta(text="Hello "), TokenDelta(text="there."), reply()]
    assert provider.asked == [(CALL, "m-mid")]
    (record,) = log
    assert (record.id, record.status, record.model, record.tier) == ("call_1", "ok", "fake:m-mid", "mid")
    assert (record.usage, record.cost, record.error) == (Usage(input_tokens=3, output_tokens=2), 7, None)
    assert record.caller == CALLER


@pytest.mark.requirement("scheduler.record")
async def test_an_answer_that_cannot_be_recorded_does_not_go_out() -> None:
    async def broken(record: ModelCallRecord) -> None:
        raise ProviderUnavailable("the database does not answer")

    tiers: Any = dict.fromkeys(TIERS, "fake:m")
    stages = default_stages(
        tier_models=tiers,
        providers=by_account([FakeProvider(reply())]),
        add_record=broken,
        clock=SystemClock(),
    )
    with pytest.raises(ProviderUnavailable, match="database"):
        await LocalScheduler(stages).complete(CALL)


@pytest.mark.requirement("scheduler.record", "scheduler.errors")
@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (RateLimited("slow down", retry_after=2.0), RateLimited),
        (KeyError("inside"), ProviderUnavailable),
    ],
)
async def test_a_failed_call_is_recorded_and_its_error_is_one_of_ours(
    build: Callable[..., LocalScheduler], log: Log, raised: Exception, seen: type[AdmiraltyError]
) -> None:
    with pytest.raises(seen) as failed:
        await build(FakeProvider(TokenDelta(text="x"), raised)).complete(CALL)
    assert getattr(failed.value, "retry_after", None) == getattr(raised, "retry_after", None)
    (record,) = log
    assert (record.status, record.model, record.usage, record.cost) == ("error", "fake:m-mid", Usage(), None)
    assert record.error == str(failed.value)


@pytest.mark.requirement("scheduler.record")
async def test_an_answer_of_no_use_is_recorded_with_what_it_cost(
    build: Callable[..., LocalScheduler], log: Log
) -> None:
    with pytest.raises(OutputInvalid):
        await build(FakeProvider(OutputInvalid("no JSON", reply=reply("{")))).complete(CALL)
    (record,) = log
    assert (record.status, record.cost, record.usage.total_tokens) == ("error", 7, 5)


@pytest.mark.requirement("scheduler.record", "scheduler.leave")
async def test_leaving_ends_the_call_at_the_provider_and_is_recorded(
    build: Callable[..., LocalScheduler], log: Log
) -> None:
    left = FakeProvider(TokenDelta(text="x"), None)
    async with aclosing(build(left).stream(CALL)) as stream:
        assert await anext(stream) == TokenDelta(text="x")
    assert left.closed
    cancelled = FakeProvider(None)
    task = asyncio.create_task(build(cancelled).complete(replace(CALL, id="call_2")))
    await asyncio.wait_for(cancelled.was_asked.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.closed
    while len(log) < 2:
        log.written.clear()
        await asyncio.wait_for(log.written.wait(), 5)
    assert [(record.id, record.status) for record in log] == [
        ("call_1", "cancelled"),
        ("call_2", "cancelled"),
    ]


@pytest.mark.requirement("scheduler.record")
async def test_leaving_with_the_answer_in_hand_is_recorded_once(
    build: Callable[..., LocalScheduler], log: Log
) -> None:
    async with aclosing(build(FakeProvider(reply())).stream(CALL)) as stream:
        assert isinstance(await anext(stream), ModelReply)
    await asyncio.sleep(0.01)
    assert [record.status for record in log] == ["ok"]


@pytest.mark.requirement("scheduler.deadline")
@pytest.mark.parametrize("seconds", [-1.0, 0.02])
async def test_nobody_waits_beyond_the_deadline(
    build: Callable[..., LocalScheduler], log: Log, seconds: float
) -> None:
    provider = FakeProvider(TokenDelta(text="x"), None)
    with pytest.raises(DeadlineExceeded):
        await build(provider).complete(replace(CALL, deadline=SystemClock().now() + seconds))
    assert [record.status for record in log] == ["error"]


@pytest.mark.requirement("scheduler.errors")
async def test_a_provider_that_nobody_built_is_named_with_the_known_ones(
    build: Callable[..., LocalScheduler],
) -> None:
    scheduler = build(FakeProvider(), dict.fromkeys(TIERS, "elsewhere:m"))
    with pytest.raises(ConfigurationError, match=r"models\['mid'\] = 'elsewhere:m'.* There are: fake"):
        await scheduler.complete(CALL)
    with pytest.raises(ConfigurationError, match="no entry for tier 'small'"):
        build(FakeProvider(), {"none": "fake:m"})


async def test_a_provider_that_ends_without_a_reply_counts_as_unavailable(
    build: Callable[..., LocalScheduler],
) -> None:
    with pytest.raises(ProviderUnavailable, match="without a result"):
        await build(FakeProvider(TokenDelta(text="x"))).complete(CALL)
