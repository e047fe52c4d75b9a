"""Shared state's updates beside a plain `UPDATE ... WHERE version` loop on the driver, in one run.

    python -m benchmarks.state [--databases sqlite,postgres] [--writers 1,16,64] [--json FILE]

Both read a number, add 1 and write it if nobody was faster, with the same durability. The plain loop is the
least that can be written by hand: a thread and a connection for each writer, and no history of who wrote. The
store runs in one process, and keeps it. They take turns, round by round, on the same server.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from admiralty.core.values import Identity
from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.storage import Database
from benchmarks.harness import machine
from benchmarks.services import Postgres

COLUMNS = ("database", "keys", "writers", "plain /s", "store /s", "ratio", "plain p50 ms", "store p50 ms")
ME = Identity(tenant="benchmark")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: so many writers, each with a key of its own or all on one, in one round."""

    database: str
    system: str
    keys: str
    writers: int
    round: int
    updates: int
    per_second: float
    p50_ms: float
    lost: int
    """Updates that were told done and are not in the value: must be 0."""


# -- the plain loop -------------------------------------------------------------------------------


class PlainSqlite:
    """One writer's connection, with the store's own settings."""

    def __init__(self, path: str) -> None:
        self._path = path

    def open(self) -> Callable[[str], None]:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=60)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

        def update(key: str) -> None:
            while True:
                value, version = connection.execute(
                    "SELECT value, version FROM plain WHERE key = ?", (key,)
                ).fetchone()
                connection.execute("BEGIN IMMEDIATE")
                done = connection.execute(
                    "UPDATE plain SET value = ?, version = version + 1 WHERE key = ? AND version = ?",
                    (json.dumps(json.loads(value) + 1), key, version),
                ).rowcount
                connection.execute("COMMIT")
                if done:
                    return
                time.sleep(random.uniform(0, 0.002))

        return update

    def prepare(self, keys: Sequence[str]) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS plain (key TEXT PRIMARY KEY, value TEXT, version INT)"
            )
            connection.executemany(
                "INSERT OR REPLACE INTO plain VALUES (?, '0', 1)", [(key,) for key in keys]
            )

    def total(self, keys: Sequence[str]) -> int:
        with sqlite3.connect(self._path) as connection:
            rows: dict[str, str] = dict(connection.execute("SELECT key, value FROM plain").fetchall())
        return sum(json.loads(rows[key]) for key in keys)


