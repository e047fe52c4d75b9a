"""`admiralty demo`, as `make demo` runs it."""

from __future__ import annotations

import re
from collections.abc import Callable

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
