"""DBOS in the durability benchmark: the same three steps as a workflow, in a process of its own.

    PYTHON_WITH_DBOS -m benchmarks.durability_dbos URL [--threads] [--wal]

Runs without Admiralty: DBOS is no dependency of the project. By default the workflow and its steps are
coroutines; with `--threads` they are plain functions, a thread for each caller. `--wal` opens SQLite as
Admiralty does (WAL, `synchronous=NORMAL`), where DBOS by itself keeps a rollback journal and `FULL`.
"""

import argparse
import asyncio
import importlib
import time
from typing import Any

from benchmarks.durability_orders import ANSWER, ARGUMENTS, MESSAGE, RESULT, obey, obey_with

booked = {"dollars": 0}


def _reply(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model says: first a call of the tool, then text."""
    usage = {"input_tokens": 100, "output_tokens": 20}
    if messages[-1]["role"] == "tool":
        return {"role": "assistant", "content": ANSWER, "usage": usage}
    call = {"name": "book", "args": ARGUMENTS, "id": f"of_{time.perf_counter_ns()}"}
    return {"role": "assistant", "content": "", "tool_calls": [call], "usage": usage}


def _book(order_id: str, amount: int) -> str:  # noqa: ARG001 - as the tool is called
    booked["dollars"] += amount
    return RESULT


def _check(answer: str, before: int) -> None:
    if answer != ANSWER or booked["dollars"] == before:
        raise RuntimeError(f"a wrong answer: {answer!r}")


class Coroutines:
    """A caller of the workflow whose steps are coroutines."""

    def __init__(self, workflow: Any) -> None:
        self._workflow = workflow

    async def prepare(self) -> None:
        pass

    async def turn(self) -> None:
        before = booked["dollars"]
        _check(await self._workflow(MESSAGE), before)


async def _ask_soon(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return _reply(messages)


async def _book_soon(order_id: str, amount: int) -> str:
    return _book(order_id, amount)


def _coroutines(dbos: Any) -> Any:
    ask, book = dbos.step()(_ask_soon), dbos.step()(_book_soon)

    async def turn(message: str) -> str:
        said = [{"role": "user", "content": message}]
        reply = await ask(said)
        [call] = reply["tool_calls"]
        result = await book(**call["args"])
        return str((await ask([*said, reply, {"role": "tool", "content": result}]))["content"])

    return dbos.workflow()(turn)


def _functions(dbos: Any) -> Any:
    ask, book = dbos.step()(_reply), dbos.step()(_book)

    def turn(message: str) -> str:
        said = [{"role": "user", "content": message}]
        reply = ask(said)
        [call] = reply["tool_calls"]
        result = book(**call["args"])
        return str(ask([*said, reply, {"role": "tool", "content": result}])["content"])

    return dbos.workflow()(turn)


async def _in_threads(turn: Any, callers: int, seconds: float) -> tuple[list[float], float]:
    begin = time.perf_counter()

    def work() -> list[float]:
        latencies = []
        while time.perf_counter() < begin + seconds:
            started, before = time.perf_counter(), booked["dollars"]
            _check(turn(MESSAGE), before)
            latencies.append(time.perf_counter() - started)
        return latencies

    found = await asyncio.gather(*(asyncio.to_thread(work) for _ in range(callers)))
    return [latency for mine in found for latency in mine], time.perf_counter() - begin


def _config(url: str, wal: bool) -> Any:
    config = {"name": "durability", "system_database_url": url, "log_level": "WARNING"}
    if not wal:
        return config
    import sqlalchemy as sa

    engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return {**config, "system_database_engine": engine}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--wal", action="store_true")
    options = parser.parse_args()
    dbos = importlib.import_module("dbos").DBOS
    dbos(config=_config(options.url, options.wal))
    turn = (_functions if options.threads else _coroutines)(dbos)
    dbos.launch()
    try:
        if options.threads:
            asyncio.run(obey_with(lambda callers, seconds: _in_threads(turn, callers, seconds)))
        else:
            asyncio.run(obey(lambda: Coroutines(turn)))
    finally:
        dbos.destroy()


if __name__ == "__main__":
    main()
