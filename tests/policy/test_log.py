"""Decisions in the database: none is lost that refuses anything, and none that permits costs a wait."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from admiralty.core.errors import InvalidRequest, Retryable
from admiralty.core.values import Access, Decision
from admiralty.runtime.policy import DecisionLog
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import decisions

from .conftest import asked, caller

T = TypeVar("T")
LONG = 3600.0
"""Seconds until the buffer would be written by itself."""


def told(allowed: bool, **more: Any) -> Decision:
    return Decision(allowed=allowed, bundle="b" * 12, **more)


def numbered(number: int) -> Access:
    return dataclasses.replace(asked(), id=f"call_{number}")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(Database, database_url)
    yield opened
    await opened.close()


class Flaky:
    """A database that is away, until it is told to be back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.away = True
        self.tried = asyncio.Event()

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        self.tried.set()
        if self.away:
            raise Retryable("The database does not answer.")
        return await self._database.write(work)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._database.read(work)


async def ids(database: Database) -> set[str]:
    query = sa.select(decisions.c.request)
    rows = await database.read(lambda connection: connection.execute(query).all())
    return {row.request["id"] for row in rows}


@pytest.mark.requirement("policy.recorded")
async def test_an_allow_is_written_soon_by_itself_and_all_of_them_at_the_close(database: Database) -> None:
    log = DecisionLog(database, flush_seconds=0.01)
    log.add(numbered(1), told(True))
    async with asyncio.timeout(10):
        while await ids(database) != {"call_1"}:
            pass
    slow = DecisionLog(database, flush_seconds=LONG)
    for number in range(2, 200):
        slow.add(numbered(number), told(True))
    assert await ids(database) == {"call_1"}
    async with asyncio.timeout(10):
        await slow.close()
    assert await ids(database) == {f"call_{number}" for number in range(1, 200)}
    await log.close()


@pytest.mark.requirement("policy.recorded")
async def test_a_denial_is_written_before_anyone_hears_of_it(database: Database) -> None:
    log = DecisionLog(database, flush_seconds=LONG)
    log.add(numbered(1), told(True))
    await log.write(numbered(2), told(False, reasons=("x (a.cedar:1)",), errors=("broken",)))
    (found,) = await log.find()
    assert (found.decision, found.reasons, found.errors) == ("deny", ("x (a.cedar:1)",), ("broken",))
    assert (found.principal, found.resource) == ('Agent::"desk.clerk"', 'Tool::"cancel"')
    assert (found.bundle, found.tenant, found.conversation_id) == ("b" * 12, "acme", "conv_1")
    await log.close()


@pytest.mark.requirement("policy.recorded")
async def test_while_the_database_is_away_the_oldest_allows_are_dropped_and_counted_but_no_denial(
    database: Database,
) -> None:
    flaky = Flaky(database)
    log = DecisionLog(flaky, flush_seconds=0.01, max_allows=3)  # type: ignore[arg-type]  # stands in for one
    for number in range(10):
        log.add(numbered(number), told(True))
        await log.write(numbered(100 + number), told(False))
    async with asyncio.timeout(10):
        await flaky.tried.wait()
    assert log.dropped == 7
    assert log.waiting == 13
    flaky.away = False
    async with asyncio.timeout(10):
        await log.close()
    assert await ids(database) == {f"call_{number}" for number in (7, 8, 9, *range(100, 110))}
    assert log.waiting == 0


@pytest.mark.requirement("policy.recorded")
async def test_what_cannot_be_written_at_all_takes_no_others_along(database: Database) -> None:
    log = DecisionLog(database, flush_seconds=LONG)
    for number in range(5):
        who = caller(tenant=None if number == 2 else "acme")  # the column is NOT NULL
        log.add(dataclasses.replace(asked(by=who), id=f"call_{number}"), told(True))
    await log.close()
    assert await ids(database) == {"call_0", "call_1", "call_3", "call_4"}
    assert log.dropped == 1


@pytest.mark.requirement("policy.recorded")
async def test_a_decision_is_kept_as_it_was_asked_whatever_tools_do_to_the_facts_later(
    database: Database,
) -> None:
    facts: dict[str, Any] = {
        "customer": "ann",
        "level": 3,
        "seen": ["a"],
        "transfer": {"turn": 1},
        "empty": {},
    }
    log = DecisionLog(database, flush_seconds=LONG)
    odd = {"name\0": "\ud800", "long": "x" * 5_000}
    log.add(asked(facts=facts | odd, by=caller(team="t", tags={"k": "v"}, admin=True), price=7), told(True))
    log.add(asked(facts=facts), told(True))
    facts["customer"] = "bob"
    await log.close()
    second, first = await log.find()
    assert second.access.context["customer"] == "ann"
    again = first.access
    assert again.caller == caller(team="t", tags={"k": "v"}, admin=True)
    assert (again.price, again.attributes, again.action) == (7, {"effect": "write"}, "tool:call")
    assert {name: again.context[name] for name in ("customer", "level", "seen")} == {
        "customer": "ann",
        "level": 3,
        "seen": ["a"],
    }
    assert again.context["transfer"], "that it was there is kept"
    assert again.context["long"] != "x" * 5_000
    assert "empty" not in again.context


@pytest.mark.requirement("policy.recorded")
async def test_decisions_are_found_by_tenant_and_kind_a_page_at_a_time(database: Database) -> None:
    log = DecisionLog(database, flush_seconds=LONG)
    for number in range(5):
        await log.write(numbered(number), told(number % 2 == 0))
    other = dataclasses.replace(asked("memory:read", "docs", by=caller(tenant="other")), id="other")
    await log.write(other, told(True))
    first = await log.find(tenant="acme", limit=2)
    assert [item.request["id"] for item in first] == ["call_4", "call_3"]
    rest = await log.find(tenant="acme", after=first[-1].id)
    assert [item.request["id"] for item in rest] == ["call_2", "call_1", "call_0"]
    denied = await log.find(tenant="acme", decision="deny")
    assert [item.request["id"] for item in denied] == ["call_3", "call_1"]
    assert [item.tenant for item in await log.find(action="memory:read")] == ["other"]
    assert len(await log.find()) == 6
    assert len(await log.find(since=first[0].at)) <= 2
    assert await log.find(until=rest[-1].at) == []
    with pytest.raises(InvalidRequest, match="no such decision"):
        await log.find(tenant="other", after=first[0].id)
    await log.close()
