"""What one conversation takes on disk, turn by turn: flat, or growing with what was said before.

    python -m benchmarks.storage [--turns 1000] [--databases sqlite,postgres] [--contrast-turns 200]
                                 [--data PATH] [--json FILE]

One conversation of a fleet in this process, its model a script; a question and an answer of 2,000 characters
each turn. Sizes are taken every tenth of the turns. Beside it, LangGraph's own SQLite saver under a graph of
one node that keeps its messages, as in its manual: nothing is pruned there.
"""

import argparse
import asyncio
import importlib.util
import itertools
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import psycopg
from langchain_core.messages import AIMessage, HumanMessage
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.settings import Settings
from admiralty.core.values import Identity, ModelCall
from admiralty.runtime.testing import ScriptedScheduler
from benchmarks.harness import machine
from benchmarks.services import Postgres

CHARACTERS: Final = 2000
WINDOWS: Final = 10

Sizes = Mapping[str, int]
"""Bytes by table, with its indexes and what lies outside of its rows."""

Measure = Callable[[], Sizes]


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was there after some turns."""

    turns: int
    sizes: Sizes
    seconds: float
    """Of these turns, without the measuring."""

    @property
    def bytes(self) -> int:
        """Everything together."""
        return sum(self.sizes.values())


class Words:
    """Texts that no database can fold away: words made up at random, the same in each run."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        letters = "abcdefghijklmnopqrstuvwxyz"
        lengths = (self._random.randint(2, 9) for _ in range(3000))
        self._words = ["".join(self._random.choices(letters, k=length)) for length in lengths]

    def text(self) -> str:
        """Return a text of about 2,000 characters."""
        return " ".join(self._random.choices(self._words, k=CHARACTERS // 6))[:CHARACTERS]


# -- systems: each yields after every turn ------------------------------------------------------------


async def admiralty_turns(settings: Settings, turns: int) -> AsyncGenerator[None, None]:
    """Have a conversation with a fleet of one agent."""
    words = Words()

    def answer(call: ModelCall) -> str:  # noqa: ARG001 - a script is given the call
        return words.text()

    clerk = Agent("clerk", prompt=inline_prompt("You are a clerk."))
    fleet = Fleet("desk", agents=[clerk], entry="clerk")
    identity = Identity(tenant="us")
    async with fleet.local(
        scheduler=ScriptedScheduler(answer), settings=settings, identity=identity
    ) as local:
        conversation = (await local.conversations.create(identity)).id
        for _ in range(turns):
            await local.ask(words.text(), conversation=conversation)
            yield


async def langgraph_turns(path: Path, durability: str, turns: int) -> AsyncGenerator[None, None]:
    """Have a conversation with a graph of one node, kept by LangGraph's own saver."""
    # By name: the project itself does without them, and type checkers need not find them.
    aiosqlite: Any = import_module("aiosqlite")
    saver: Any = import_module("langgraph.checkpoint.sqlite.aio").AsyncSqliteSaver
    from langgraph.graph import END, START, MessagesState, StateGraph

    words = Words()

    async def answer(state: MessagesState) -> dict[str, Any]:  # noqa: ARG001 - a node is given the state
        return {"messages": [AIMessage(words.text())]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    async with aiosqlite.connect(path) as connection:
        graph: Any = builder.compile(checkpointer=saver(connection))
        config = {"configurable": {"thread_id": "one"}}
        for _ in range(turns):
            given = {"messages": [HumanMessage(words.text())]}
            await graph.ainvoke(given, config, durability=durability)
            yield


# -- sizes --------------------------------------------------------------------------------------------


def sqlite_sizes(path: Path) -> Sizes:
    """Return the bytes of a SQLite file by table; ``(free)`` are pages that it keeps for later."""
    with sqlite3.connect(path, timeout=30) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        of_table = dict(connection.execute("SELECT name, tbl_name FROM sqlite_master"))
        sizes: dict[str, int] = {}
        for name, size in connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
            table = of_table.get(name, "(schema)")
            sizes[table] = sizes.get(table, 0) + size
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    return sizes | {"(free)": free * page}


def postgres_sizes(url: str) -> Sizes:
    """Return the bytes of a PostgreSQL database's tables, after a VACUUM as its own daemon makes them."""
    query = "SELECT relname, pg_total_relation_size(relid) FROM pg_stat_user_tables"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM")
        return {str(name): int(size) for name, size in connection.execute(query)}


async def measured(
    running: AsyncGenerator[None, None], turns: int, measure: Measure, note: Callable[[str], None]
) -> list[Window]:
    """Follow a conversation; return what it took at the start and after each tenth of its turns."""
    windows: list[Window] = []
    every = max(1, turns // WINDOWS)
    began = time.perf_counter()
    async with aclosing(running) as taken:
        done = 0
        async for _ in taken:
            done += 1
            if done == 1 or done % every == 0:
                seconds = time.perf_counter() - began
                sizes = await asyncio.to_thread(measure)
                windows.append(Window(turns=done, sizes=sizes, seconds=seconds))
                note(f"{done} turns: {windows[-1].bytes:,} bytes")
                began = time.perf_counter()
    return windows


# -- the report ---------------------------------------------------------------------------------------


def growth(windows: Sequence[Window]) -> list[dict[str, Any]]:
    """Return what each turn added in each window, in all and by table."""
    found = []
    for before, after in itertools.pairwise(windows):
        turns = after.turns - before.turns
        tables = {
            name: (after.sizes.get(name, 0) - before.sizes.get(name, 0)) / turns
            for name in sorted(before.sizes.keys() | after.sizes.keys())
        }
        found.append(
            {
                "from": before.turns,
                "to": after.turns,
                "bytes_per_turn": (after.bytes - before.bytes) / turns,
                "tables": {name: round(size, 1) for name, size in tables.items() if size},
                "ms_per_turn": 1000 * after.seconds / turns,
            }
        )
    return found


def print_report(system: str, windows: Sequence[Window], console: Console) -> None:
    """Print a system's windows as a table: bytes added by each turn."""
    rows = growth(windows)
    total: dict[str, float] = {}
    for row in rows:
        for name, size in row["tables"].items():
            total[name] = max(total.get(name, 0), abs(size))
    shown = [name for name, size in sorted(total.items(), key=lambda item: -item[1]) if size >= 50][:6]
    title = (
        f"{system}: bytes added by a turn; {windows[-1].bytes / 1e6:.1f} MB after {windows[-1].turns} turns"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("turns", "bytes", *shown, "ms"):
        table.add_column(name, justify="right")
    for row in rows:
        sizes = (f"{row['tables'].get(name, 0):,.0f}" for name in shown)
        span = f"{row['from'] + 1}-{row['to']}"
        table.add_row(span, f"{row['bytes_per_turn']:,.0f}", *sizes, f"{row['ms_per_turn']:.1f}")
    console.print(table)


async def run(given: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    """Measure what was asked for; return everything for JSON."""
    systems: dict[str, list[Window]] = {}

    async def add(system: str, running: AsyncGenerator[None, None], turns: int, measure: Measure) -> None:
        with console.status(system) as status:
            systems[system] = await measured(
                running, turns, measure, lambda text: status.update(f"{system}: {text}")
            )
        print_report(system, systems[system], console)

    if "sqlite" in given.databases:
        path = folder / "sqlite" / "admiralty.sqlite3"
        settings = Settings.load(home=folder / "sqlite", database_url=f"sqlite:///{path}")
        await add(
            "admiralty, SQLite",
            admiralty_turns(settings, given.turns),
            given.turns,
            lambda: sqlite_sizes(path),
        )
    if "postgres" in given.databases:
        server = await asyncio.to_thread(Postgres)
        try:
            url = server.create("storage")
            settings = Settings.load(home=folder / "postgres", database_url=url)
            await add(
                "admiralty, PostgreSQL",
                admiralty_turns(settings, given.turns),
                given.turns,
                lambda: postgres_sizes(url),
            )
        finally:
            await asyncio.to_thread(server.stop)
    if given.contrast_turns:
        if importlib.util.find_spec("langgraph.checkpoint.sqlite") is None:
            console.print("LangGraph's own saver is left out: pip install langgraph-checkpoint-sqlite")
        else:
            for durability in ("async", "exit"):
                theirs = folder / f"langgraph-{durability}.sqlite3"
                await add(
                    f"LangGraph's saver, durability={durability}",
                    langgraph_turns(theirs, durability, given.contrast_turns),
                    given.contrast_turns,
                    lambda path=theirs: sqlite_sizes(path),  # type: ignore[misc]
                )
    return {
        "machine": machine(),
        "characters": CHARACTERS,
        "systems": {
            name: {"windows": [asdict(window) for window in windows], "growth": growth(windows)}
            for name, windows in systems.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=1000, help="of the conversation")
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument(
        "--contrast-turns", type=int, default=200, help="with LangGraph's saver; 0: leave it out"
    )
    parser.add_argument(
        "--data", type=Path, help="an empty folder for the databases, which stay; else none do"
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    given = parser.parse_args()
    if given.data is not None and given.data.exists() and any(given.data.iterdir()):
        parser.error(f"--data: {given.data} is not empty; name another folder")
    console = Console() if sys.stdout.isatty() else Console(width=130)
    with tempfile.TemporaryDirectory(prefix="admiralty-storage-") as scratch:
        folder = given.data or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        document = asyncio.run(run(given, folder, console))
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"written: {given.json}")


if __name__ == "__main__":
    main()
