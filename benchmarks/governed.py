"""A whole scheduler in a benchmark's own process, from settings alone: as a fleet's process builds it.

The callers are many on purpose: two teams, four users, eight conversations of one tenant, so that a call
counts in budgets at four levels, some of them shared with everybody and some with few.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from langchain_core.messages import HumanMessage, SystemMessage

from admiralty.core.ports import Metrics, Vectors
from admiralty.core.settings import Settings
from admiralty.core.values import Caller, Identity, ModelCall, Passage
from admiralty.runtime.composition.scheduler import build_scheduler
from admiralty.runtime.scheduler import LocalScheduler
from admiralty.runtime.scheduler.dispatch import Providers
from admiralty.runtime.storage import Database
from benchmarks.fleet import fleet
from benchmarks.systems import desk

TENANT: Final = "acme"
TEAMS: Final = 2
USERS: Final = 4
CONVERSATIONS: Final = 8
MODEL: Final = "openai:mock"


class NoMemory:
    """A fleet's memory that nobody asks."""

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        raise NotImplementedError

    async def embed(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError


def caller(number: int) -> Caller:
    """The caller of a call: conversations in turn, each with its user and team."""
    conversation = number % CONVERSATIONS
    user = conversation % USERS
    return Caller(
        identity=Identity(tenant=TENANT, team=f"team{user % TEAMS}", user=f"user{user}"),
        fleet="desk",
        agent="lookup",
        agent_version="v1",
        conversation_id=f"conv{conversation}",
        run_id=f"run{number}",
    )


def model_call(name: str, number: int, **values: Any) -> ModelCall:
    """A call that the mock provider recognises by its name; calls of equal names' length cost the same."""
    messages = (SystemMessage(desk.LOOKUP_PROMPT), HumanMessage(f"{desk.QUESTIONS[0]} MARK:{name}"))
    return ModelCall(id=name, caller=caller(number), messages=messages, **values)


@asynccontextmanager
async def open_scheduler(
    settings: Settings, *, providers: Providers | None = None, metrics: Metrics | None = None
) -> AsyncIterator[tuple[LocalScheduler, Database]]:
    """Build the scheduler that the settings describe, start it, and close it at the end.

    ``providers`` stand in for those that the settings name; ``metrics`` take its measurements.
    """
    database = Database.of(settings)
    scheduler = build_scheduler(settings, fleet, NoMemory(), database, metrics, providers)
    try:
        await scheduler.start()
        yield scheduler, database
    finally:
        await scheduler.close()
        await database.close()
