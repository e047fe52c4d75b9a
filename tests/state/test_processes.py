"""Several processes on one database: none loses a write, and one that is killed leaves nothing half done."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import state_history, state_values
from admiralty.tools import SharedState

from .conftest import ANN

SECONDS = 90.0
"""How long a process may take at all; a machine with other work on it is slow."""


class Writers:
    """Processes of ``writer.py``, all waiting for the word to begin."""

    def __init__(self, url: str, how: str, number: int, processes: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("writer.py")), url]
        self.processes = [
            subprocess.Popen(
                [*command, f"writer-{one}", how, str(number)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for one in range(processes)
        ]  # fmt: skip

    def begin(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def told(self) -> list[list[int]]:
        """Wait for the end; return what each was told was done."""
        lines = [process.communicate(timeout=SECONDS)[0].splitlines() for process in self.processes]
        return [[int(line) for line in one] for one in lines]

    def killed(self, after: int) -> list[int]:
        """Kill all when the first was told so much; return what all of them were told."""
        outputs: list[list[str]] = []
        for process in self.processes:
            assert process.stdout is not None
            outputs.append([process.stdout.readline() for _ in range(after)] if not outputs else [])
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        for process, lines in zip(self.processes, outputs, strict=True):
            assert process.stdout is not None
            lines += process.stdout.read().splitlines(keepends=True)
        return [int(line) for lines in outputs for line in lines if line.endswith("\n")]

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)


@pytest.fixture
def started() -> Iterator[list[Writers]]:
    """What tests start, so that it ends with them."""
    writers: list[Writers] = []
    yield writers
    for one in writers:
        one.end()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


async def check_history(database: Database, writers: list[Writers]) -> dict[str, int]:
    """Assert that each value is its latest version and that no version lacks; return the versions."""
    rows = await database.read(lambda one: one.execute(sa.select(state_values)).mappings().all())
    kept = await database.read(
        lambda one: one.execute(sa.select(state_history).order_by(state_history.c.version)).mappings().all()
    )
    for row in rows:
        versions = [one for one in kept if one["key"] == row["key"]]
        assert [one["version"] for one in versions] == list(range(1, row["version"] + 1))
        assert (versions[-1]["value"], versions[-1]["at"]) == (row["value"], row["updated_at"])
        assert {one["agent"] for one in versions} <= {f"writer-{n}" for n in range(9)}
    return {row["key"]: row["version"] for row in rows}


@pytest.mark.requirement("state.processes")
async def test_64_writers_in_4_processes_on_one_key_lose_nothing(
    database: Database, database_url: str, started: list[Writers]
) -> None:
    writers = Writers(database_url, "count", 5, processes=4)
    started.append(writers)
    writers.begin()
    told = writers.told()
    assert sorted(version for one in told for version in one) == list(range(1, 321))
    assert await check_history(database, started) == {"n": 320}
    assert await SharedState(SqlStateStore(database), lambda: ANN).value("n") == 320


@pytest.mark.requirement("state.processes")
async def test_processes_that_move_between_keys_in_all_orders_neither_lose_nor_deadlock(
    database: Database, database_url: str, started: list[Writers]
) -> None:
    writers = Writers(database_url, "move", 2, processes=3)
    started.append(writers)
    writers.begin()
    assert sum(len(one) for one in writers.told()) == 96
    found = await SharedState(SqlStateStore(database), lambda: ANN).get_many(["left", "middle", "right"])
    assert sum(one.value for one in found.values() if one) == 0
    assert sum((await check_history(database, started)).values()) == 2 * 96


@pytest.mark.requirement("state.processes")
async def test_a_writer_that_is_killed_at_any_moment_leaves_no_version_without_its_history(
    database: Database, database_url: str, started: list[Writers]
) -> None:
    moments = random.Random(7)
    told: list[int] = []
    for _ in range(3):
        writers = Writers(database_url, "count", 10_000, processes=2)
        started.append(writers)
        writers.begin()
        told += writers.killed(after=moments.randint(1, 200))
    versions = await check_history(database, started)
    assert len(told) == len(set(told)), "two were told the same version"
    assert max(told) <= versions["n"], "somebody was told of a version that is not there"
    assert await SharedState(SqlStateStore(database), lambda: ANN).value("n") == versions["n"]
