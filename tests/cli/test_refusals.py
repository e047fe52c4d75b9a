"""What `up` refuses, before Ray has started: quickly, with the remedy, and leaving nothing."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = pytest.mark.requirement("cli.refusals")

CPU_SECONDS = 5.0
"""Most processor time that a refusal may take; wall time depends on who else is on the machine."""


@pytest.fixture
def refused(admiralty: Run, free_port: Callable[[], int], tmp_path: Path) -> Callable[..., str]:
    """Runs `up`, which must refuse; returns what it says."""

    def up(*arguments: str, fleet: str = "fleets.support", **environment: str) -> str:
        options = ["--port", str(free_port()), "--dashboard-port", str(free_port()), "--home", "home"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = admiralty("up", fleet, *options, *arguments, **environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert done.returncode not in (0, None), done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        assert "error:" in done.stderr
        assert used < CPU_SECONDS
        assert not (tmp_path / "home" / "up.json").exists()
        return done.stderr

    return up


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_busy_port_of_the_api(refused: Callable[..., str], busy_port: int) -> None:
    told = refused("--beside-other-ray", "--port", str(busy_port))
    assert f"127.0.0.1:{busy_port}" in told
    assert "choose another port with --port" in told


def test_a_busy_port_of_the_dashboard(refused: Callable[..., str], busy_port: int) -> None:
    told = refused("--beside-other-ray", "--dashboard-port", str(busy_port))
    assert f"127.0.0.1:{busy_port}" in told
    assert "--dashboard-port" in told


def test_another_ray_on_the_machine(refused: Callable[..., str], tmp_path: Path) -> None:
    program = tmp_path / "gcs_server"
    program.symlink_to(sys.executable)
    other = subprocess.Popen([str(program), "-c", "input()"], stdin=subprocess.PIPE)
    try:
        told = refused()
    finally:
        other.kill()
        other.communicate()
    assert f"pid {other.pid}" in told
    assert "--beside-other-ray" in told
    assert "--address" in told


def test_a_missing_ingress_binary(refused: Callable[..., str]) -> None:
    told = refused("--beside-other-ray", ADMIRALTY_HAPROXY_BINARY="/nowhere/haproxy")
    assert "/nowhere/haproxy" in told
    assert "ADMIRALTY_HAPROXY=false" in told


def test_an_unknown_fleet(refused: Callable[..., str]) -> None:
    assert "no module 'nosuchfleet'" in refused(fleet="nosuchfleet")
    told = refused(fleet="fleets.support:nobody")
    assert "no Fleet named 'nobody'" in told


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "broken"])
def test_data_that_is_none(refused: Callable[..., str], tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "file":
        data.write_text("not a folder")
    elif kind in ("empty", "broken"):
        data.mkdir()
    if kind == "broken":
        for name in ("users", "orders", "products"):
            (data / f"{name}.json").write_text("{")
        (data / "policy.md").write_text("# Policy")
    told = refused("--beside-other-ray", "--data", str(data))
    assert str(data) in told


def test_a_database_that_does_not_answer(refused: Callable[..., str], free_port: Callable[[], int]) -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://someone:secret@127.0.0.1:{free_port()}/nothing"
    told = refused("--beside-other-ray", ADMIRALTY_DATABASE_URL=url)
    assert "database" in told.lower()
    assert "secret" not in told


def test_a_setting_that_is_wrong(refused: Callable[..., str]) -> None:
    assert "embedder" in refused("--beside-other-ray", ADMIRALTY_EMBEDDER="nosuch")


def test_an_address_of_nobody(refused: Callable[..., str], free_port: Callable[[], int]) -> None:
    port = free_port()
    told = refused("--address", f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in told
    assert "head" in told
    assert "HOST:PORT" in refused("--address", "nowhere")


def test_a_home_that_cannot_be_made(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = refused("--home", str(tmp_path / "file" / "home"))
    assert "ADMIRALTY_HOME" in told


def test_a_run_folder_of_somebody_else(refused: Callable[..., str], tmp_path: Path) -> None:
    from admiralty.runtime.serve.environment import folders

    home = tmp_path / "home"
    home.mkdir()
    run = folders(home).run
    try:
        run.chmod(0o777)
        assert str(run) in refused("--beside-other-ray")
    finally:
        os.rmdir(run)
