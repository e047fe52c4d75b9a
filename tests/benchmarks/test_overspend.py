"""The overspend benchmark itself: a short run, and that its comparison finds what it is for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overspend_audit import Found, Row, audit
from benchmarks.processes import ROOT

pytestmark = pytest.mark.requirement("benchmarks.overspend")

PRICE = 1_100_000
BILL = {"asked": 1, "billed": 1, "prompt_tokens": 100, "completion_tokens": 100}


def found(**values: Any) -> Found:
    """Two calls on a budget worth two: one by the first caller, one by the second, all well."""
    names = ("call_w0n00000r00", "call_w0n00001r00")
    usual = Found(
        limits=dict.fromkeys(("tenant", "team", "user", "conversation"), 2 * PRICE),
        price=PRICE,
        bills=dict.fromkeys(names, BILL),
        rows=[Row(call_id=name, cost=PRICE, estimated=False, status="ok") for name in names],
        outcomes=[{"status": "ok", "caller": 0}, {"status": "ok", "caller": 1}],
    )
    return replace(usual, **values)


def test_a_ledger_that_is_right_is_found_right() -> None:
    result = audit(found())
    assert (result.asked, result.answered, result.spent, result.unused) == (2, 2, 2 * PRICE, 0)
    assert (result.overspent, result.shown_minus_true, result.wrong_calls, result.short_calls) == (0, 0, 0, 0)


def test_spending_above_a_limit_is_found_at_the_level_where_it_happened() -> None:
    limits = {"tenant": 5 * PRICE, "team": 5 * PRICE, "user": 5 * PRICE, "conversation": PRICE}
    bills = {f"call_w0n{number:05d}r00": BILL for number in (0, 8, 16)}  # one conversation
    assert audit(found(limits=limits, bills=bills)).overspent == 2 * PRICE


def test_money_that_is_missing_from_the_ledger_is_found_and_an_estimate_above_the_truth_is_told_apart() -> (
    None
):
    first, second = found().rows
    missing = audit(found(rows=[first]))
    assert (missing.wrong_calls, missing.short_calls, missing.shown_minus_true) == (1, 1, -PRICE)
    generous = audit(found(rows=[first, replace(second, cost=PRICE + 5, estimated=True)]))
    assert (generous.wrong_calls, generous.short_calls, generous.estimated_more) == (0, 0, 5)
    corrected = [replace(second, cost=PRICE + 5, estimated=True), replace(second, cost=-5)]
    assert audit(found(rows=[first, *corrected])).shown_minus_true == 0


def test_a_refusal_is_false_where_the_money_was_there_in_the_end() -> None:
    refused = [{"status": "budget_exceeded", "caller": number} for number in range(4)]
    rows = found().rows
    assert audit(found(outcomes=refused)).false_refusals == 0
    assert audit(found(outcomes=refused, rows=rows[:1])).false_refusals == 1


def test_sixty_calls_on_a_budget_worth_ten_make_ten_in_two_processes(tmp_path: Path) -> None:
    out = tmp_path / "overspend.json"
    command = [sys.executable, "-m", "benchmarks.overspend", "--database", "sqlite", "--quick"]
    command += ["--cases", "exact estimate", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())["results"][0]
    told = result["audit"]
    assert (result["case"]["processes"], result["hung"], result["holds_left"]) == (2, 0, 0)
    assert told["outcomes"] == {"ok": 10, "budget_exceeded": 50}
    assert (told["asked"], told["answered"], told["spent"]) == (10, 10, told["limit"])
    assert (told["overspent"], told["unused"], told["false_refusals"]) == (0, 0, 0)
    assert told["shown"] == told["spent"]


def test_an_unknown_case_is_refused_with_those_that_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.overspend", "--cases", "kill -9 everybody"]
    done = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'kill -9 everybody' is unknown; there are: exact estimate" in done.stderr
