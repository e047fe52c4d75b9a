"""The command line without a cluster: what is said, and what is refused before anything starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from admiralty.runtime.serve.environment import folders

COMMAND = [sys.executable, "-c", "from admiralty.runtime.cli import main; main()"]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def admiralty(tmp_path: Path) -> Iterator[Run]:
    """Runs the command in a folder of the test's own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ADMIRALTY_"))}

    def run(*arguments: str, seconds: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=clean | {"COLUMNS": "200"} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    yield run
    for home in tmp_path.iterdir():
        if (home / "ray-token").exists():
            shutil.rmtree(folders(home).run, ignore_errors=True)
