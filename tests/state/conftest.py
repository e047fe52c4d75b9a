"""Shared state on both databases and beyond a hop; a clock that is set by hand; who reads and writes."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from admiralty.core.clock import SystemClock
from admiralty.core.state import Who
from admiralty.core.values import Caller, Identity
from admiralty.runtime.serve.remote import RemoteState
from admiralty.runtime.state import ComposedStateStore, SqlStateStore, call_state
from admiralty.runtime.storage import Database
from admiralty.tools import SharedState

ANN = Identity(tenant="acme", user="ann", key_id="key_1")
RIVAL = Identity(tenant="rival", user="ann", key_id="key_1")
CLERK = Caller(
    identity=ANN,
    fleet="desk",
    agent="clerk",
    agent_version="v7",
    conversation_id="conv_1",
    run_id="run_1",
)
HISTORY = 5


@dataclass
class HandClock(SystemClock):
    """Wall time as the test sets it."""

    time: float = 1_800_000_000.0

    def now(self) -> float:
        return self.time


class _Response:
    def __init__(self, work: Any) -> None:
        self._task = asyncio.ensure_future(work)

    def __await__(self) -> Any:
        return self._task.__await__()

    def cancel(self) -> None:
        self._task.cancel()


class FakeHandle:
    """Ray's handle to the scheduler's deployment, in this process: all goes by value."""

    deployment_name = "scheduler"

    def __init__(self, store: SqlStateStore, method: str = "") -> None:
        self._store = store
        self._method = method

    def options(self, *, method_name: str, **_: Any) -> FakeHandle:
        return FakeHandle(self._store, method_name)

    def remote(self, *arguments: Any) -> _Response:
        assert self._method == "state"
        return _Response(self._answer(*pickle.loads(pickle.dumps(arguments))))

    async def _answer(self, name: str, *arguments: Any) -> Any:
        try:
            return pickle.loads(pickle.dumps(await call_state(self._store.primitives, name, arguments)))
        except Exception as error:
            raise pickle.loads(pickle.dumps(error)) from None


def remote_store(store: SqlStateStore) -> ComposedStateStore:
    """Return the store as an agent's process on Ray has it."""
    return ComposedStateStore(RemoteState(cast("Any", FakeHandle(store))))


@dataclass(frozen=True, kw_only=True)
class World:
    """A store, and what lies around it."""

    store: ComposedStateStore
    database: Database
    clock: HandClock

    def state(self, who: Who = ANN, namespace: str = "shared") -> SharedState:
        return SharedState(self.store, lambda: who, namespace)

    def another(self) -> World:
        """Return the world of another process: nothing is shared but the database."""
        return replace(self, store=SqlStateStore(self.database, self.clock, history=HISTORY))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["sqlite", "postgres", "memory", "remote"])
async def world(request: pytest.FixtureRequest, clock: HandClock) -> AsyncIterator[World]:
    """Every adapter of the port."""
    kind = {"remote": "sqlite"}.get(request.param, request.param)
    url = "sqlite://" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    database = Database(url)
    local = SqlStateStore(database, clock, history=HISTORY)
    store = remote_store(local) if request.param == "remote" else local
    yield World(store=store, database=database, clock=clock)
    await database.close()


@pytest.fixture
def state(world: World) -> SharedState:
    return world.state()
