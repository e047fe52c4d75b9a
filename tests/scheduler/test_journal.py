"""A reply that has been paid for is kept for its run: before anybody has it, and only for the run's owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.tool import tool_call

from admiralty.core.clock import SystemClock
from admiralty.core.errors import OutputInvalid, Retryable
from admiralty.core.frozen import replace
from admiralty.core.money import Nanos
from admiralty.core.prices import PriceOverride
from admiralty.core.values import Caller, Identity, JournalEntry, Model, ModelCall, TokenDelta
from admiralty.runtime.durable.steps import load_steps
from admiralty.runtime.ledger.estimate import Estimator
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.prices import PriceBook
from admiralty.runtime.scheduler import LocalScheduler
from admiralty.runtime.scheduler.hold import Hold
from admiralty.runtime.scheduler.journal import StepJournal
from admiralty.runtime.scheduler.pipeline import Attempt, Next, Stage
from admiralty.runtime.scheduler.settle import Settle
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import conversations, runs

from .conftest import Script, reply

MODEL = Model(provider="fake", name="m", tier="frontier")
ENTRY = JournalEntry(key="0.1", session={"user": "ann"}, outcomes={"call_0:d": {"status": "ok"}})
CALLER = Caller(
    identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r", fence=2
)
CALL = ModelCall(id="call_1", caller=CALLER, messages=(HumanMessage("hi"),), tier="mid", journal=ENTRY)


class Shaky(Database):
    """A database whose next submissions fail as a test says."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.failures: list[Exception] = []

    def submit(self, work: Any) -> Future[Any]:
        if not self.failures:
            return super().submit(work)
        failed: Future[Any] = Future()
        failed.set_exception(self.failures.pop(0))
        return failed


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Shaky]:
    """A database with a run that is executed for the second time."""
    opened = Shaky(database_url)
    await opened.write(_insert_run)
    yield opened
    await opened.close()


def _insert_run(connection: sa.Connection) -> None:
    row = {"id": "c", "tenant": "t", "fleet": "f", "metadata": {}, "created_at": 0.0, "updated_at": 0.0}
    connection.execute(conversations.insert().values(**row))
    run: dict[str, Any] = {"id": "r", "conversation_id": "c", "turn": 1, "status": "running", "owner": "p"}
    run |= {"lease_until": 0.0, "fence": 2, "message": "hi", "started_at": 0.0}
    connection.execute(runs.insert().values(**run, attempts=[], request={}))


async def _routed(attempt: Attempt, following: Next) -> Any:
    async for chunk in following(replace(attempt, model=MODEL)):
        yield chunk


def scheduler(database: Database, last: Stage, *, price: str = "1") -> tuple[LocalScheduler, Ledger]:
    """Return the stages that a reply passes on its way up, over a real ledger, and that ledger."""
    clock = SystemClock()
    ledger = Ledger(database, owner="p", clock=clock, server_clock=False)
    prices = PriceBook(clock, prices={"fake:*": PriceOverride(input=price, output=price)})
    estimator = Estimator()
    stages: list[Stage] = [
        _routed,
        Hold(ledger, prices, estimator, clock),
        Settle(ledger, prices, estimator, clock),
        StepJournal(database, clock, patience=0.3),
        last,
    ]
    return LocalScheduler(stages, services=[ledger]), ledger


async def kept(url: str, run_id: str = "r") -> dict[str, JournalEntry]:
    """Return what another process sees."""
    other = Database(url)
    try:
        return await other.read(lambda c: load_steps(c, run_id))
    finally:
        await other.close()


