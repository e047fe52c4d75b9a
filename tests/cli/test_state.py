"""Shared state on the command line, on the database itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Run


def told(run: Run, *arguments: str) -> Any:
    """Run a command with --json, and return what it says."""
    answer = run("state", *arguments, "--home", "home", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.requirement("cli.state")
def test_state_is_set_shown_listed_and_deleted_with_its_history(admiralty: Run) -> None:
    assert told(admiralty, "set", "stock:[teapot]", '{"left": 4}')["version"] == 1
    changed = told(admiralty, "set", "stock:[teapot]", '{"left": 3}', "--expected", "1", "--by", "ann")
    assert changed["version"] == 2
    assert admiralty("state", "get", "stock:[teapot]", "--home", "home").stdout == '{\n  "left": 3\n}\n'
    assert told(admiralty, "get", "stock:[teapot]")["version"] == 2
    stale = admiralty("state", "set", "stock:[teapot]", "1", "--expected", "1", "--home", "home")
    assert (stale.returncode, "somebody else was first" in stale.stderr) == (2, True)

    assert [one["key"] for one in told(admiralty, "list", "--prefix", "stock:")] == ["stock:[teapot]"]
    assert "stock:[teapot]" in admiralty("state", "list", "--home", "home").stdout
    assert told(admiralty, "list", "--tenant", "acme") == []
    assert told(admiralty, "delete", "stock:[teapot]")["version"] == 3
    shown = admiralty("state", "history", "stock:[teapot]", "--home", "home").stdout
    assert "(deleted)" in shown
    assert "ann" in shown
    assert [one["version"] for one in told(admiralty, "history", "stock:[teapot]")] == [3, 2, 1]


@pytest.mark.requirement("cli.state")
def test_what_is_no_state_is_told(admiralty: Run) -> None:
    for arguments, problem in (
        (("get", "nothing"), "There is nothing under"),
        (("delete", "nothing"), "There is nothing under"),
        (("set", "k", "text"), "this is no JSON"),
        (("set", "a/b", "1"), "has no slash"),
    ):
        answer = admiralty("state", *arguments, "--home", "home")
        assert answer.returncode == 2
        assert problem in answer.stderr
