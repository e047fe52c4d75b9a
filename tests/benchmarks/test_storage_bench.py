"""The storage benchmark itself: a short run that must measure what it says."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.processes import ROOT
from benchmarks.storage import Window, growth

pytestmark = pytest.mark.requirement("benchmarks.storage")


def test_a_short_run_measures_every_table_of_both_databases(tmp_path: Path) -> None:
    out, data = tmp_path / "storage.json", tmp_path / "data"
    command = [sys.executable, "-m", "benchmarks.storage", "--turns", "20", "--contrast-turns", "20"]
    done = subprocess.run(
        [*command, "--json", str(out), "--data", str(data)],
        cwd=ROOT,
        timeout=180,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    systems = json.loads(out.read_text())["systems"]
    for name in ("admiralty, SQLite", "admiralty, PostgreSQL"):
        windows = systems[name]["windows"]
        assert [window["turns"] for window in windows] == [1, *range(2, 21, 2)]
        assert {"events", "runs", "thread_checkpoints", "conversations"} <= windows[-1]["sizes"].keys()
        added = windows[-1]["sizes"]["events"] - windows[0]["sizes"]["events"]
        assert added > 19 * 2 * 2000  # the question and the answer are in there
    size = (data / "sqlite" / "admiralty.sqlite3").stat().st_size
    assert size == sum(systems["admiralty, SQLite"]["windows"][-1]["sizes"].values())
    if find_spec("langgraph.checkpoint.sqlite") is None:
        assert "pip install langgraph-checkpoint-sqlite" in done.stdout
        return
    for durability in ("async", "exit"):
        rows = systems[f"LangGraph's saver, durability={durability}"]["growth"]
        assert rows[-1]["bytes_per_turn"] > 3 * rows[1]["bytes_per_turn"]  # there it grows with the past


def test_growth_is_what_each_turn_added() -> None:
    windows = [
        Window(turns=1, sizes={"a": 100}, seconds=1),
        Window(turns=11, sizes={"a": 200, "b": 50}, seconds=2),
    ]
    (row,) = growth(windows)
    assert (row["from"], row["to"], row["bytes_per_turn"], row["ms_per_turn"]) == (1, 11, 15.0, 200.0)
    assert row["tables"] == {"a": 10.0, "b": 5.0}
