"""`admiralty demo`, as `make demo` runs it."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run


@pytest.mark.ray
@pytest.mark.requirement("cli.demo")
def test_the_demo_starts_talks_shows_trace_and_cost_and_ends(
    admiralty: Run, free_port: Callable[[], int]
) -> None:
    ports = ("--port", str(free_port()), "--dashboard-port", str(free_port()))
    done = admiralty("demo", "--home", "home", *ports, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"first answer \d+\.\d s after the start", done.stdout)
    for text in ("#W1001001", "hands off to", "turn 4 done", "total", "admiralty chat", "Stopped."):
        assert text in done.stdout


@pytest.mark.requirement("cli.demo")
def test_a_second_demo_leaves_the_first_ones_shop_alone(
    admiralty: Run, free_port: Callable[[], int], tmp_path: Path
) -> None:
    kept = tmp_path / "home" / "demo" / "fleets" / "support" / "shop.sqlite3"
    kept.parent.mkdir(parents=True)
    kept.write_text("in use")
    with (tmp_path / "home" / "demo" / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ports = ("--port", str(free_port()), "--dashboard-port", str(free_port()))
        done = admiralty("demo", "--home", str(tmp_path / "home"), *ports)
    assert done.returncode == 2
    assert "Another `admiralty up`" in done.stderr
    assert kept.read_text() == "in use"
