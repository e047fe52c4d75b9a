"""One real Ray cluster for these tests: `admiralty up` as a process of its own, ended as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

UP_SECONDS = 240.0
"""Far more than a start takes: other tests may have the processors."""

KEY = "sk-pilots-key"
"""Of the model server, which takes any."""

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-c", "from admiralty.runtime.cli import main; main()"]
Run = Callable[..., subprocess.CompletedProcess[str]]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Return what ``condition`` gives once that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def descendants(pid: int) -> set[int]:
    """Return the processes below ``pid``, and itself."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass
class Up:
    """A fleet that is brought up in one home, as often as a test ends it."""

    folder: Path
    fleet: str
    port: int
    dashboard_port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    key: str = ""
    outputs: list[str] = field(default_factory=list)
    """What each start has printed so far."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def gates(self) -> Path:
        """Where the fleet's tools look whether they are held up."""
        return self.home / "fleets" / self.fleet

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home / "ray-token").read_text().strip()

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.home / "up.json").read_text())
        return record

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it if it is not up; return when it is."""
        if self.process is not None and self.process.poll() is None:
            return
        output = self.folder / f"up-{len(self.outputs)}.log"
        options = ["--home", "home", "--port", str(self.port), "--dashboard-port", str(self.dashboard_port)]
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [*COMMAND, "up", self.fleet, *options, "--beside-other-ray"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def is_up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, output.read_text()
            return "Ctrl-C drains" in output.read_text()

        wait_for(is_up, f"up: {output.read_text()}", UP_SECONDS)
        self.outputs.append(output.read_text())
        if found := re.search(r"Key\s+(adm_\S+)", self.outputs[-1]):
            self.key = found[1]

    def end(self) -> int:
        """Interrupt it as Ctrl-C does; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def client(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=90, **options)

    def processes(self) -> set[int]:
        """Return the processes of the cluster that runs now."""
        return {pid for pid in descendants(self.pid) if is_alive(pid)}

    def owner(self, conversation_id: str) -> int:
        """Return the process that executes the conversation's turn."""
        query = "SELECT owner FROM runs WHERE conversation_id = ? AND status = 'running'"
        with contextlib.closing(sqlite3.connect(self.home / "admiralty.sqlite3")) as database:
            [(name,)] = database.execute(query, (conversation_id,)).fetchall()
        return int(name.rsplit("-", 2)[1])

    def replicas(self, deployment: str) -> list[int]:
        return [pid for pid in self.processes() if f"admiralty:{deployment}" in command_line(pid)]

    def left(self) -> list[str]:
        """Return what still runs of any start: processes that name this home's folders."""
        run_folder = next((text for text in self._run_folders() if text), "nothing")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            line = command_line(int(entry.name))
            if (f"{run_folder}/" in line or f"{self.folder}/" in line) and is_alive(int(entry.name)):
                found.append(line[:200])
        return found

    def _run_folders(self) -> Iterator[str]:
        from admiralty.runtime.serve.environment import folders

        yield str(folders(self.home).run)


@pytest.fixture(scope="session")
def model_server(root: Path) -> Iterator[str]:
    """The URL of the benchmarks' OpenAI-compatible server: `ROUTE:agent` in a message decides who answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.mock_provider"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 60)
        assert ready, "the model server does not start"
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="session")
def pilots(
    tmp_path_factory: pytest.TempPathFactory, model_server: str, free_port: Callable[[], int]
) -> Iterator[Up]:
    """The fleet `pilots` on a cluster of its own."""
    folder = tmp_path_factory.mktemp("pilots")
    shutil.copy(Path(__file__).with_name("pilots.py"), folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ADM"))}
    environment |= {
        "ADMIRALTY_EMBEDDER": "hashing",
        "ADMIRALTY_OPENAI_BASE_URL": model_server,
        "ADMIRALTY_MODELS__SMALL": "openai:mock",
        "OPENAI_API_KEY": KEY,
        "ADMIRALTY_PRICES": '{"openai:mock": {"input": "1", "output": "2"}}',
        "ADMIRALTY_RUN_LEASE_SECONDS": "5",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    up = Up(folder, "pilots", free_port(), free_port(), environment)
    try:
        yield up
        if up.process is not None and up.process.poll() is None:
            assert up.end() == 0, (folder / f"up-{len(up.outputs) - 1}.log").read_text()
        wait_for(lambda: not up.left(), f"nothing left of the fleet: {up.left()}", 30)
        assert is_free(up.port)
        assert is_free(up.dashboard_port)
    finally:
        if up.process is not None and up.process.poll() is None:
            up.process.kill()
        shutil.rmtree(next(up._run_folders()), ignore_errors=True)


@pytest.fixture
def running(pilots: Up) -> Up:
    """The fleet, up, and nothing held up."""
    pilots.start()
    for name in ("closed", "asked"):
        (pilots.gates / name).unlink(missing_ok=True)
    return pilots


@pytest.fixture
def client(running: Up) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


@pytest.fixture(scope="session")
def admiralty(pilots: Up) -> Run:
    """Runs the command in the fleet's folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=pilots.folder,
            env=pilots.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that end the fleet last: each start takes half a minute."""
    items.sort(key=lambda item: item.path.name == "test_lifecycle.py" and item.path.parent == HERE)
