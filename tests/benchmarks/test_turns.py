"""The benchmark itself: short runs that must measure what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fleet import fleet
from benchmarks.processes import ROOT, ProcessGroup, free_port, wait_for_port

pytestmark = pytest.mark.requirement("benchmarks.turns")


def test_a_short_run_measures_three_model_calls_a_turn_on_each_system(tmp_path: Path) -> None:
    out = tmp_path / "turns.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.turns",
        "--systems",
        "bare,plain,plain-stream,admiralty-local",
        "--json",
        str(out),
    ]
    command += ["--rounds", "1", "--seconds", "0.5", "--concurrency", "2"]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    assert [row["system"] for row in document["medians"]] == [
        "bare",
        "plain",
        "plain-stream",
        "admiralty-local",
    ]
    for row in document["medians"]:
        assert (row["errors"], row["provider_calls"]) == (0, 3)
        assert 0 < row["first_byte_p50_ms"] <= row["p50_ms"] <= row["p99_ms"]
        assert row["turns_per_second"] > 0
    assert document["ratios"][0]["turns_per_second"] == 1
    assert all(processes and processes[0]["uss_mb"] > 1 for processes in document["processes"].values())


def test_an_unknown_system_is_refused_with_those_that_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.turns", "--systems", "bare,crew"]
    done = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'crew' is unknown; there are bare, plain" in done.stderr


def test_stopping_a_group_ends_what_detached_itself_from_it() -> None:
    port = free_port()
    script = (
        "import socket, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"listening = socket.create_server(('127.0.0.1', {port}))\n"
        "time.sleep(60)\n"
    )
    group = ProcessGroup([sys.executable, "-c", script])
    wait_for_port(port, group, 10)
    assert len(group.pids()) == 2
    group.stop()
    assert group.pids() == []


def test_the_fleet_is_the_same_desk() -> None:
    assert (fleet.entry, [agent.name for agent in fleet.agents]) == (
        "triage",
        ["triage", "lookup", "reasoning"],
    )
    assert [getattr(tool, "name", tool) for tool in fleet.agent("lookup").tools] == ["get_order"]
