"""Hold and settle: what a call is allowed, what it is charged, whatever becomes of it on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core.clock import SystemClock
from admiralty.core.errors import (
    AdmiraltyError,
    BudgetExceeded,
    DeadlineExceeded,
    OutputInvalid,
    ProviderUnavailable,
)
from admiralty.core.ids import new_id
from admiralty.core.ports import AnswerStream
from admiralty.core.prices import PriceOverride
from admiralty.core.values import Caller, Identity, Model, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.estimate import Estimator, measure
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.prices import PriceBook
from admiralty.runtime.scheduler.hold import Hold
from admiralty.runtime.scheduler.pipeline import Attempt, Next, Progress, fold
from admiralty.runtime.scheduler.settle import OnDisconnect, Settle
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import holds
from admiralty.runtime.storage.tables import ledger as entries

CALLER = Caller(
    identity=Identity(tenant="acme", user="ann"),
    fleet="f",
    agent="a",
    agent_version="v",
    conversation_id="c",
    run_id="r",
)
MODEL = Model(provider="fake", name="m", tier="mid")
IN, OUT = 1_000, 2_000
"""Nano-dollars a token."""


def question(**more: Any) -> ModelCall:
    given: dict[str, Any] = {"caller": CALLER, "messages": (HumanMessage("hi " * 20),), "tier": "mid"} | more
    return ModelCall(id=new_id("call"), **given)


def answer(into: int = 10, out: int = 5, text: str = "Hello there.", **more: Any) -> ModelReply:
    usage = Usage(input_tokens=into, output_tokens=out)
    given: dict[str, Any] = {"usage": usage, "cost": None, "seconds": 0.5} | more
    return ModelReply(message=AIMessage(text), model="fake:m", tier="mid", **given)


class Provider:
    """Stands in for rate and dispatch: yields what a test gives it, or waits where that is an event."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = chunks
        self.asked: list[Attempt] = []
        self.begun = asyncio.Event()
        self.closed = asyncio.Event()

    async def __call__(self, attempt: Attempt, _: Next) -> AnswerStream:
        self.asked.append(attempt)
        attempt.progress.sent = True
        self.begun.set()
        try:
            for chunk in self.chunks:
                if callable(chunk):
                    chunk = chunk(attempt)
                if isinstance(chunk, asyncio.Event):
                    await chunk.wait()
                    continue
                if isinstance(chunk, Exception):
                    raise chunk
                if isinstance(chunk, TokenDelta):
                    attempt.progress.text_bytes += len(chunk.text)
                yield chunk
        finally:
            self.closed.set()


class Desk:
    """The two stages over a real ledger."""

    def __init__(self, database: Database, prices: dict[str, Any] | None = None) -> None:
        clock = SystemClock()
        self.database = database
        self.ledger = Ledger(database, owner="p", clock=clock, server_clock=False, max_wait=2.0)
        given = prices or {"fake:*": {"input": "1", "output": "2"}}
        self.prices = PriceBook(clock, prices={k: PriceOverride(**v) for k, v in given.items()})
        self.estimator = Estimator()
        self.clock = clock

    def pipeline(self, provider: Provider, on_disconnect: OnDisconnect = "drain") -> Next:
        hold = Hold(self.ledger, self.prices, self.estimator, self.clock)
        settle = Settle(self.ledger, self.prices, self.estimator, self.clock, on_disconnect=on_disconnect)
        return fold([hold, settle, provider])

    async def ask(self, provider: Provider, call: ModelCall | None = None, **more: Any) -> ModelReply:
        last: Any = None
        attempt = Attempt(call=call or question(), model=MODEL, progress=Progress())
        async with aclosing(self.pipeline(provider, **more)(attempt)) as stream:
            async for chunk in stream:
                last = chunk
        assert isinstance(last, ModelReply)
        return last

    async def budget(self, limit_usd: str) -> str:
        made = await Budgets(self.database, self.clock).create(
            scope="tenant:acme", limit_usd=limit_usd, window="total"
        )
        return made.id

    async def entry(self) -> Any:
        """The only entry, once it is there and no hold is left."""
        async with asyncio.timeout(5):
            while not (rows := await self._rows(entries)) or await self._rows(holds):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(rows) == 1
        return rows[0]

    async def _rows(self, table: sa.Table) -> list[Any]:
        return await self.database.read(lambda c: list(c.execute(sa.select(table)).mappings()))


@pytest.fixture
async def make_desk(tmp_path: Path) -> AsyncIterator[Callable[..., Desk]]:
    database = Database(f"sqlite:///{tmp_path / 'd.sqlite3'}")
    made: list[Desk] = []

    def make(**prices: Any) -> Desk:
        made.append(Desk(database, prices or None))
        return made[-1]

    yield make
    for desk in made:
        await desk.ledger.close()
    await database.close()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


