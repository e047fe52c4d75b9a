"""What became of a chaos run: what clients heard, what took place, and what the database says, compared.

Every figure under `BAD` must be 0.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.money import NANOS_PER_DOLLAR
from admiralty.runtime.ledger.verify import Verifier
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import budgets, conversations, counters, effects, events, holds, runs
from benchmarks.chaos_client import Turn
from benchmarks.chaos_provider import CALL_PRICE

BAD: Final = {
    "lost": "turns that were accepted and never came to an end that their client heard",
    "unexpected": "turns that failed, were cancelled or refused though nothing spoke against them",
    "doubled": "effects that took place twice",
    "missing": "effects that a done turn should have had and had not",
    "forbidden": "effects that took place though a person had said no, or the turn asked for none",
    "unsettled": "effects of done turns of which the database does not know how they ended",
    "wrong_answers": "answers that are not those of the database",
    "client_gaps": "turns whose client missed an event, or was told one twice",
    "event_gaps": "conversations whose events are not numbered without gaps",
    "open_runs": "runs that were still open at the end",
    "overspend": "nano-dollars spent above a limit",
    "unbilled": "nano-dollars that providers charge and the ledger does not know of",
    "holds": "holds that were left",
    "problems": "what re-adding the ledger finds",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn, and what must have come of it."""

    turn: Turn
    tenant: str
    effects: Mapping[str, Literal["once", "never"]] = field(default_factory=dict)
    """By mark: what a done turn has done."""
    may_fail: bool = False
    """Whether it may end without an answer: for want of money, or because a newer message took its place."""


@dataclass(kw_only=True)
class Figures:
    """Counts of a run; see ``BAD``."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Of each thing that is bad, what it is; the first of each kind."""

    @property
    def is_right(self) -> bool:
        return not any(self.counts[name] for name in BAD)

    def bad(self, name: str, note: str, by: int = 1) -> None:
        """Count something that must not be."""
        assert name in BAD
        self.counts[name] += by
        if self.counts[name] <= 5 * by:
            self.notes.append(f"{name}: {note}")


async def audit(
    database: Database,
    asked: Sequence[Asked],
    took_place: Mapping[str, int],
    billed: Mapping[str, int] | None = None,
) -> Figures:
    """Compare. ``took_place``: how often, by mark; ``billed``: the answers of providers, by tenant."""
    figures = Figures()
    rows = await database.read(_rows)
    for one in asked:
        _turn(figures, one, rows)
    _effects(figures, asked, took_place, rows)
    _conversations(figures, rows)
    _money(figures, rows, billed or {})
    verified = await Verifier(database).verify()
    for problem in verified.problems:
        figures.bad("problems", f"{problem.check} {problem.where}: {problem.text}")
    counts = figures.counts
    counts["takeovers"] = sum(max(0, row.fence - 1) for row in rows["runs"].values())
    counts["broke_off"] = sum(len(row.attempts) for row in rows["runs"].values())
    counts["model_calls"] = sum((billed or {}).values())
    return figures


def _rows(connection: Connection) -> dict[str, Any]:
    def all_of(*columns: Any) -> Any:
        return connection.execute(sa.select(*columns)).all()

    by_run: dict[str, list[int]] = defaultdict(list)
    by_conversation: dict[str, list[int]] = defaultdict(list)
    for row in connection.execute(
        sa.select(events.c.run_id, events.c.conversation_id, events.c.seq).order_by(events.c.seq)
    ):
        by_run[row.run_id].append(row.seq)
        by_conversation[row.conversation_id].append(row.seq)
    spent = sa.select(counters.c.budget_id, sa.func.sum(counters.c.spent)).group_by(counters.c.budget_id)
    return {
        "runs": {row.id: row for row in all_of(*runs.c)},
        "events_of_run": by_run,
        "events": by_conversation,
        "conversations": {row.id: row.events for row in all_of(conversations.c.id, conversations.c.events)},
        "effects": all_of(effects.c.run_id, effects.c.tool, effects.c.status, effects.c.arguments),
        "budgets": all_of(budgets.c.id, budgets.c.scope, budgets.c.limit_nanos),
        "spent": {budget: int(amount) for budget, amount in connection.execute(spent)},
        "holds": all_of(holds.c.id),
    }


