"""The scheduler benchmark itself: a short run that must measure what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from admiralty.runtime.ledger.verify import Verifier
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import budgets, counters, ledger
from benchmarks.processes import ROOT
from benchmarks.scheduler_preload import preload

TABLES = (ledger, budgets, counters)

pytestmark = pytest.mark.requirement("benchmarks.scheduler")


def test_a_short_run_measures_governed_calls_beside_bare_ones(tmp_path: Path) -> None:
    out = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "benchmarks.scheduler", "--groups", "overhead"]
    command += ["--databases", "sqlite", "--rounds", "1", "--seconds", "0.3", "--concurrency", "1,8"]
    done = subprocess.run(
        [*command, "--json", str(out)], cwd=ROOT, timeout=180, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    groups = json.loads(out.read_text())["groups"]
    rows = [row for group in groups.values() for row in group["medians"]]
    assert [(row["setup"], row["concurrency"]) for row in rows] == [
        ("sqlite NORMAL, instant", 1),
        ("sqlite FULL, instant", 1),
        ("sqlite NORMAL, instant", 8),
        ("sqlite FULL, instant", 8),
    ]
    for row in rows:
        assert (row["errors"], row["first_error"]) == (0, None)
        assert 0 < row["governed_per_second"] < row["bare_per_second"]
        assert 0 < row["bare_p50_ms"] < row["governed_p50_ms"] <= row["governed_p99_ms"]
        stages = row["stages_ms"]
        assert {"hold", "rate", "dispatch", "settle"} <= stages.keys()
        assert 0 < stages["dispatch"] < stages["hold"] + stages["settle"]
        assert row["cpu_ms"] > row["bare_cpu_ms"] > 0


async def test_a_past_has_as_many_rows_as_asked_for_and_nothing_wrong_in_it(database_url: str) -> None:
    database = Database(database_url)
    await preload(database, rows=2000, budgets=50)
    counted = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in TABLES]
    counts = await database.read(lambda connection: tuple(connection.execute(sa.select(*counted)).one()))
    verified = await Verifier(database).verify()
    await database.close()
    assert counts == (2000, 50, 50)
    assert verified.entries == 2000
    assert {problem.check for problem in verified.problems} <= {"spent"}  # of the budgets' made-up counters
