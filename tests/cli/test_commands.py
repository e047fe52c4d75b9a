"""Commands that need no cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .conftest import Run


@pytest.mark.requirement("cli.agents")
def test_agents_are_listed_with_their_tools_and_handoffs(admiralty: Run) -> None:
    told = admiralty("agents", COLUMNS="300")
    assert told.returncode == 0, told.stderr
    for text in ("triage (entry)", "lookup", "reasoning", "cancel_pending_order (", "deployment x1"):
        assert text in told.stdout
    assert "nosuchfleet" in admiralty("agents", "nosuchfleet").stderr


@pytest.mark.requirement("cli.doctor")
def test_doctor_checks_what_up_needs(admiralty: Run, free_port: Callable[[], int]) -> None:
    ports = ("--port", str(free_port()), "--dashboard-port", str(free_port()))
    well = admiralty("doctor", "--home", "home", "--beside-other-ray", *ports)
    assert well.returncode == 0, well.stdout
    assert "`admiralty up` will start" in well.stdout
    for name in ("Python", "Database", "Fleet", "Models", "HAProxy", "Ports"):
        assert name in well.stdout
    ill = admiralty(
        "doctor",
        "nosuchfleet",
        "--home",
        "home",
        "--beside-other-ray",
        *ports,
        ADMIRALTY_HAPROXY_BINARY="/nowhere",
    )
    assert ill.returncode == 1
    assert "2 of 12" in ill.stdout
    assert "ADMIRALTY_HAPROXY_BINARY" in ill.stdout


@pytest.mark.requirement("cli.chat")
def test_chat_without_a_key_or_a_server_says_what_to_do(admiralty: Run, free_port: Callable[[], int]) -> None:
    keyless = admiralty("chat", "Hello")
    assert keyless.returncode == 2
    assert "admiralty keys create" in keyless.stderr
    alone = admiralty("chat", "Hello", "--key", "adm_x", "--url", f"http://127.0.0.1:{free_port()}")
    assert alone.returncode == 2
    assert "admiralty status" in alone.stderr


@pytest.mark.requirement("cli.chat")
def test_chat_with_something_else_that_listens_ends_with_a_message(admiralty: Run) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(30)
        import threading

        def hang_up() -> None:
            connection, _ = silent.accept()
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        told = admiralty(
            "chat", "Hi", "--key", "adm_x", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


@pytest.mark.requirement("serve.yaml")
def test_build_writes_what_was_set_but_no_secrets(admiralty: Run, tmp_path: Path) -> None:
    built = admiralty(
        "build", "--home", "home", "--port", "8123",
        OPENAI_API_KEY="sk-secret", ADMIRALTY_DATABASE_URL="postgresql://u:secret@db/name",
        ADMIRALTY_GATEWAY_REPLICAS="3", ADMIRALTY_MODELS__SMALL="openai:some",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "secret" not in built.stdout
    config = yaml.safe_load(built.stdout)
    assert config["http_options"] == {"host": "127.0.0.1", "port": 8123}
    assert config["applications"][0]["args"] == {
        "fleet": "fleets.support",
        "home": str(tmp_path / "home"),
        "gateway_replicas": 3,
        "models": {"small": "openai:some"},
    }
    unwritable = admiralty("build", "-o", "nowhere/serve.yaml")
    assert unwritable.returncode == 2
    assert "nowhere" in unwritable.stderr
