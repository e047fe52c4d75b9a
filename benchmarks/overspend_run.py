"""Runs one case: budgets, worker processes, whatever is killed, and then the comparison.

It knows Admiralty by its settings, its budgets and its tables; the calls are made by the workers.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from admiralty.core.money import Nanos, dollars_text
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.verify import Verifier
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import holds, ledger
from benchmarks.governed import MODEL, TENANT
from benchmarks.harness import MockProvider
from benchmarks.overspend_audit import INPUT_NANOS, OUTPUT_NANOS, Audit, Found, Row, audit
from benchmarks.overspend_cases import Case
from benchmarks.processes import ROOT
from benchmarks.services import Postgres, Redis

READY_SECONDS: Final = 90.0
DONE_SECONDS: Final = 150.0
"""What the calls may take together before a run counts as hung."""
DRAIN_SECONDS: Final = 60.0
"""What holds may take to end after the last client has gone."""
LEASE_SECONDS: Final = 6.0
"""Of holds, so that a run with a kill is short; 30 by default."""
DOWN_SECONDS: Final = 0.5
"""How long a killed server stays away."""

_SCOPES: Final = {
    "tenant": f"tenant:{TENANT}",
    "team": f"team:{TENANT}/*",
    "user": f"user:{TENANT}/*",
    "conversation": f"conversation:{TENANT}/*",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a case on a database."""

    case: Case
    database: str
    audit: Audit
    hung: int
    """Clients that had no answer when the time was up; those of a killed process do not count."""
    holds_left: int
    problems: list[str]
    """What re-adding the ledger finds, and what went wrong besides."""
    seconds: float
    """From the first call to the last answer."""
    drained_seconds: float
    """From then until no money was held."""

    @property
    def is_right(self) -> bool:
        """Whether no money was overspent, lost or held back."""
        found = self.audit
        lost = found.overspent or found.wrong_calls or found.short_calls
        return not (lost or found.false_refusals or self.hung or self.holds_left or self.problems)


class Workers:
    """The worker processes of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[asyncio.subprocess.Process] = []
        self._alive: list[asyncio.subprocess.Process] = []

    async def start(self, plans: list[dict[str, Any]]) -> None:
        """Start a worker for each plan; return when all are ready. Raises RuntimeError."""
        with (self._folder / "workers.log").open("ab") as log:
            for plan in plans:
                self._processes.append(
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "benchmarks.overspend_worker", json.dumps(plan)),
                        cwd=ROOT,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        stderr=log,
                    )
                )
        self._alive = list(self._processes)
        async with asyncio.timeout(READY_SECONDS):
            for process in self._processes:
                if await _line(process) != "ready":
                    raise RuntimeError(f"a worker did not start:\n{self.log()}")

    def go(self) -> None:
        """Let all of them call."""
        for process in self._alive:
            assert process.stdin is not None
            process.stdin.write(b"go\n")

    def kill_one(self, draw: random.Random) -> int:
        """Kill -9 one of them; return which."""
        victim = draw.choice(self._alive)
        victim.kill()
        self._alive.remove(victim)
        return self._processes.index(victim)

    async def done(self) -> bool:
        """Wait until all clients of all living workers have gone; return whether they did in time."""
        try:
            async with asyncio.timeout(DONE_SECONDS):
                answers = await asyncio.gather(*(_line(process) for process in self._alive))
        except TimeoutError:
            return False
        return all(answer == "done" for answer in answers)

    async def stop(self) -> None:
        """Close their inputs, wait for them to end, kill those that do not."""
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

    def log(self) -> str:
        """The end of what they wrote to stderr."""
        return (self._folder / "workers.log").read_text(errors="replace")[-3000:]


async def run_case(
    case: Case, provider: MockProvider, server: Postgres | None, *, keep: Path | None = None
) -> Result:
    """Run a case on SQLite, or on ``server``. ``keep`` is a folder for the workers' logs."""
    with tempfile.TemporaryDirectory(prefix="admiralty-overspend-") as name:
        folder = Path(name)
        async with _database_url(folder, server) as url:
            redis = Redis() if case.redis else None
            try:
                return await _run(case, provider, server, redis, url, folder)
            finally:
                if redis is not None:
                    redis.stop()
                log = folder / "workers.log"
                if keep is not None and log.exists():
                    kind = "sqlite" if server is None else "postgres"
                    slug = case.name.replace(" ", "-").replace("%", "")
                    (keep / f"{slug}-{kind}.log").write_bytes(log.read_bytes())


