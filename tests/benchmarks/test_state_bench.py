"""The benchmark of shared state itself: a short run that must measure what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import ROOT


@pytest.mark.requirement("benchmarks.state")
def test_a_short_run_measures_the_store_beside_a_plain_loop_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "state.json"
    command = [sys.executable, "-m", "benchmarks.state", "--databases", "sqlite", "--writers", "1,4"]
    command += ["--rounds", "2", "--seconds", "0.2", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost updates: 0" in done.stdout
    document = json.loads(out.read_text())
    assert [(row["keys"], row["writers"]) for row in document["medians"]] == [
        ("distinct", 1), ("distinct", 4), ("one hot", 1), ("one hot", 4),
    ]  # fmt: skip
    for cell in document["cells"]:
        assert (cell["lost"], cell["updates"] > 0, cell["p50_ms"] > 0) == (0, True, True)
