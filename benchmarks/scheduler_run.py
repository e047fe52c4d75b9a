"""Starts the setups of the scheduler benchmark and measures them in turn, round by round.

All setups of a group are up together and idle but for the one that is measured, so that what else happens
on the machine hits all alike.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.storage import Database
from benchmarks.governed import MODEL, TENANT
from benchmarks.harness import MockProvider
from benchmarks.processes import ROOT
from benchmarks.scheduler_preload import preload
from benchmarks.scheduler_worker import Measured, Order, Way
from benchmarks.services import Postgres

READY_SECONDS: Final = 90.0
SCOPES: Final = (f"tenant:{TENANT}", f"team:{TENANT}/*", f"user:{TENANT}/*", f"conversation:{TENANT}/*")
WAYS: Final[tuple[Way, ...]] = ("bare", "governed")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A scheduler, or several on one database."""

    database: Literal["sqlite", "postgres"]
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    """Of SQLite; PostgreSQL has its own defaults, which are durable."""
    provider: Literal["instant", "http"] = "instant"
    processes: int = 1
    past: bool = False
    """Whether the ledger has a million rows before, or what the options say."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        kind = f"sqlite {self.synchronous}" if self.database == "sqlite" else "postgresql"
        several = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{kind}, {self.provider}{several}{', with a past' if self.past else ''}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is measured."""

    databases: Sequence[str] = ("sqlite", "postgres")
    concurrencies: Sequence[int] = (1, 32, 256)
    """Of all processes together; those with fewer clients than processes are left out."""
    rounds: int = 3
    seconds: float = 3.0
    rows: int = 1_000_000
    budgets: int = 10_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement of one setup, its processes together. Times in milliseconds."""

    setup: str
    way: Way
    concurrency: int
    round: int
    calls: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    server_cpu_ms: float
    """Of PostgreSQL, a call."""
    errors: int
    first_error: str | None
    stages: dict[str, float] = field(default_factory=dict)


class System:
    """A setup that is up: its database and its worker processes."""

    def __init__(self, setup: Setup, server: Postgres | None) -> None:
        self.setup = setup
        self._server = server
        self._processes: list[asyncio.subprocess.Process] = []
        self._database_name: str | None = None

    async def start(self, folder: Path, options: Options, provider: MockProvider) -> None:
        """Make the database and start the workers. Raises RuntimeError."""
        url = f"sqlite:///{folder / 'scheduler.sqlite3'}"
        if self._server is not None:
            self._database_name = f"scheduler_{random.getrandbits(40):x}"
            url = self._server.create(self._database_name)
        database = Database(url)
        budgets = Budgets(database)
        for scope in SCOPES:
            await budgets.create(scope=scope, limit_usd="1000000", window="month")
        if self.setup.past:
            await preload(database, rows=options.rows, budgets=options.budgets)
        await database.close()
        settings = {
            "home": str(folder / "home"),
            "database_url": url,
            "sqlite_synchronous": self.setup.synchronous,
            "models": {"small": MODEL},
            "openai_base_url": provider.url,
            "openai_api_key": "unused",
            "prices": {MODEL: {"input": "1", "output": "10"}},
            "embedder": "hashing",
        }
        for number in range(self.setup.processes):
            plan = {"settings": settings, "provider": self.setup.provider, "worker": number}
            command = [sys.executable, "-m", "benchmarks.scheduler_worker", json.dumps(plan)]
            with (folder / "workers.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    cwd=ROOT,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                )
            self._processes.append(process)
        for process in self._processes:
            line = await asyncio.wait_for(_line(process), READY_SECONDS)
            if line != "ready":
                raise RuntimeError(f"{self.setup.name}: {(folder / 'workers.log').read_text()[-2000:]}")

    async def measure(self, way: Way, concurrency: int, number: int, options: Options) -> Cell:
        """Let all workers measure at the same time. Raises RuntimeError if one has ended."""
        order = Order(way=way, concurrency=concurrency // len(self._processes), seconds=options.seconds)
        before = self._server.cpu_seconds() if self._server else 0.0
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        lines = await asyncio.gather(
            *(asyncio.wait_for(_line(process), options.seconds + 60) for process in self._processes)
        )
        used = self._server.cpu_seconds() - before if self._server else 0.0
        if not all(lines):
            raise RuntimeError(f"{self.setup.name}: a worker has ended")
        told = [Measured(**json.loads(line)) for line in lines]
        calls = sum(each.calls for each in told)
        stages = {stage for each in told for stage in each.stages}
        return Cell(
            setup=self.setup.name,
            way=way,
            concurrency=concurrency,
            round=number,
            calls=calls,
            calls_per_second=sum(each.calls_per_second for each in told),
            p50_ms=statistics.median(each.p50_ms for each in told),
            p99_ms=max(each.p99_ms for each in told),
            cpu_ms=sum(each.cpu_ms * each.calls for each in told) / max(1, calls),
            server_cpu_ms=used / max(1, calls) * 1000,
            errors=sum(each.errors for each in told),
            first_error=next((each.first_error for each in told if each.first_error), None),
            stages={
                stage: statistics.median(each.stages.get(stage, 0.0) for each in told) for stage in stages
            },
        )

    async def stop(self) -> None:
        """End the workers, and drop the database of a server."""
        for process in self._processes:
            if process.returncode is None:
                assert process.stdin is not None
                process.stdin.close()
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._server is not None and self._database_name is not None:
            self._server.drop(self._database_name)


async def run_group(setups: Sequence[Setup], options: Options, say: Callable[[str], Any]) -> list[Cell]:
    """Measure setups in turn, both ways, round by round. `say` is given a line before each step."""
    setups = [setup for setup in setups if setup.database in options.databases]
    cells = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="admiralty-scheduler-")))
        provider = MockProvider()
        stack.callback(provider.group.stop)
        provider.control(prompt_tokens=110)
        server = Postgres() if any(setup.database == "postgres" for setup in setups) else None
        if server is not None:
            stack.callback(server.stop)
        systems = []
        for number, setup in enumerate(setups):
            say(f"{setup.name}: start")
            own = folder / str(number)
            own.mkdir()
            system = System(setup, server if setup.database == "postgres" else None)
            stack.push_async_callback(system.stop)
            await system.start(own, options, provider)
            systems.append(system)
        for number in range(options.rounds):
            for concurrency in options.concurrencies:
                for system in systems:
                    if concurrency < system.setup.processes:
                        continue
                    for way in WAYS:
                        say(f"round {number + 1}: {system.setup.name} at {concurrency}, {way}")
                        cells.append(await system.measure(way, concurrency, number, options))
    return cells


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()