async def _run(
    case: Case, provider: MockProvider, server: Postgres | None, redis: Redis | None, url: str, folder: Path
) -> Result:
    provider.reset()
    provider.control(**case.provider_settings)
    database = Database(url)
    workers = Workers(folder)
    victim: int | None = None
    problems: list[str] = []
    try:
        await _make_budgets(database, case)
        settings = _settings(case, provider, url, folder, redis)
        await workers.start([_plan(case, settings, folder, number) for number in range(case.processes)])
        begin = time.perf_counter()
        workers.go()
        if case.kill is not None:
            if await _asked(provider, case.worth // 2):
                victim = await _kill(case, workers, server, redis)
            else:
                problems.append("the provider was asked too little for anything to be killed")
        in_time = await workers.done()
        seconds = time.perf_counter() - begin
        held = await _drained(database, provider)
        drained = time.perf_counter() - begin - seconds
        verified = await Verifier(database).verify()
        problems += [f"{problem.check} {problem.where}: {problem.text}" for problem in verified.problems]
        outcomes = _outcomes(folder)
        rows = await _rows(database)
    finally:
        await workers.stop()
        await database.close()
    missing = case.calls - len(outcomes)
    if victim is not None:
        missing -= _share(case, victim) - sum(o["client"].startswith(f"{victim}/") for o in outcomes)
    if not in_time:
        problems.append(f"not done after {DONE_SECONDS:.0f} s:\n{workers.log()[-600:]}")
    bills = provider.bills()
    found = Found(limits=case.limits, price=case.price, bills=bills, rows=rows, outcomes=outcomes)
    return Result(
        case=case,
        database="sqlite" if server is None else "postgresql",
        audit=audit(found),
        hung=missing,
        holds_left=held,
        problems=problems,
        seconds=seconds,
        drained_seconds=drained,
    )


@asynccontextmanager
async def _database_url(folder: Path, server: Postgres | None) -> AsyncIterator[str]:
    if server is None:
        yield f"sqlite:///{folder / 'overspend.sqlite3'}"
        return
    name = f"overspend_{random.getrandbits(40):x}"
    yield server.create(name)
    server.drop(name)


def _settings(
    case: Case, provider: MockProvider, url: str, folder: Path, redis: Redis | None
) -> dict[str, Any]:
    price = {"input": str(INPUT_NANOS / 1000), "output": str(OUTPUT_NANOS / 1000)}
    settings: dict[str, Any] = {
        "home": str(folder / "home"),
        "database_url": url,
        "models": {"small": MODEL},
        "openai_base_url": provider.url,
        "openai_api_key": "unused",
        "prices": {MODEL: price},
        "hold_lease_seconds": LEASE_SECONDS,
        "embedder": "hashing",
    }
    if redis is not None:
        account = {"requests_per_minute": 60_000, "tokens_per_minute": 60_000_000}
        settings["provider_keys"] = {"openai": [{"name": "main", "api_key": "unused", **account}]}
        settings |= {"redis_url": redis.url, "scheduler_replicas": case.processes}
    return {**settings, **dict(case.settings)}


def _plan(case: Case, settings: Mapping[str, Any], folder: Path, number: int) -> dict[str, Any]:
    return {
        "settings": settings,
        "results": str(folder / f"outcomes-{number}.jsonl"),
        "worker": number,
        "calls": _share(case, number),
        "output_tokens": case.output_tokens,
        "streaming": case.streaming,
        "leave_early": _part(case.leave_early, case.processes, number),
        "leave_streams": _part(case.leave_streams, case.processes, number),
    }


def _share(case: Case, number: int) -> int:
    return _part(case.calls, case.processes, number)


def _part(whole: int, parts: int, number: int) -> int:
    """Return one of ``parts`` nearly equal parts."""
    return whole // parts + (number < whole % parts)


async def _make_budgets(database: Database, case: Case) -> None:
    budgets = Budgets(database)
    for level, limit in case.limits.items():
        await budgets.create(scope=_SCOPES[level], limit_usd=dollars_text(Nanos(limit)), window="total")


async def _asked(provider: MockProvider, requests: int) -> bool:
    """Wait until the provider has been asked so often; return whether it ever was."""
    deadline = time.monotonic() + DONE_SECONDS
    while time.monotonic() < deadline:
        if (await asyncio.to_thread(provider.stats))["requests"] >= requests:
            return True
        await asyncio.sleep(0.005)
    return False


async def _kill(case: Case, workers: Workers, server: Postgres | None, redis: Redis | None) -> int | None:
    """Kill what the case says; servers come back. Return the number of a killed worker."""
    if case.kill == "worker":
        return workers.kill_one(random.Random())
    service = redis if case.kill == "redis" else server
    if service is None:
        raise ValueError(f"case {case.name!r}: there is no {case.kill} to kill here")
    service.kill()
    await asyncio.sleep(DOWN_SECONDS)
    await asyncio.to_thread(service.start)
    return None


async def _drained(database: Database, provider: MockProvider) -> int:
    """Wait until nothing is held and the provider answers nobody; return the holds that are left."""
    deadline = time.monotonic() + DRAIN_SECONDS
    count = sa.select(sa.func.count()).select_from(holds)
    left = -1
    while time.monotonic() < deadline:
        with suppress(Exception):  # a database that has just come back
            left = int(await database.read(lambda connection: connection.execute(count).scalar_one()))
        if left == 0 and provider.stats()["in_flight"] == 0:
            return 0
        await asyncio.sleep(0.1)
    return left


async def _rows(database: Database) -> list[Row]:
    table = ledger.c
    query = sa.select(table.call_id, table.cost_nanos, table.estimated, table.status)
    found = await database.read(lambda connection: connection.execute(query).all())
    return [
        Row(call_id=row.call_id, cost=row.cost_nanos or 0, estimated=row.estimated, status=row.status)
        for row in found
    ]


def _outcomes(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("outcomes-*.jsonl"))
        for line in path.read_text().splitlines()
    ]


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def machine_is_busy() -> float:
    """Return the load of the last minute for each core: above 1, others were working too."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)
