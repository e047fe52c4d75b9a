"""The database: many writes in one commit, none at another's cost, and clear words when it fails."""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from admiralty.core.errors import ConfigurationError, Retryable
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.keys import ApiKeys
from admiralty.runtime.storage.tables import api_keys, conversations, metadata


def insert(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        values = {"digest": name, "hint": "", "tenant": "t", "name": name, "created_at": 0.0}
        connection.execute(api_keys.insert().values(id=name, **values))
        return name

    return work


def names(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(api_keys.c.name).order_by(api_keys.c.name)).scalars())


class Gate:
    """A write that holds the writer up until it is opened, so that those behind it form a group."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> None:
        self.reached.set()
        assert self.opened.wait(10)


async def grouped(database: Database, *works: Callable[[Connection], Any]) -> list[Any]:
    """Run ``works`` in one commit; return their results or errors."""
    gate = Gate()
    before = database.submit(gate)
    await asyncio.to_thread(gate.reached.wait, 10)
    written = [asyncio.ensure_future(database.write(work)) for work in works]
    await asyncio.sleep(0)  # all are queued
    gate.opened.set()
    await asyncio.wrap_future(before)
    return await asyncio.gather(*written, return_exceptions=True)


@pytest.mark.requirement("storage.group_commit")
async def test_writes_that_wait_share_a_commit(database: Database) -> None:
    commits = 0

    def count(connection: Connection) -> None:
        nonlocal commits
        commits += 1

    sa.event.listen(database._writing, "commit", count)
    results = await grouped(database, *(insert(f"k{number:02}") for number in range(50)))
    assert results == [f"k{number:02}" for number in range(50)]
    assert commits == 2  # the gate's, and one for all that waited behind it
    assert len(await database.read(names)) == 50


def broken_sql(connection: Connection) -> None:
    connection.execute(sa.text("SELECT * FROM nowhere"))


def broken_python(connection: Connection) -> None:
    insert("half-done")(connection)
    raise KeyError("half-done")


@pytest.mark.requirement("storage.group_commit")
async def test_a_write_that_fails_takes_nothing_of_its_neighbours_with_it(database: Database) -> None:
    one, bad, worse, twice, two = await grouped(
        database, insert("one"), broken_sql, broken_python, insert("one"), insert("two")
    )
    assert (one, two) == ("one", "two")
    assert isinstance(bad, Retryable | sa.exc.ProgrammingError)
    assert isinstance(worse, KeyError)
    assert isinstance(twice, sa.exc.IntegrityError)
    assert await database.read(names) == ["one", "two"]


@pytest.mark.requirement("storage.group_commit")
async def test_a_write_that_fails_alone_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(KeyError):
        await database.write(broken_python)
    with pytest.raises((Retryable, sa.exc.ProgrammingError)):
        await database.write(broken_sql)
    await database.write(insert("one"))
    assert await database.read(names) == ["one"]


@pytest.mark.requirement("storage.group_commit")
async def test_a_write_has_been_committed_when_it_returns(database: Database, database_url: str) -> None:
    await database.write(insert("one"))
    other = Database(database_url)
    assert await other.read(names) == ["one"]
    await other.close()


async def test_a_write_goes_on_when_its_caller_has_left(database: Database) -> None:
    gate = Gate()
    database.submit(gate)
    task = asyncio.create_task(database.write(insert("one")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    await database.write(insert("two"))
    assert await database.read(names) == ["one", "two"]


async def test_a_write_that_was_called_off_before_it_began_does_not_stop_the_writer(
    database: Database,
) -> None:
    gate = Gate()
    database.submit(gate)
    await asyncio.to_thread(gate.reached.wait, 10)
    assert database.submit(insert("never")).cancel()
    gate.opened.set()
    await database.write(insert("one"))
    assert await database.read(names) == ["one"]


@pytest.mark.requirement("storage.close")
async def test_closing_finishes_what_is_queued_and_refuses_what_comes_after(
    database: Database, database_url: str
) -> None:
    gate = Gate()
    database.submit(gate)
    await asyncio.to_thread(gate.reached.wait, 10)
    written = [asyncio.ensure_future(database.write(insert(f"k{number}"))) for number in range(9)]
    await asyncio.sleep(0)
    closing = [asyncio.ensure_future(database.close()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Retryable, match="shutting down"):
        database.submit(insert("late"))
    gate.opened.set()
    await asyncio.gather(*closing, *written)
    other = Database(database_url)
    assert len(await other.read(names)) == 9
    await other.close()


@pytest.mark.requirement("storage.group_commit")
async def test_a_deadlock_between_the_groups_of_two_processes_costs_nobody_a_write(
    postgres_url: str,
) -> None:
    here, there = Database(postgres_url), Database(postgres_url)
    await here.write(insert("a"))
    await here.write(insert("b"))
    both_locked = threading.Barrier(2)

    def lock(first: str, second: str) -> tuple[Callable[[Connection], None], Callable[[Connection], None]]:
        def touch(connection: Connection, name: str) -> None:
            connection.execute(api_keys.update().where(api_keys.c.id == name).values(hint="x"))

        def begin(connection: Connection) -> None:
            touch(connection, first)
            both_locked.wait(10)

        return begin, lambda connection: touch(connection, second)

    results = await asyncio.gather(
        grouped(here, insert("c"), *lock("a", "b")), grouped(there, insert("d"), *lock("b", "a"))
    )
    assert not [error for outcomes in results for error in outcomes if isinstance(error, BaseException)]
    assert await here.read(names) == ["a", "b", "c", "d"]
    await here.close()
    await there.close()


def touch(name: str) -> Callable[[Connection], int]:
    return lambda c: c.execute(api_keys.update().where(api_keys.c.id == name).values(hint="x")).rowcount


@pytest.mark.requirement("storage.locks")
async def test_a_row_that_another_process_holds_keeps_only_its_own_writers_waiting(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admiralty.runtime.storage.database.ALONE_SECONDS", 0.2)
    here, there = Database(postgres_url), Database(postgres_url)
    for name in "ab":
        await here.write(insert(name))
    gate = Gate()

    def hold(connection: Connection) -> None:
        touch("a")(connection)
        gate(connection)

    holding = there.submit(hold)
    await asyncio.to_thread(gate.reached.wait, 10)
    held, beside, new = await grouped(here, touch("a"), touch("b"), insert("c"))
    assert isinstance(held, Retryable)
    assert held.retry_after
    assert (beside, isinstance(new, BaseException)) == (1, False)
    gate.opened.set()
    await asyncio.wrap_future(holding)
    assert await here.write(touch("a")) == 1
    await here.close()
    await there.close()


@pytest.mark.requirement("storage.locks")
async def test_a_process_that_is_stopped_in_a_write_loses_its_locks_and_the_write(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admiralty.runtime.storage.database.STOPPED_SECONDS", 0.3)
    stopped, other = Database(postgres_url), Database(postgres_url)
    await other.write(insert("a"))
    gate = Gate()

    def hold(connection: Connection) -> None:
        connection.execute(api_keys.update().values(hint="late"))
        gate(connection)
        connection.execute(api_keys.update().values(hint="later"))

    holding = stopped.submit(hold)
    await asyncio.to_thread(gate.reached.wait, 10)
    assert await other.write(touch("a")) == 1
    gate.opened.set()
    with pytest.raises(Retryable):
        await asyncio.wrap_future(holding)
    assert await other.read(lambda c: c.execute(sa.select(api_keys.c.hint)).scalars().all()) == ["x"]
    assert await stopped.write(touch("a")) == 1
    await stopped.close()
    await other.close()


@pytest.mark.requirement("storage.numbers")
async def test_numbers_that_are_none_are_kept_as_null(database: Database) -> None:
    given = {"rate": float("nan"), "of": [math.inf, 1.5, {"least": -math.inf}], "fine": 1}

    def add(connection: Connection) -> None:
        connection.execute(
            conversations.insert(),
            {"id": "c", "tenant": "t", "fleet": "f", "metadata": given, "created_at": 0, "updated_at": 0},
        )

    await database.write(add)
    kept = await database.read(lambda c: c.execute(sa.select(conversations.c.metadata)).scalar_one())
    assert kept == {"rate": None, "of": [None, 1.5, {"least": None}], "fine": 1}


async def test_everything_works_in_memory_too() -> None:
    database = Database("sqlite://")
    await asyncio.gather(*(database.write(insert(f"k{number}")) for number in range(9)))
    assert len(await database.read(names)) == 9
    await database.close()


# -- migrations ------------------------------------------------------------------------------------


@pytest.mark.requirement("storage.migrations")
async def test_the_migrations_make_exactly_the_tables_that_the_code_knows(database: Database) -> None:
    def compare(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await database.read(compare) == []


_OPEN = """
import asyncio, sys
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.keys import ApiKeys
sys.stdin.readline()
async def main():
    database = Database(sys.argv[1])
    await ApiKeys(database).create(name=sys.argv[2])
    await database.close()
