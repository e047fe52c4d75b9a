"""What listens where, and who may come in."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import Up

pytestmark = pytest.mark.ray

LISTENING = "0A"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as /proc writes them on little-endian machines."""


def listeners(pids: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield (address, port, pid) of the TCP sockets on which ``pids`` listen."""
    owners: dict[str, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith("socket:["):
                        owners[target[8:-1]] = pid
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in owners:
                address, _, port = fields[1].partition(":")
                yield address, int(port, 16), owners[fields[9]]


@pytest.mark.requirement("serve.loopback")
def test_nothing_of_the_cluster_listens_beyond_this_machine(running: Up) -> None:
    found = list(listeners(running.processes()))
    assert {running.port, running.dashboard_port} <= {port for _, port, _ in found}
    assert [item for item in found if item[0] not in LOOPBACK] == []


@pytest.mark.requirement("serve.dashboard_token")
def test_the_dashboard_answers_only_with_the_token(running: Up) -> None:
    url = f"http://127.0.0.1:{running.dashboard_port}/api/serve/applications/"
    assert httpx.get(url, timeout=30).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}, timeout=30).status_code in (401, 403)
    allowed = httpx.get(url, headers={"Authorization": f"Bearer {running.token}"}, timeout=30)
    assert allowed.status_code == 200
    for path in (running.home / "ray-token", running.home / "up.json"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.requirement("serve.jobs")
def test_ray_jobs_are_submitted_with_the_token(running: Up) -> None:
    environment = running.environment | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(running.home / "ray-token"),
    }
    ray = Path(sys.executable).with_name("ray")
    address = f"http://127.0.0.1:{running.dashboard_port}"
    done = subprocess.run(
        [str(ray), "job", "submit", "--address", address, "--", "echo", "hello from the job"],
        env=environment,
        cwd=running.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "hello from the job" in done.stdout