@pytest.mark.requirement("money.settle")
async def test_an_answer_is_charged_by_its_real_usage_and_says_so(desk: Desk) -> None:
    provider = Provider(TokenDelta(text="Hello "), TokenDelta(text="there."), answer(10, 5))
    reply = await desk.ask(provider)
    entry = await desk.entry()
    assert reply.cost == entry["cost_nanos"] == 10 * IN + 5 * OUT
    assert (entry["status"], entry["estimated"], entry["input_tokens"]) == ("ok", False, 10)
    assert entry["price_book"] == desk.prices.version


@pytest.mark.requirement("money.output-limit")
async def test_the_output_that_is_paid_for_is_the_limit_that_the_provider_is_given(desk: Desk) -> None:
    provider = Provider(answer())
    call = question(max_output_tokens=77)
    await desk.ask(provider, call)
    [asked] = provider.asked
    assert asked.output_tokens == 77
    assert asked.hold is not None
    assert asked.hold.amount == measure(call) * IN + 77 * OUT


@pytest.mark.requirement("money.sized")
async def test_without_a_wish_the_output_is_sized_by_what_the_agent_usually_needs(desk: Desk) -> None:
    provider = Provider(lambda attempt: answer(10, 200))
    for _ in range(5):
        await desk.ask(provider)
    await desk.ask(provider)
    limits = [asked.output_tokens for asked in provider.asked]
    assert limits[0] == 1024
    assert limits[5] == 250


@pytest.mark.requirement("money.sized")
async def test_another_process_begins_with_what_was_learned_before(
    desk: Desk, make_desk: Callable[..., Desk]
) -> None:
    for _ in range(5):
        await desk.ask(Provider(answer(10, 200)))
    provider = Provider(answer(10, 200))
    await make_desk().ask(provider)
    assert provider.asked[0].output_tokens == 250


@pytest.mark.requirement("money.exact")
async def test_a_budget_worth_12_calls_makes_12_although_their_worst_case_is_much_dearer(desk: Desk) -> None:
    """Nothing is known at first, and no output limit is given: a first hold is as dear as five calls."""
    each = 10 * IN + 200 * OUT
    await desk.budget(f"{12 * each / 1e9:.9f}")

    async def one() -> ModelReply:
        return await desk.ask(Provider(answer(10, 200)))

    async with asyncio.timeout(30):
        results = await asyncio.gather(*(one() for _ in range(40)), return_exceptions=True)
    made = [result for result in results if isinstance(result, ModelReply)]
    assert {type(result) for result in results} == {ModelReply, BudgetExceeded}
    assert len(made) == 12


@pytest.mark.requirement("money.debt")
async def test_a_provider_that_charges_four_times_is_held_for_four_times_soon(desk: Desk) -> None:
    def greedy(attempt: Attempt) -> ModelReply:
        return answer(10, 4 * (attempt.output_tokens or 0))

    await desk.budget("0.1")
    call = {"max_output_tokens": 500}
    async with asyncio.timeout(30):
        results = await asyncio.gather(
            *(desk.ask(Provider(greedy), question(**call)) for _ in range(100)), return_exceptions=True
        )
    spent = sum(result.cost or 0 for result in results if isinstance(result, ModelReply))
    assert 0.05e9 < spent <= 0.1e9


@pytest.mark.requirement("money.settle")
@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (ProviderUnavailable("m: HTTP 500"), False),
        (ProviderUnavailable("m: connection lost", billed="unknown"), True),
        (DeadlineExceeded("m did not answer", billed="unknown"), True),
    ],
)
async def test_a_failed_attempt_costs_nothing_unless_the_provider_may_charge_for_it(
    desk: Desk, error: AdmiraltyError, charged: bool
) -> None:
    provider = Provider(error)
    with pytest.raises(type(error)):
        await desk.ask(provider, question(max_output_tokens=50))
    entry = await desk.entry()
    hold = provider.asked[0].hold
    assert hold is not None
    assert entry["cost_nanos"] == (hold.amount if charged else 0)
    assert (entry["status"], entry["estimated"]) == ("error", charged)


@pytest.mark.requirement("money.settle")
async def test_an_answer_that_fits_no_schema_is_paid_for_all_the_same(desk: Desk) -> None:
    with pytest.raises(OutputInvalid):
        await desk.ask(Provider(OutputInvalid("no JSON", reply=answer(10, 5))))
    assert (await desk.entry())["cost_nanos"] == 10 * IN + 5 * OUT