@pytest.mark.requirement("durable.journal")
@pytest.mark.parametrize("price", ["1", "0"])
async def test_a_reply_is_kept_when_the_scheduler_returns_it(
    database: Shaky, database_url: str, price: str
) -> None:
    said = reply("Hello.", cost=None, metadata={"usage_reported": True, "method": "m"})
    asked, ledger = scheduler(database, Script([TokenDelta(text="Hello."), said]), price=price)
    got = await asked.complete(CALL)
    entry = (await kept(database_url))["0.1"]
    assert (entry.session, entry.outcomes) == (ENTRY.session, ENTRY.outcomes)
    assert entry.reply == replace(got, cost=None), "as the caller has it, but for its price"
    assert (got.metadata, got.tier) == ({"method": "m"}, "frontier")
    await ledger.close()


@pytest.mark.requirement("durable.journal")
async def test_many_replies_at_once_are_all_kept_when_each_is_returned(
    database: Shaky, database_url: str
) -> None:
    asked, ledger = scheduler(database, Script(*[[reply(f"{n}")] for n in range(40)]))

    async def ask(number: int) -> None:
        call = replace(CALL, id=f"call_{number}", journal=replace(ENTRY, key=f"0.{number}"))
        got = await asked.complete(call)
        there = await database.read(lambda c: load_steps(c, "r"))
        assert there[f"0.{number}"].reply == replace(got, cost=Nanos(7)), "as the provider said"

    await asyncio.gather(*map(ask, range(40)))
    assert len(await kept(database_url)) == 40
    await ledger.close()


@pytest.mark.requirement("durable.call_ids")
async def test_tool_calls_are_named_before_the_reply_is_kept(database: Shaky, database_url: str) -> None:
    calls = [tool_call(name="look", args={"n": n}, id="call_1") for n in range(2)]
    said = reply(message=AIMessage("", tool_calls=calls))
    asked, ledger = scheduler(database, Script([said]))
    got = await asked.complete(CALL)
    entry = (await kept(database_url))["0.1"]
    assert entry.reply is not None
    assert entry.reply.message == got.message
    assert len({call["id"] for call in got.message.tool_calls} - {"call_1"}) == 2
    await ledger.close()


@pytest.mark.requirement("durable.journal")
async def test_a_reply_for_a_run_that_was_taken_over_is_not_kept(
    database: Shaky, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked, ledger = scheduler(database, Script([reply()], [reply()], [reply()]))
    with caplog.at_level(logging.INFO):
        await asked.complete(replace(CALL, caller=replace(CALLER, fence=1)))
    assert "taken over" in caplog.text
    assert await kept(database_url) == {}
    # Neither is one of a run that nobody keeps, or that nobody wants kept.
    await asked.complete(replace(CALL, id="call_2", caller=replace(CALLER, fence=0)))
    await asked.complete(replace(CALL, id="call_3", journal=None))
    assert await kept(database_url) == {}
    await ledger.close()


@pytest.mark.requirement("durable.journal")
async def test_a_reply_is_kept_also_where_the_database_was_away_for_a_moment(
    database: Shaky, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = Retryable("The database does not answer.")

    def says(*failures: Exception) -> Stage:
        async def say(attempt: Attempt, _: Next) -> Any:
            database.failures = list(failures)
            yield reply()

        return say

    asked, ledger = scheduler(database, says(away))
    await asked.complete(CALL)
    assert list(await kept(database_url)) == ["0.1"]
    # What cannot be kept keeps nobody from the answer.
    asked, ledger = scheduler(database, says(RuntimeError("a bug")))
    again = replace(CALL, id="call_2", journal=replace(ENTRY, key="0.2"))
    assert (await asked.complete(again)).message.text == "Hello there."
    assert "cannot be kept" in caplog.text
    assert list(await kept(database_url)) == ["0.1"]
    await ledger.close()


@pytest.mark.requirement("durable.journal")
async def test_a_call_that_failed_keeps_nothing(database: Shaky, database_url: str) -> None:
    asked, ledger = scheduler(database, Script([OutputInvalid("broken off", reply=reply())]))
    with pytest.raises(OutputInvalid):
        await asked.complete(CALL)
    assert await kept(database_url) == {}
    await ledger.close()
