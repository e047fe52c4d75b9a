"""Approvals on the command line, on the database itself."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run


def told(run: Run, *arguments: str) -> Any:
    """Run a command with --json, and return what it says."""
    answer = run("approvals", *arguments, "--home", "home", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture
def waiting(admiralty: Run, tmp_path: Path) -> list[str]:
    """Three calls that wait, of two tenants; their ids, oldest first."""
    admiralty("keys", "list", "--home", "home")  # makes the database
    (file,) = (tmp_path / "home").glob("*.sqlite3")
    ids = []
    with sqlite3.connect(file) as connection:
        for number, tenant in enumerate(("acme", "acme", "other")):
            values: dict[str, Any] = {
                "id": f"conv_{number}", "tenant": tenant, "fleet": "desk", "metadata": "{}",
                "created_at": 1.0, "updated_at": 1.0,
            }  # fmt: skip
            insert(connection, "conversations", values)
            values = {
                "id": f"run_{number}", "conversation_id": f"conv_{number}", "turn": 1, "tenant": tenant,
                "fleet": "desk", "status": "waiting", "owner": "", "lease_until": 0, "message": "m",
                "started_at": 1.0,
            }  # fmt: skip
            insert(connection, "runs", values)
            values = {
                "id": f"appr_{number}", "tenant": tenant, "fleet": "desk",
                "conversation_id": f"conv_{number}", "run_id": f"run_{number}",
                "call_id": "call_1", "digest": "d", "kind": "tool",
                "agent": "[clerk]", "agent_version": "v1", "user": "ann", "tool": "refund",
                "arguments": '{"amount": 30}', "reason": "It is [red]money[/].", "status": "pending",
                "default": "reject", "created_at": 10.0 + number, "expires_at": time.time() + 3600,
            }  # fmt: skip
            insert(connection, "approvals", values)
            ids.append(values["id"])
    connection.close()
    return ids


def insert(connection: sqlite3.Connection, table: str, values: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", list(values.values()))


@pytest.mark.requirement("cli.approvals")
def test_the_operator_lists_shows_and_decides_what_waits(
    admiralty: Run, waiting: list[str], tmp_path: Path
) -> None:
    first, second, third = waiting
    assert [one["id"] for one in told(admiralty, "list")] == [third, second, first]
    assert [one["id"] for one in told(admiralty, "list", "--tenant", "acme")] == [second, first]
    assert told(admiralty, "list", "--tool", "other") == []
    table = admiralty("approvals", "list", "--home", "home").stdout
    assert first in table
    assert "desk/[clerk]" in table
    assert "It is [red]money[/]." in table
    shown = admiralty("approvals", "show", first, "--home", "home").stdout
    assert '{"amount": 30}' in shown
    assert "then reject" in shown

    approved = told(admiralty, "approve", first, "--arguments", '{"amount": 20}', "--reason", "20 do.")
    assert (approved["status"], approved["edited"]) == ("approved", {"amount": 20})
    assert (approved["decided_by"], approved["decision_reason"]) == ("operator", "20 do.")
    rejected = admiralty("approvals", "reject", second, "--reason", "No.", "--by", "ann", "--home", "home")
    assert rejected.returncode == 0, rejected.stderr
    assert "rejected by ann" in rejected.stdout
    assert [one["id"] for one in told(admiralty, "list")] == [third]
    assert [one["id"] for one in told(admiralty, "list", "--status", "approved")] == [first]
    assert len(told(admiralty, "list", "--status", "all", "--limit", "2")) == 2
    (file,) = (tmp_path / "home").glob("*.sqlite3")
    with sqlite3.connect(file) as connection:
        states = connection.execute("SELECT status FROM runs ORDER BY id").fetchall()
    connection.close()
    assert states == [("queued",), ("queued",), ("waiting",)]


@pytest.mark.requirement("cli.approvals")
def test_what_cannot_be_decided_is_refused_with_what_to_do(admiralty: Run, waiting: list[str]) -> None:
    first = waiting[0]
    for arguments, remedy in (
        (("approve", "appr_x"), "There is no approval 'appr_x'"),
        (("approve", first, "--arguments", "[1]"), "no JSON object"),
        (("approve", first, "--arguments", "{amount: 1}"), "no JSON:"),
        (("reject", first, "--reason", "x" * 4001), "at most 4000"),
        (("list", "--status", "open"), "use one of pending"),
    ):
        answer = admiralty("approvals", *arguments, "--home", "home")
        assert answer.returncode == 2, answer.stdout
        assert remedy in " ".join(answer.stderr.split())
    assert told(admiralty, "reject", first)["status"] == "rejected"
    again = admiralty("approvals", "approve", first, "--home", "home")
    assert again.returncode == 2
    assert "was rejected by operator at" in " ".join(again.stderr.split())


@pytest.mark.requirement("cli.approvals")
def test_a_home_without_a_database_is_not_told_to_have_nothing_that_waits(admiralty: Run) -> None:
    answer = admiralty("approvals", "list", "--home", "nowhere")
    assert answer.returncode == 2
    assert "there is no such file" in " ".join(answer.stderr.split())