@pytest.mark.requirement("money.settle")
async def test_an_answer_without_usage_is_charged_by_an_upper_bound_and_marked(desk: Desk) -> None:
    silent = answer(0, 0, text="twelve bytes", metadata={"usage_reported": False})
    call = question(max_output_tokens=50)
    await desk.ask(Provider(silent), call)
    entry = await desk.entry()
    assert entry["estimated"]
    assert measure(call) * IN < entry["cost_nanos"] <= measure(call) * IN + 50 * OUT


@pytest.mark.requirement("money.disconnect")
async def test_a_stream_whose_client_left_is_read_to_its_end_and_charged_exactly(desk: Desk) -> None:
    rest = asyncio.Event()
    provider = Provider(TokenDelta(text="Hel"), rest, TokenDelta(text="lo"), answer(10, 5))
    attempt = Attempt(call=question(), model=MODEL)
    stream = desk.pipeline(provider)(attempt)
    assert await anext(stream) == TokenDelta(text="Hel")
    await stream.aclose()
    assert not provider.closed.is_set()
    rest.set()
    entry = await desk.entry()
    assert (entry["cost_nanos"], entry["estimated"], entry["status"]) == (10 * IN + 5 * OUT, False, "ok")


@pytest.mark.requirement("money.disconnect")
async def test_or_ended_at_once_and_charged_at_its_worst_case(desk: Desk) -> None:
    provider = Provider(TokenDelta(text="Hello"), asyncio.Event(), answer(10, 5))
    call = question(max_output_tokens=500)
    stream = desk.pipeline(provider, "estimate")(Attempt(call=call, model=MODEL))
    await anext(stream)
    await stream.aclose()
    entry = await desk.entry()
    assert provider.closed.is_set()
    assert entry["cost_nanos"] == measure(call) * IN + 500 * OUT
    assert (entry["estimated"], entry["status"]) == (True, "cancelled")


@pytest.mark.requirement("money.disconnect")
async def test_a_call_cancelled_before_a_provider_was_asked_costs_nothing(desk: Desk) -> None:
    class Waiting(Provider):
        async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
            self.begun.set()
            await asyncio.Event().wait()
            yield answer()

    provider = Waiting()
    task = asyncio.create_task(desk.ask(provider))
    await asyncio.wait_for(provider.begun.wait(), 5)
    task.cancel()
    entry = await desk.entry()
    assert (entry["cost_nanos"], entry["status"]) == (0, "cancelled")


@pytest.mark.requirement("money.compute")
async def test_a_model_paid_by_time_is_charged_its_seconds_and_given_no_more_than_are_paid(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk(**{"fake:*": {"dollars_per_hour": "3.6", "max_seconds": "20"}})
    provider = Provider(answer(seconds=0.5))
    reply = await desk.ask(provider)
    assert reply.cost == 500_000
    [asked] = provider.asked
    assert asked.hold is not None
    assert asked.hold.amount == 20_000_000
    assert asked.deadline == pytest.approx(desk.clock.now() + 20, abs=5)


@pytest.mark.requirement("money.free")
async def test_what_costs_nothing_takes_no_hold_and_is_in_the_ledger(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(**{"fake:*": {"input": "0", "output": "0"}})
    await desk.budget("0")
    provider = Provider(answer())
    reply = await desk.ask(provider)
    assert (reply.cost, provider.asked[0].hold) == (0, None)
    assert (await desk.entry())["cost_nanos"] == 0


@pytest.mark.requirement("money.unknown-price")
async def test_a_model_of_unknown_price_is_not_asked(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(**{"other:*": {"input": "1", "output": "1"}})
    provider = Provider(answer())
    with pytest.raises(AdmiraltyError, match="ADMIRALTY_PRICES"):
        await desk.ask(provider)
    assert provider.asked == []


@pytest.mark.requirement("money.disconnect")
async def test_closing_waits_for_an_answer_that_is_read_and_pays_for_it(desk: Desk) -> None:
    rest = asyncio.Event()
    provider = Provider(TokenDelta(text="Hel"), rest, answer(10, 5))
    settle = Settle(desk.ledger, desk.prices, desk.estimator, desk.clock)
    hold = Hold(desk.ledger, desk.prices, desk.estimator, desk.clock)
    stream = fold([hold, settle, provider])(Attempt(call=question(), model=MODEL))
    await anext(stream)
    closing = asyncio.create_task(settle.close())
    await asyncio.sleep(0)
    rest.set()
    await closing
    assert isinstance(await anext(stream), ModelReply)
    assert (await desk.entry())["cost_nanos"] == 10 * IN + 5 * OUT


@pytest.mark.requirement("money.hostile")
async def test_usage_that_cannot_be_is_brought_into_bounds(desk: Desk) -> None:
    reply = await desk.ask(Provider(answer(-5, 10**20)))
    assert reply.cost is not None
    assert reply.cost > 0
    entry = await desk.entry()
    assert (entry["input_tokens"], entry["output_tokens"]) == (0, 2**31 - 1)
