"""Ending, restarting, crashing: what is finished, what is kept, what is left. Runs last in this folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import pytest

from .conftest import Run, Up, is_alive, is_free, wait_for
from .test_turns import ANSWER, begun, in_background, say

pytestmark = pytest.mark.ray


@pytest.mark.requirement("serve.drain", "serve.restart")
def test_an_interrupt_drains_and_a_restart_goes_on_where_it_was(running: Up) -> None:
    with running.client() as client:
        path = begun(client)
        turn = in_background(running, path, "ROUTE:tides How high is it?")
    session = running.processes()
    assert running.process is not None
    running.process.send_signal(signal.SIGINT)
    wait_for(lambda: _refuses(running), "no new requests are taken")
    assert not turn.done(), "the drain waited for the turn"
    (running.gates / "closed").unlink()
    assert turn.result(timeout=60)[-1][0] == "done"
    assert turn.result()[-1][1]["message"] == ANSWER

    assert running.process.wait(90) == 0
    wait_for(lambda: not [pid for pid in session if is_alive(pid)], "all processes have ended")
    wait_for(lambda: not running.left(), "nothing is left")
    assert is_free(running.port)
    assert is_free(running.dashboard_port)
    assert not (running.home / "up.json").exists()

    first_key = running.key
    running.start()
    assert running.key == first_key
    assert "adm_" not in running.outputs[-1].replace("adm_…", ""), "a key is shown once"
    with running.client() as client:
        assert [message["role"] for message in client.get(path).json()["messages"]] == ["user", "assistant"]
        assert say(client, path, "ROUTE:greeter Thanks!")[-1][1]["turn"] == 2


@pytest.mark.requirement("cli.down")
def test_down_ends_what_a_killed_up_left_behind_and_nothing_else(running: Up, admiralty: Run) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()", "gcs_server"], stdin=subprocess.PIPE)
    try:
        os.kill(running.pid, signal.SIGKILL)
        assert running.process is not None
        running.process.wait(30)
        status = admiralty("status", "--home", "home")
        assert status.returncode == 1
        assert "admiralty down" in status.stdout
        ended = admiralty("down", "--home", "home")
        assert ended.returncode == 0, ended.stderr
        wait_for(lambda: not running.left(), f"nothing is left: {running.left()}")
        assert is_free(running.port)
        assert is_free(running.dashboard_port)
        assert bystander.poll() is None
        again = admiralty("down", "--home", "home")
        assert again.returncode == 0
        assert "No fleet is up" in again.stdout
    finally:
        bystander.kill()
        bystander.communicate()


def _refuses(up: Up) -> bool:
    try:
        httpx.get(f"{up.url}/healthz", timeout=5)
    except httpx.ConnectError:
        return True
    return False