class PlainPostgres:
    """One writer's connection, with the server's own settings."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self) -> Callable[[str], None]:
        connection = psycopg.connect(self._url, autocommit=True)

        def update(key: str) -> None:
            while True:
                found = connection.execute(
                    "SELECT value, version FROM plain WHERE key = %s", (key,)
                ).fetchone()
                assert found is not None
                done = connection.execute(
                    "UPDATE plain SET value = %s, version = version + 1 WHERE key = %s AND version = %s",
                    (json.dumps(json.loads(found[0]) + 1), key, found[1]),
                ).rowcount
                if done:
                    return
                time.sleep(random.uniform(0, 0.002))

        return update

    def prepare(self, keys: Sequence[str]) -> None:
        with psycopg.connect(self._url) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS plain (key TEXT PRIMARY KEY, value TEXT, version INT)"
            )
            connection.execute("DELETE FROM plain")
            connection.cursor().executemany("INSERT INTO plain VALUES (%s, '0', 1)", [(key,) for key in keys])

    def total(self, keys: Sequence[str]) -> int:
        with psycopg.connect(self._url) as connection:
            rows: dict[str, str] = dict(connection.execute("SELECT key, value FROM plain").fetchall())
        return sum(json.loads(rows[key]) for key in keys)


def run_plain(
    plain: PlainSqlite | PlainPostgres, keys: Sequence[str], seconds: float
) -> tuple[list[float], float]:
    """Let a thread for each of ``keys`` update for so long; return how long each took, and the whole."""
    taken: list[list[float]] = [[] for _ in keys]
    begins = threading.Barrier(len(keys) + 1)
    ends = threading.Event()

    def write(number: int, key: str) -> None:
        update = plain.open()
        begins.wait(60)
        while not ends.is_set():
            started = time.perf_counter()
            update(key)
            taken[number].append(time.perf_counter() - started)

    threads = [threading.Thread(target=write, args=one, daemon=True) for one in enumerate(keys)]
    for thread in threads:
        thread.start()
    begins.wait(60)
    started = time.perf_counter()
    time.sleep(seconds)
    ends.set()
    for thread in threads:
        thread.join(60)
    return [one for own in taken for one in own], time.perf_counter() - started


# -- the store ------------------------------------------------------------------------------------


async def run_store(store: SqlStateStore, keys: Sequence[str], seconds: float) -> tuple[list[float], float]:
    """Let a task for each of ``keys`` update for so long; return how long each took, and the whole."""
    taken: list[float] = []
    until = time.perf_counter() + seconds

    async def write(key: str) -> None:
        while (started := time.perf_counter()) < until:
            await store.update(ME, "benchmark", key, _add, default=0)
            taken.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*map(write, keys))
    return taken, time.perf_counter() - started


def _add(number: int) -> int:
    return number + 1


async def measure(
    url: str, database: str, writers: Sequence[int], rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Cell]:
    """Measure both on one database, in turn; in every other round the store goes first."""
    plain = PlainSqlite(url.removeprefix("sqlite:///")) if database == "sqlite" else PlainPostgres(url)
    opened = await asyncio.to_thread(Database, url)
    store = SqlStateStore(opened)
    cells = []
    for number in range(rounds):
        for kind in ("distinct", "one hot"):
            for writing in writers:
                say(f"round {number + 1}/{rounds}: {database}, {kind}, {writing} writers")
                run = f"{number}-{kind}-{writing}"
                keys = [f"{run}-{0 if kind == 'one hot' else one}" for one in range(writing)]
                names = list(dict.fromkeys(keys))
                systems = ("plain", "store") if number % 2 else ("store", "plain")
                for system in systems:
                    if system == "plain":
                        await asyncio.to_thread(plain.prepare, names)
                        taken, whole = await asyncio.to_thread(run_plain, plain, keys, seconds)
                        total = await asyncio.to_thread(plain.total, names)
                    else:
                        taken, whole = await run_store(store, keys, seconds)
                        found = await store.get_many(ME, [("benchmark", name) for name in names])
                        total = sum(one.value for one in found if one is not None)
                    cells.append(
                        Cell(
                            database=database,
                            system=system,
                            keys=kind,
                            writers=writing,
                            round=number,
                            updates=len(taken),
                            per_second=len(taken) / whole,
                            p50_ms=statistics.median(taken) * 1000,
                            lost=len(taken) - total,
                        )
                    )
    await opened.close()
    return cells


def medians(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a row for each database, kind of keys and number of writers; ratio: of rounds, their median."""
    rows = []
    for place in dict.fromkeys((cell.database, cell.keys, cell.writers) for cell in cells):
        mine = [cell for cell in cells if (cell.database, cell.keys, cell.writers) == place]
        plain = sorted((cell for cell in mine if cell.system == "plain"), key=lambda cell: cell.round)
        store = sorted((cell for cell in mine if cell.system == "store"), key=lambda cell: cell.round)
        ratios = [ours.per_second / theirs.per_second for ours, theirs in zip(store, plain, strict=True)]
        rows.append(
            {
                "database": place[0],
                "keys": place[1],
                "writers": place[2],
                "plain_per_second": statistics.median(cell.per_second for cell in plain),
                "store_per_second": statistics.median(cell.per_second for cell in store),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "plain_p50_ms": statistics.median(cell.p50_ms for cell in plain),
                "store_p50_ms": statistics.median(cell.p50_ms for cell in store),
                "lost": sum(cell.lost for cell in mine),
            }
        )
    return rows


def print_report(rows: Sequence[dict[str, Any]], rounds: int, console: Console) -> None:
    """Print the rows as a table."""
    title = f"updates of shared state beside a plain loop, medians of {rounds} rounds"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("database", "keys") else "right")
    for row in rows:
        table.add_row(
            row["database"],
            row["keys"],
            str(row["writers"]),
            f"{row['plain_per_second']:.0f}",
            f"{row['store_per_second']:.0f}",
            f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f}-{row['highest_ratio']:.2f})",
            f"{row['plain_p50_ms']:.2f}",
            f"{row['store_p50_ms']:.2f}",
        )
    console.print(table)
    console.print(f"lost updates: {sum(row['lost'] for row in rows)}")


def run(
    databases: Sequence[str], writers: Sequence[int], rounds: int, seconds: float, console: Console
) -> dict[str, Any]:
    """Measure; return everything for JSON."""
    cells: list[Cell] = []
    with console.status("state") as status, tempfile.TemporaryDirectory() as folder:
        for database in databases:
            server = Postgres() if database == "postgres" else None
            try:
                url = server.create("state") if server else f"sqlite:///{Path(folder) / 'state.sqlite3'}"
                cells += asyncio.run(measure(url, database, writers, rounds, seconds, status.update))
            finally:
                if server:
                    server.stop()
    rows = medians(cells)
    print_report(rows, rounds, console)
    options = {"writers": list(writers), "rounds": rounds, "seconds": seconds}
    return {
        "machine": machine(),
        "options": options,
        "medians": rows,
        "cells": [asdict(one) for one in cells],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument("--writers", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    given = parser.parse_args()
    databases = given.databases.split(",")
    if unknown := [name for name in databases if name not in ("sqlite", "postgres")]:
        parser.error(f"--databases: {unknown[0]!r} is unknown; there are: sqlite, postgres")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    writers = [int(part) for part in given.writers.split(",")]
    document = run(databases, writers, given.rounds, given.seconds, console)
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"written: {given.json}")


if __name__ == "__main__":
    main()
