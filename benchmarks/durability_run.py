"""Runs the systems of the durability benchmark side by side: all stay up, and are asked in turn.

It knows a system by its command only; what it prints is described in `benchmarks.durability_orders`.
"""

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.client import percentile
from benchmarks.processes import ROOT
from benchmarks.services import Postgres

READY_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 30.0
"""What an order may take above the seconds that it names."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to make the turn."""

    name: str
    database: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement. Times in milliseconds."""

    system: str
    database: str
    callers: int
    round: int
    turns: int
    turns_per_second: float
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    """CPU of the system's process, a turn; without the database server's."""


class Worker:
    """A system's process."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self._log = (folder / f"{system.name}-{system.database}.log").open("w+b")
        self._process = subprocess.Popen(
            list(system.command),
            cwd=ROOT,
            env=os.environ | dict(system.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def ready(self) -> None:
        """Wait until it takes orders. Raises RuntimeError."""
        self._answer(READY_SECONDS)

    def measure(self, callers: int, seconds: float, number: int) -> Cell:
        """Have it make turns. Raises RuntimeError if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"callers": callers, "seconds": seconds}).encode() + b"\n")
        self._process.stdin.flush()
        found = self._answer(seconds + GRACE_SECONDS)
        turns = len(found["latencies"])
        return Cell(
            system=self.system.name,
            database=self.system.database,
            callers=callers,
            round=number,
            turns=turns,
            turns_per_second=turns / found["seconds"],
            p50_ms=percentile(found["latencies"], 0.5) * 1000,
            p95_ms=percentile(found["latencies"], 0.95) * 1000,
            cpu_ms=found["cpu_seconds"] / max(1, turns) * 1000,
        )

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._log.flush()
            said = os.pread(self._log.fileno(), 1_000_000, 0).decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self.system.name} on {self.system.database} does not answer:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def admiralty(mode: str, database: str, url: str, folder: Path, checkout: Path | None = None) -> System:
    """Admiralty with a database and a way to keep turns; by another checkout's code if one is named."""
    home = folder / f"home-{mode}-{database}"
    settings = {"home": str(home), "database_url": url, "durability": "sync" if mode == "sync" else "exit"}
    environment = {}
    if checkout is not None:
        source = folder / f"src-{mode}-{database}"
        source.mkdir()
        (source / "admiralty").symlink_to(checkout.resolve())
        environment["PYTHONPATH"] = str(source)
    command = [sys.executable, "-m", "benchmarks.durability_worker", json.dumps(settings)]
    return System(name=mode, database=database, command=command, environment=environment)


def dbos(python: Path, database: str, url: str, *options: str) -> System:
    """DBOS, by a Python that has it."""
    name = " ".join(["dbos", *(option.removeprefix("--") for option in options)])
    command = [str(python), "-m", "benchmarks.durability_dbos", url, *options]
    return System(name=name, database=database, command=command)


def systems(
    databases: Sequence[str],
    folder: Path,
    server: Postgres | None,
    *,
    python: Path | None = None,
    before: Path | None = None,
) -> list[System]:
    """The systems to be compared; DBOS if ``python`` has it, ``before`` is an older checkout of ours."""
    found = [admiralty("off", "memory", "sqlite://", folder)]
    for database in databases:

        def url(name: str, database: str = database) -> str:
            if database == "postgresql":
                assert server is not None
                return server.create(name)
            return f"sqlite:///{folder / name}.sqlite3"

        if before is not None:
            found.append(admiralty("before", database, url("before"), folder, before))
        found += [admiralty(mode, database, url(f"is_{mode}"), folder) for mode in ("exit", "sync")]
        if python is not None:
            found += [
                dbos(python, database, url("dbos_coroutines")),
                dbos(python, database, url("dbos_threads"), "--threads"),
            ]
            if database == "sqlite":
                found.append(dbos(python, database, url("dbos_wal"), "--threads", "--wal"))
    return found


def run(
    databases: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    callers: Sequence[int],
    say: Callable[[str], None],
    python: Path | None = None,
    before: Path | None = None,
) -> list[Cell]:
    """Measure everything; return every measurement. Raises RuntimeError."""
    cells: list[Cell] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="admiralty-durability-")))
        server = Postgres() if "postgresql" in databases else None
        if server is not None:
            stack.callback(server.stop)
        workers = []
        for system in systems(databases, folder, server, python=python, before=before):
            say(f"{system.name} on {system.database}: start")
            worker = Worker(system, folder)
            stack.callback(worker.stop)
            worker.ready()
            worker.measure(4, min(1.0, seconds), 0)
            workers.append(worker)
        for number in range(rounds):
            for count in callers:
                for worker in workers:
                    say(f"round {number + 1}/{rounds}: {worker.system.name} on {worker.system.database}")
                    cells.append(worker.measure(count, seconds, number))
    return cells


def medians(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Medians over the rounds of each system, database and number of callers."""
    found = []
    for key in dict.fromkeys((cell.system, cell.database, cell.callers) for cell in cells):
        mine = [cell for cell in cells if (cell.system, cell.database, cell.callers) == key]
        numbers = ("turns_per_second", "p50_ms", "p95_ms", "cpu_ms")
        found.append(
            dict(zip(("system", "database", "callers"), key, strict=True))
            | {"turns": sum(cell.turns for cell in mine)}
            | {name: statistics.median(getattr(cell, name) for cell in mine) for name in numbers}
            | {"lowest_p50_ms": min(c.p50_ms for c in mine), "highest_p50_ms": max(c.p50_ms for c in mine)}
        )
    return found
