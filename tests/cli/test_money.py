"""Budgets, spending and the ledger on the command line, on the database itself."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run

_ENTRY = (
    "INSERT INTO ledger (id, kind, call_id, tenant, team, tags, fleet, agent, agent_version, "
    "conversation_id, run_id, model, tier, tool, status, cost_nanos, estimated, price_book, policy, "
    "charges, seconds, at) "
    "VALUES (?, 'model', 'c', 'acme', 'blue', '{\"project\":\"alpha\"}', 'desk', '[clerk]', 'v', 'conv', "
    "'run', 'openai:x', 'small', '', 'ok', 1500000000, 0, '', '', ?, 0.5, 1795348800.5)"
)


def told(run: Run, *arguments: str) -> Any:
    """Run a command with --json, and return what it says."""
    answer = run(*arguments, "--home", "home", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.requirement("cli.budgets")
def test_budgets_are_made_listed_changed_and_archived(admiralty: Run) -> None:
    made = told(
        admiralty, "budgets", "create", "--scope", "user:acme/*", "--limit", "2.50",
        "--window", "rolling:24h", "--soft", "--threshold", "0.9",
        "--webhook", "https://hooks.example.com/x", "--name", "[Users]",
    )  # fmt: skip
    assert (made["limit_usd"], made["seconds"], made["hard"], made["thresholds"]) == (
        "2.5",
        86400,
        False,
        [0.9],
    )
    everybody = told(admiralty, "budgets", "create", "--scope", "tenant:*", "--limit", "1000")
    assert [one["id"] for one in told(admiralty, "budgets", "list")] == [made["id"], everybody["id"]]
    assert [one["id"] for one in told(admiralty, "budgets", "list", "--tenant", "acme")] == [made["id"]]
    table = admiralty("budgets", "list", "--home", "home", COLUMNS="250").stdout
    assert "user:acme/*" in table
    assert "rolling 1 day, 0:00:00" in table
    assert "[Users]" in table

    changed = told(admiralty, "budgets", "set", made["id"], "--limit", "3", "--hard", "--webhook", "")
    assert (changed["limit_usd"], changed["hard"], changed["webhook"]) == ("3", True, None)
    shown = admiralty("budgets", "show", made["id"], "--home", "home").stdout
    assert "$3, hard" in shown
    assert "rolling 1 day, 0:00:00" in shown
    assert told(admiralty, "budgets", "archive", made["id"])["archived_at"]
    assert len(told(admiralty, "budgets", "list")) == 1
    assert len(told(admiralty, "budgets", "list", "--archived")) == 2


@pytest.mark.requirement("cli.budgets")
@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("create", "--scope", "planet:x", "--limit", "1"), "begin with one of"),
        (("create", "--scope", "tenant:x", "--limit", "lots"), "0.50"),
        (("create", "--scope", "tenant:x", "--limit", "1", "--window", "rolling:soon"), "rolling:24h"),
        (("create", "--scope", "tenant:x", "--limit", "1", "--window", "year"), "rolling"),
        (
            ("create", "--scope", "tenant:x", "--limit", "1", "--webhook", "http://127.0.0.1/"),
            "ADMIRALTY_ALLOW_PRIVATE_WEBHOOKS",
        ),
        (("show", "budget_x"), "budget_x"),
        (("set", "budget_x"), "--limit"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(
    admiralty: Run, arguments: tuple[str, ...], remedy: str
) -> None:
    refused = admiralty("budgets", *arguments, "--home", "home")
    assert refused.returncode == 2
    assert remedy in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.requirement("cli.keys")
def test_keys_tell_their_team_tags_and_role(admiralty: Run) -> None:
    made = admiralty(
        "keys", "create", "--tenant", "acme", "--team", "blue", "--tag", "project=alpha", "--tag", "env=prod",
        "--admin", "--home", "home",
    )  # fmt: skip
    assert made.stdout.startswith("adm_")
    assert "tenant acme, team blue, admin" in made.stdout
    listed = admiralty("keys", "list", "--home", "home", COLUMNS="250").stdout
    for text in ("acme", "blue", "env=prod project=alpha", "admin"):
        assert text in listed
    refused = admiralty("keys", "create", "--tag", "project", "--home", "home")
    assert refused.returncode == 2
    assert "project=alpha" in refused.stderr


@pytest.mark.requirement("cli.spend", "cli.ledger")
def test_spending_is_told_the_ledger_exported_and_re_added(admiralty: Run, tmp_path: Path) -> None:
    budget = told(admiralty, "budgets", "create", "--scope", "tenant:acme", "--limit", "9")["id"]
    charges = json.dumps([[budget, "", "2026-11"]])
    file = tmp_path / "home" / "admiralty.sqlite3"
    with sqlite3.connect(file) as database:
        database.executemany(_ENTRY, [("call_1", charges), ("call_2", charges)])
        database.execute(
            'INSERT INTO counters (budget_id, subject, "window", spent, held, unproven) '
            "VALUES (?, ?, ?, ?, 0, 0)",
            (budget, "", "2026-11", 3_000_000_000),
        )

    spend = told(
        admiralty, "spend", "--by", "agent,tag:project", "--since", "2026-11-22", "--until", "2026-11-23"
    )
    assert spend["total"]["cost_usd"] == "3"
    assert spend["data"][0]["group"] == {"agent": "[clerk]", "tag:project": "alpha"}
    table = admiralty(
        "spend", "--since", "2026-11-01", "--until", "2026-12-01", "--interval", "day", "--home", "home"
    )
    assert "2026-11-22" in table.stdout
    assert "[clerk]" in table.stdout
    assert "$3" in table.stdout
    assert "24h" in admiralty("spend", "--since", "once", "--home", "home").stderr

    until = ("--until", "2026-12-01", "--home", "home")
    exported = admiralty("ledger", "export", "--format", "focus", "-o", "out.csv", *until)
    assert "2 entries in out.csv." in exported.stdout
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert [row["BilledCost"] for row in rows] == ["1.5", "1.5"]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    plain = admiralty("ledger", "export", *until).stdout
    assert [row["id"] for row in csv.DictReader(io.StringIO(plain))] == ["call_1", "call_2"]
    assert admiralty("ledger", "export", "-o", "no/such/folder.csv", *until).returncode == 2

    assert told(admiralty, "ledger", "verify")["right"] is True
    with sqlite3.connect(file) as database:
        database.execute("UPDATE counters SET spent = spent - 1")
    wrong = admiralty("ledger", "verify", "--home", "home")
    assert wrong.returncode == 1
    assert f"{budget} 2026-11: the counter says $2.999999999 spent" in wrong.stderr
    as_json = admiralty("ledger", "verify", "--json", "--home", "home")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["problems"][0]["check"] == "spent"
