"""The command line beside a running fleet."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from .conftest import Run, Up
from .test_turns import ANSWER

pytestmark = pytest.mark.ray


@pytest.mark.requirement("cli.up")
def test_up_says_where_everything_is_and_shows_a_key_that_works(running: Up) -> None:
    shown = running.outputs[0]
    for text in (f"{running.url}/v1", f"http://127.0.0.1:{running.dashboard_port}", "ray-token", "curl "):
        assert text in shown
    with running.client() as client:
        assert client.get("/v1/models").status_code == 200
    assert running.key.encode() not in (running.home / "admiralty.sqlite3").read_bytes()


@pytest.mark.requirement("cli.status")
def test_status_tells_a_running_fleet_from_none(running: Up, admiralty: Run) -> None:
    up = admiralty("status", "--home", "home")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "pilots is up" in up.stdout
    assert running.url in up.stdout
    none = admiralty("status", "--home", "elsewhere")
    assert none.returncode == 1
    assert "No fleet is up" in none.stdout


@pytest.mark.requirement("cli.chat")
def test_chat_shows_the_answer_its_steps_and_its_cost(running: Up, admiralty: Run) -> None:
    said = admiralty("chat", "ROUTE:tides How high?", "--home", "home", ADMIRALTY_API_KEY=running.key)
    assert said.returncode == 0, said.stderr
    assert ANSWER in said.stdout
    for text in ("triage hands off to tides", "get_tide(", "tokens", "$"):
        assert text in said.stdout
    quiet = admiralty("chat", "ROUTE:tides", "--home", "home", "--quiet", "--key", running.key)
    assert quiet.stdout.strip() == ANSWER
    wrong = admiralty("chat", "Hello", "--home", "home", "--key", "adm_wrong")
    assert wrong.returncode == 2
    assert "401" in wrong.stderr


@pytest.mark.requirement("cli.keys")
def test_keys_are_made_listed_and_revoked_while_the_fleet_runs(running: Up, admiralty: Run) -> None:
    made = admiralty("keys", "create", "--home", "home", "--name", "visitor").stdout
    secret, key_id = made.split()[0], made.split()[1].rstrip(",")
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{running.url}/v1/models", headers=headers, timeout=30).status_code == 200
    listed = admiralty("keys", "list", "--home", "home").stdout
    assert key_id in listed
    assert "visitor" in listed
    assert secret not in listed
    assert admiralty("keys", "revoke", key_id, "--home", "home").returncode == 0
    until = time.monotonic() + 30
    while httpx.get(f"{running.url}/v1/models", headers=headers, timeout=30).status_code != 401:
        assert time.monotonic() < until, "a revoked key is noticed within seconds"


@pytest.mark.requirement("cli.refusals")
def test_a_second_fleet_in_the_same_home_or_on_the_same_ray_is_refused(running: Up, admiralty: Run) -> None:
    second = admiralty("up", "pilots", "--home", "home", "--beside-other-ray")
    assert second.returncode == 2
    assert "admiralty down" in second.stderr

    port = json.loads((running.home / "up.json").read_text())["gcs"]
    joined = admiralty(
        "up", "pilots", "--home", "joining", "--address", port,
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(running.home / "ray-token"),
    )  # fmt: skip
    assert joined.returncode == 2, joined.stdout + joined.stderr
    assert "runs there already" in joined.stderr
    with running.client() as client:
        assert client.get("/v1/models").status_code == 200, "the running fleet was not touched"


@pytest.mark.requirement("cli.refusals")
def test_doctor_names_the_ports_that_are_taken(running: Up, admiralty: Run) -> None:
    ports = ("--port", str(running.port), "--dashboard-port", str(running.dashboard_port))
    told = admiralty("doctor", "pilots", "--home", "doctor", *ports)
    assert told.returncode == 1
    assert f"127.0.0.1:{running.port}" in told.stdout
    assert "--port" in told.stdout