def _turn(figures: Figures, one: Asked, rows: Mapping[str, Any]) -> None:
    turn, counts = one.turn, figures.counts
    counts["turns"] += 1
    counts[turn.status or "no end"] += 1
    counts["breaks"] += turn.breaks
    counts["parked"] += turn.parked
    counts["events_heard"] += len(turn.seqs)
    where = f"{turn.run or turn.conversation} ({turn.message!r}): {turn.status or 'no end'} {turn.error}"
    if not turn.status:
        figures.bad("lost", where)
    elif turn.status != "done" and not one.may_fail:
        figures.bad("unexpected", where)
    run = rows["runs"].get(turn.run)
    if run is None:
        if not turn.status.startswith("refused"):
            figures.bad("lost", f"there is no run {where}")
        return
    if turn.status == "done":
        counts["answers"] += 1
        if run.status != "done" or run.answer != turn.answer:
            figures.bad("wrong_answers", f"{where}: {turn.answer!r} and {run.status} {run.answer!r}")
    stored = rows["events_of_run"][turn.run]
    if turn.status and turn.seqs != stored[len(stored) - len(turn.seqs) :]:
        figures.bad("client_gaps", f"{where}: {turn.seqs} of {stored}")
    elif turn.status and len(stored) - len(turn.seqs) > 1:  # its own message is not told to who says it
        figures.bad("client_gaps", f"{where}: only {len(turn.seqs)} of {len(stored)}")


def _effects(
    figures: Figures, asked: Sequence[Asked], took_place: Mapping[str, int], rows: Mapping[str, Any]
) -> None:
    counts = figures.counts
    counts["effects"], counts["distinct"] = sum(took_place.values()), len(took_place)
    for mark, times in took_place.items():
        if times > 1:
            figures.bad("doubled", f"{mark} {times} times", times - 1)
    for one in asked:
        for mark, wanted in one.effects.items():
            if wanted == "once" and one.turn.status == "done" and not took_place.get(mark):
                figures.bad("missing", f"{mark} of {one.turn.run}: {one.turn.answer!r}")
            if wanted == "never" and took_place.get(mark):
                figures.bad("forbidden", f"{mark} of {one.turn.run}")
    for row in rows["effects"]:
        if row.status in ("begun", "unknown") and rows["runs"][row.run_id].status == "done":
            figures.bad("unsettled", f"{row.tool} {row.arguments} of {row.run_id} is {row.status}")


def _conversations(figures: Figures, rows: Mapping[str, Any]) -> None:
    counts = figures.counts
    counts["conversations"] = len(rows["conversations"])
    for conversation, count in rows["conversations"].items():
        seqs = rows["events"].get(conversation, [])
        counts["events"] += len(seqs)
        if seqs != list(range(1, count + 1)):
            figures.bad("event_gaps", f"{conversation}: {count} events, numbered {seqs}")
    for run in rows["runs"].values():
        counts[f"runs {run.status}"] += 1
        if run.status in ("queued", "running", "waiting", "parked"):
            figures.bad("open_runs", f"{run.id} is {run.status}: {run.error}")


def _money(figures: Figures, rows: Mapping[str, Any], billed: Mapping[str, int]) -> None:
    counts = figures.counts
    price = int(float(CALL_PRICE) * NANOS_PER_DOLLAR)
    for budget in rows["budgets"]:
        spent, tenant = rows["spent"].get(budget.id, 0), budget.scope.partition(":")[2]
        counts["spent"] += spent
        counts["limit"] += budget.limit_nanos
        if spent > budget.limit_nanos:
            figures.bad(
                "overspend", f"{budget.scope}: {spent} of {budget.limit_nanos}", spent - budget.limit_nanos
            )
        if (due := billed.get(tenant, 0) * price) > spent:
            figures.bad("unbilled", f"{tenant}: {due} charged, {spent} known", due - spent)
    for hold in rows["holds"]:
        figures.bad("holds", hold.id)
