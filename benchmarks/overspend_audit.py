"""What a run of the overspend benchmark comes to: the ledger compared with what the provider billed.

Pure: takes what was found, returns figures. Amounts are nano-dollars.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.governed import caller

INPUT_NANOS: Final = 1_000
"""Price of an input token: $1 for a million."""
OUTPUT_NANOS: Final = 10_000

_NUMBER: Final = re.compile(r"n(\d+)r")

Bills = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """An entry of the ledger, as far as it is compared."""

    call_id: str
    cost: int
    estimated: bool
    status: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that a run left behind."""

    limits: Mapping[str, int]
    """Of the budgets, by level: tenant, team, user, conversation."""
    price: int
    """What the provider bills for one whole answer."""
    bills: Bills
    """What the provider was asked and billed, by call."""
    rows: Sequence[Row]
    outcomes: Sequence[Mapping[str, Any]]
    """What clients saw; those of a killed process are missing."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The comparison."""

    asked: int
    """Requests that the provider got, errors and retries included."""
    answered: int
    """Answers that it billed."""
    limit: int
    spent: int
    """What it billed: the truth."""
    overspent: int
    """Above the limit, at the level where it is worst."""
    unused: int
    shown: int
    """What the ledger says was spent."""
    estimated_rows: int
    estimated_more: int
    """By how much calls with an estimated entry stand above the truth in the ledger, together."""
    wrong_calls: int
    """Calls without an estimated entry whose entries are not exactly what was billed."""
    short_calls: int
    """Calls of which the ledger shows less than was billed."""
    refused: int
    false_refusals: int
    """Refused for want of money, although what the ledger left unspent in the end would have paid for it."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    examples: Sequence[str] = ()
    """Of what clients were told, by kind of outcome."""

    @property
    def shown_minus_true(self) -> int:
        return self.shown - self.spent


def audit(found: Found) -> Audit:
    """Compare the ledger with the provider's bills."""
    true = {call: _price(bill) for call, bill in found.bills.items()}
    shown: defaultdict[str, int] = defaultdict(int)
    guessed: set[str] = set()
    for row in found.rows:
        shown[row.call_id] += row.cost
        if row.estimated:
            guessed.add(row.call_id)
    calls = {*true, *shown}
    spent = sum(true.values())
    limit = found.limits["tenant"]
    counted = Counter(str(outcome["status"]) for outcome in found.outcomes)
    told = {
        str(outcome["status"]): str(outcome["error"]) for outcome in found.outcomes if outcome.get("error")
    }
    return Audit(
        asked=sum(bill["asked"] for bill in found.bills.values()),
        answered=sum(bill["billed"] for bill in found.bills.values()),
        limit=limit,
        spent=spent,
        overspent=max(0, *(by - found.limits[level] for (level, _), by in by_scope(true).items())),
        unused=max(0, limit - spent),
        shown=sum(shown.values()),
        estimated_rows=sum(row.estimated for row in found.rows),
        estimated_more=sum(shown[call] - true.get(call, 0) for call in guessed),
        wrong_calls=sum(shown[call] != true.get(call, 0) for call in calls - guessed),
        short_calls=sum(shown[call] < true.get(call, 0) for call in calls),
        refused=counted["budget_exceeded"],
        false_refusals=false_refusals(found, shown),
        outcomes=dict(counted),
        examples=[f"{status}: {text}" for status, text in told.items()],
    )


def false_refusals(found: Found, shown: Mapping[str, int]) -> int:
    """Return how many of the refused calls fit into what the ledger says was never spent."""
    used: Counter[tuple[str, str]] = Counter(by_scope(shown))
    fit = 0
    for outcome in found.outcomes:
        if outcome["status"] != "budget_exceeded":
            continue
        scopes = scopes_of_number(int(outcome["caller"]))
        if all(used[scope] + found.price <= found.limits[scope[0]] for scope in scopes):
            used.update(dict.fromkeys(scopes, found.price))
            fit += 1
    return fit


def by_scope(costs: Mapping[str, int]) -> dict[tuple[str, str], int]:
    """Return what each scope has spent, by level and name."""
    spent: Counter[tuple[str, str]] = Counter({("tenant", "acme"): 0})
    for call, cost in costs.items():
        number = _NUMBER.search(call)
        if number is not None:
            spent.update(dict.fromkeys(scopes_of_number(int(number[1])), cost))
    return dict(spent)


def scopes_of_number(number: int) -> list[tuple[str, str]]:
    """Return the budgets that a call counts in, by level and name."""
    who = caller(number)
    return [
        ("tenant", who.identity.tenant),
        ("team", str(who.identity.team)),
        ("user", str(who.identity.user)),
        ("conversation", who.conversation_id),
    ]


def _price(bill: Mapping[str, int]) -> int:
    return bill["prompt_tokens"] * INPUT_NANOS + bill["completion_tokens"] * OUTPUT_NANOS
