"""Ending, restarting, crashing: what is finished, what is kept, what is left. Runs last in this folder."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import closing, suppress

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
    listener = listening(running, path)
    session = running.processes()
    assert running.process is not None
    running.process.send_signal(signal.SIGINT)
    wait_for(lambda: _refuses(running), "no new requests are taken")
    assert not turn.done(), "the drain waited for the turn"
    (running.gates / "closed").unlink()
    assert turn.result(timeout=60)[-1][0] == "done"
    assert turn.result()[-1][1]["message"] == ANSWER

    assert running.process.wait(90) == 0
    assert "done" in listener.result(timeout=10), "who listens hears the end, and is cut off then"
    output = (running.folder / f"up-{len(running.outputs) - 1}.log").read_text()
    drained = re.search(r"Draining\D+([\d.]+) s", output)
    assert drained, output
    assert float(drained[1]) < 15, "nobody who only listens is waited for"
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


@pytest.mark.requirement("serve.handed_on")
def test_a_turn_that_is_not_finished_in_time_is_handed_on_and_answered_after_the_next_start(
    running: Up,
) -> None:
    with running.client() as client:
        path = begun(client)
        turn = in_background(running, path, "ROUTE:tides How high is it?")
    assert running.end() == 0
    with suppress(httpx.HTTPError):  # the ingress may go before the stream has ended
        assert turn.result(timeout=10)[-1][0] == "run"
    with closing(sqlite3.connect(running.home / "admiralty.sqlite3")) as database:
        [(run, status)] = database.execute(
            "SELECT id, status FROM runs WHERE conversation_id = ?", (path.rsplit("/", 1)[1],)
        ).fetchall()
    assert status == "queued", "handed on, or broken off with its agent's replica, whichever came first"

    (running.gates / "closed").unlink()
    running.start()
    with running.client() as client:
        events = f"{path}/runs/{run}/events"
        assert "event: done" in client.get(events, headers={"Accept": "text/event-stream"}).text
        shown = client.get(f"{path}/runs/{run}").json()
    assert (shown["status"], shown["answer"]) == ("done", ANSWER)


@pytest.mark.requirement("serve.gateway_death")
def test_a_turn_whose_gateway_is_killed_is_taken_over_and_its_client_misses_nothing(
    running: Up, client: httpx.Client
) -> None:
    path = begun(client)
    turn = in_background(running, path, "ROUTE:tides How high is it?")
    os.kill(running.owner(path.rsplit("/", 1)[1]), signal.SIGKILL)
    with pytest.raises(httpx.HTTPError):  # its stream breaks off
        turn.result(timeout=60)
    (running.gates / "closed").unlink()

    [run] = wait_for(lambda: runs_of(running, path), "another gateway answers")
    seen: list[int] = []
    kind = ""

    def come_back() -> bool:
        """Go on with the events where they were; true once the turn has ended."""
        nonlocal kind
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen[-1] if seen else 0)}
        with (
            running.client() as again,
            again.stream("GET", f"{path}/runs/{run}/events", headers=headers) as told,
        ):
            for line in told.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seen.append(int(value))
                elif name == "event":
                    kind = value
        return kind == "done"

    wait_for(come_back, "the turn is answered", 90)
    assert seen == list(range(1, len(seen) + 1))
    shown = client.get(f"{path}/runs/{run}").json()
    assert (shown["status"], shown["answer"], shown["attempt"]) == ("done", ANSWER, 2)
    assert "not heard of" in shown["attempts"][0]["reason"]
    assert say(client, path, "ROUTE:greeter Thanks!")[-1][0] == "done"


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


def listening(up: Up, path: str) -> Future[list[str]]:
    """Follow a conversation's events for ever, in a thread; the kinds of those that came."""
    heard: Future[list[str]] = Future()
    began = threading.Event()

    def listen() -> None:
        kinds: list[str] = []
        with suppress(httpx.HTTPError), up.client() as client, client.stream("GET", f"{path}/events") as told:
            for line in told.iter_lines():
                began.set()
                if line.startswith("event: "):
                    kinds.append(line.removeprefix("event: "))
        heard.set_result(kinds)

    threading.Thread(target=listen, daemon=True).start()
    assert began.wait(30)
    return heard


def runs_of(up: Up, path: str) -> list[str]:
    """The ids of a conversation's runs; none while no gateway answers."""
    try:
        with up.client() as client:
            answer = client.get(f"{path}/runs")
        return [run["id"] for run in answer.json()["data"]] if answer.status_code == 200 else []
    except httpx.HTTPError:
        return []


def _refuses(up: Up) -> bool:
    try:
        httpx.get(f"{up.url}/healthz", timeout=5)
    except httpx.ConnectError:
        return True
    return False
