"""The command line: policies are checked, shown, and tried on what has happened."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.settings import Settings
from admiralty.core.values import Access, Caller
from admiralty.fleets.support import fleet
from admiralty.runtime.policy import CedarPolicy, DecisionLog
from admiralty.runtime.storage import Database

from .conftest import asked, caller, write_files

COMMAND = [sys.executable, "-c", "from admiralty.runtime.cli import main; main()", "policy"]
Run = Callable[..., subprocess.CompletedProcess[str]]

NO_CANCEL = '@id("no-cancel") forbid (principal, action, resource == Tool::"cancel_pending_order");'


@pytest.fixture
def policy_command(tmp_path: Path) -> Run:
    """Runs ``admiralty policy`` in a folder of the test's own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADMIRALTY")}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=clean | {"COLUMNS": "200"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def at_desk(**identity: Any) -> Caller:
    return replace(caller("reasoning", **identity), fleet="support")


def happened(home: Path, *accesses: Access) -> None:
    """Decide by the fleet's own policy, and record."""

    async def record() -> None:
        settings = Settings.load(home=home)
        policy = CedarPolicy.of(settings, fleet)
        database = await asyncio.to_thread(Database.of, settings)
        log = DecisionLog(database)
        for access in accesses:
            log.add(access, policy.decide(access))
        await log.close()
        await database.close()

    asyncio.run(record())


def cancel(number: int, **more: Any) -> Access:
    return replace(asked("tool:call", "cancel_pending_order", **more), id=f"call_{number}")


@pytest.mark.requirement("policy.replay")
def test_a_replay_lists_what_another_bundle_would_have_decided_otherwise(
    tmp_path: Path, policy_command: Run
) -> None:
    known = {"customer": "ann_1"}
    happened(
        tmp_path / "home",
        cancel(1, by=at_desk(), facts=known),
        cancel(2, by=at_desk()),
        cancel(3, by=at_desk(tenant="other"), facts=known),
        asked("model:call", "openai:x", by=at_desk()),
    )
    new = write_files(tmp_path / "new", {"own.cedar": NO_CANCEL})
    args = ("replay", "--home", "home", "--bundle", str(new))
    told = policy_command(*args, "--json", "--tenant", "acme", "--since", "1h")
    assert told.returncode == 1, told.stderr
    outcome = json.loads(told.stdout)
    assert (outcome["asked"], outcome["changed"], outcome["unreadable"]) == (3, 1, 0)
    (change,) = outcome["changes"]
    assert change["resource"] == 'Tool::"cancel_pending_order"'
    assert change["was"]["decision"] == "allow"
    assert change["would_be"] == {"decision": "deny", "reasons": ["no-cancel (own.cedar:1)"], "errors": []}
    assert change["was"]["bundle"] != outcome["bundle"]
    shown = policy_command(*args)
    assert shown.returncode == 1
    assert "4 decisions asked again" in shown.stdout
    assert "2 would change" in shown.stdout
    assert "no-cancel (own.cedar:1)" in shown.stdout
    assert policy_command(*args, "--tenant", "nobody").returncode == 0
    assert policy_command(*args, "--since", "2999-01-01").returncode == 0
    wrong = policy_command(*args, "--since", "yesterday")
    assert wrong.returncode == 2
    assert "24h" in wrong.stderr


@pytest.mark.requirement("policy.replay")
def test_a_replay_of_the_bundle_in_force_changes_nothing(tmp_path: Path, policy_command: Run) -> None:
    long = {"customer": "ann", "note": "x" * 5_000, "transfer": {"turn": 1}}
    happened(tmp_path / "home", cancel(1, by=at_desk(), facts=long), cancel(2, by=at_desk()))
    same = write_files(tmp_path / "same", {"more.cedar": "// nothing more"})
    told = policy_command("replay", "--home", "home", "--bundle", str(same))
    assert told.returncode == 0, told.stdout
    assert "2 decisions asked again" in told.stdout


@pytest.mark.requirement("policy.check")
def test_check_and_show_tell_what_a_folder_makes_of_the_policy(tmp_path: Path, policy_command: Run) -> None:
    good = write_files(tmp_path / "good", {"own.cedar": NO_CANCEL})
    told = policy_command("check", str(good))
    assert told.returncode == 0, told.stderr
    assert "is good: bundle" in told.stdout
    shown = policy_command("show", "--json", ADMIRALTY_POLICIES=str(good), ADMIRALTY_POLICY_MODE="log")
    document = json.loads(shown.stdout)
    assert document["bundle"] in told.stdout
    assert document["mode"] == "log"
    assert {"name": "own.cedar", "from": "operator"}.items() <= document["files"][1].items()
    assert "no-cancel" in [rule["id"] for rule in document["policies"]]
    assert "no-cancel" not in policy_command("show").stdout
    bad = write_files(tmp_path / "bad", {"own.cedar": "\npermit (principal, action, resource) when { x };"})
    refused = policy_command("check", str(bad))
    assert refused.returncode == 2
    assert "own.cedar:2:" in refused.stderr
