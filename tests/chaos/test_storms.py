"""Everything at once: many conversations while processes, servers, disks and clocks fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks.chaos_load import Breaker, in_parallel, support_jobs, till_jobs
from benchmarks.chaos_provider import NAME
from benchmarks.chaos_run import Scene
from benchmarks.services import Postgres, Service
from tests.conftest import RedisServer

from .conftest import OpenScene

Job = Callable[[], Awaitable[object]]

BUDGETS = {"roomy": "1000", "tight": "0.012"}


async def _under_fire(scene: Scene, jobs: Sequence[Job], seconds: float = 8.0) -> None:
    """Do the jobs, while something breaks about every two seconds for so long."""
    breaking = asyncio.create_task(Breaker(scene=scene, per_minute=30).work())
    asyncio.get_running_loop().call_later(seconds, breaking.cancel)
    try:
        await in_parallel(6, jobs)
    finally:
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
        scene.points.disarm()


@pytest.mark.requirement("chaos.storm", "chaos.money")
async def test_conversations_with_the_support_desk_survive_kills_at_any_moment(
    open_checked: OpenScene,
) -> None:
    options = {"fleet": "support", "customers": 12, "budgets": BUDGETS, "stop_seconds": 4.0}
    async with open_checked(**options) as scene:
        scene.workers.kill()
        await _under_fire(scene, support_jobs(scene, 12))
        done = [asked for asked in scene.asked if asked.turn.status == "done"]
        assert len(done) >= 3 * 10
        assert sum(scene.took_place().values()) >= 10
    assert scene.workers.counts["died"] > 0


@pytest.mark.requirement("chaos.storm", "chaos.money", "chaos.texting")
async def test_tools_that_would_do_anything_twice_do_it_once_under_fire(open_checked: OpenScene) -> None:
    async with open_checked(budgets=BUDGETS, token_seconds=0.005, stop_seconds=4.0) as scene:
        scene.workers.kill()
        await _under_fire(scene, till_jobs(scene, 30))
    assert scene.workers.counts["died"] > 0


@pytest.mark.requirement("chaos.servers")
async def test_turns_wait_for_a_postgresql_that_was_killed(
    postgres_server: Postgres, open_checked: OpenScene
) -> None:
    url = await asyncio.to_thread(postgres_server.create, "storm")
    async with open_checked(database_url=url, token_seconds=0.01) as scene:
        jobs = [partial(scene.say, tool) for tool in ("book", "stamp", "look") * 8]
        going = asyncio.create_task(in_parallel(6, jobs))
        await _some_done(scene, 4)
        await _restart(postgres_server)
        await going
        assert {asked.turn.status for asked in scene.asked} == {"done"}


@pytest.mark.requirement("chaos.servers")
async def test_turns_go_on_while_redis_is_away(redis_server: RedisServer, open_checked: OpenScene) -> None:
    account = {"name": "default", "requests_per_minute": 600_000, "tokens_per_minute": 600_000_000}
    settings = {
        "redis_url": redis_server.url,
        "scheduler_replicas": 2,
        "provider_keys": {NAME: [account]},
    }
    async with open_checked(settings=settings) as scene:
        jobs = [partial(scene.say, tool) for tool in ("book", "look") * 10]
        going = asyncio.create_task(in_parallel(4, jobs))
        await _some_done(scene, 4)
        redis_server.stop()
        await asyncio.sleep(0.5)
        redis_server.start()
        await going
        assert {asked.turn.status for asked in scene.asked} == {"done"}


async def _restart(service: Service) -> None:
    await asyncio.to_thread(service.kill)
    await asyncio.sleep(0.5)  # how long it is away
    await asyncio.to_thread(service.start)


async def _some_done(scene: Scene, count: int) -> None:
    async with asyncio.timeout(60):
        while len(scene.asked) < count:  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(made, capture_output=True, check=False).returncode != 0:
        pytest.skip("no small disk can be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.requirement("chaos.disk")
async def test_turns_wait_for_room_on_a_full_disk_and_nothing_is_damaged(
    small_disk: Path, open_checked: OpenScene
) -> None:
    async with open_checked(database_url=f"sqlite:///{small_disk / 'full.sqlite3'}", patience=60.0) as scene:
        assert (await scene.say("book")).turn.status == "done"
        ballast = small_disk / "ballast"
        _fill(ballast)
        jobs = [partial(scene.say, "book") for _ in range(8)]
        going = asyncio.create_task(in_parallel(4, jobs))
        await asyncio.sleep(3)  # how long there is no room
        assert len(scene.asked) < 9
        ballast.unlink()
        await going
        assert {asked.turn.status for asked in scene.asked} == {"done"}
        check = await scene.database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar())
        assert check == "ok"


def _fill(path: Path) -> None:
    """Leave no byte."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    if file.write(b"\0" * size) < size:
                        break
            except OSError:
                continue


@pytest.mark.requirement("chaos.clock")
async def test_a_process_whose_clock_is_an_hour_ahead_makes_nothing_happen_twice(
    open_checked: OpenScene,
) -> None:
    async with open_checked(clocks_ahead=[3600.0], token_seconds=0.02, workers=2) as scene:
        await in_parallel(4, [partial(scene.say, tool) for tool in ("book", "stamp", "look") * 5])
        assert {asked.turn.status for asked in scene.asked} == {"done"}