asyncio.run(main())
"""


@pytest.mark.requirement("storage.migrations")
async def test_four_processes_may_open_a_new_database_at_once(database_url: str) -> None:
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-c", _OPEN, database_url, f"process {number}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    with ThreadPoolExecutor(4) as threads:
        errors = list(threads.map(lambda process: process.communicate(timeout=60)[1], processes))
    assert [process.returncode for process in processes] == [0] * 4, errors
    database = Database(database_url)
    assert [key.name for key in sorted(await ApiKeys(database).all(), key=lambda key: key.name)] == [
        f"process {number}" for number in range(4)
    ]
    await database.close()


@pytest.mark.requirement("storage.migrations")
async def test_a_database_of_a_newer_version_is_refused(database: Database, database_url: str) -> None:
    await database.write(
        lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")) and None
    )
    with pytest.raises(ConfigurationError, match=r"newer Admiralty \(schema 9999; this one knows \d+"):
        Database(database_url)


# -- wrong and absent databases --------------------------------------------------------------------


@pytest.mark.requirement("storage.urls")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a URL"),
        ("admiralty.sqlite3", "not a URL"),
        ("postgresql://me:hunter2@host:port/name", "//***@host:port/name': not a URL"),
        ("mysql://me:hunter2@host/name", "mysql is not supported"),
    ],
)
def test_a_wrong_url_is_refused_without_telling_the_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Database(url)
    assert str(refused.value).startswith("database_url = ")
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.requirement("storage.urls")
def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are not the tables you are looking for. " * 100)
    (tmp_path / "folder").mkdir()
    for name, problem in [
        ("notes.txt", "not a database"),
        ("folder", "unable to open"),
        ("notes.txt/x.sqlite3", "cannot be made"),
    ]:
        with pytest.raises(ConfigurationError, match=problem):
            Database(f"sqlite:///{tmp_path / name}")
    with pytest.raises(ConfigurationError, match="use NORMAL or FULL"):
        Database("sqlite://", synchronous="OFF")


@pytest.mark.requirement("storage.unreachable")
def test_a_postgresql_that_does_not_answer_is_worth_another_try(free_port: Callable[[], int]) -> None:
    with pytest.raises(Retryable, match=r"The database does not answer: .*(refused|failed)") as refused:
        Database(f"postgresql://postgres@127.0.0.1:{free_port()}/x")
    assert refused.value.retry_after == 1.0


@pytest.mark.requirement("storage.unreachable")
def test_a_postgresql_that_accepts_and_says_nothing_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Retryable, match="timeout"):
            Database(f"postgresql://postgres@127.0.0.1:{port}/x?connect_timeout=2")


@pytest.mark.requirement("storage.unreachable")
async def test_a_postgresql_that_goes_away_fails_clearly_and_works_again_when_it_is_back(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    end_others = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )

    def cut(connection: Connection) -> None:
        other = sa.create_engine(database.url)
        with other.connect() as second:
            second.execute(end_others)
        other.dispose()
        connection.execute(sa.text("SELECT 1"))

    one, cut_off = await grouped(database, insert("one"), cut)
    assert isinstance(one, Retryable)  # they shared the transaction that was lost
    assert isinstance(cut_off, Retryable)
    await database.write(insert("two"))
    assert await database.read(names) == ["two"]
    await database.close()


@pytest.mark.requirement("storage.group_commit")
async def test_on_a_full_disk_exactly_the_writes_that_succeeded_are_there(sqlite_url: str) -> None:
    database = Database(sqlite_url)

    def fill(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        values = {"digest": "big", "hint": "", "tenant": "t", "name": "x" * 100_000, "created_at": 0.0}
        connection.execute(api_keys.insert().values(id="big", **values))

    outcomes = await grouped(database, insert("one"), fill, insert("two"))
    assert isinstance(outcomes[1], Retryable)
    assert "full" in str(outcomes[1])
    assert await database.read(names) == [name for name in ("one", "two") if name in outcomes]
    await database.close()
