"""Asks recorded questions again, under another bundle: what would have been decided otherwise?

Only what was recorded is known: a question that needs more is told apart from one whose answer changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from admiralty.core.values import Access, Decision
from admiralty.runtime.policy.log import DecisionLog
from admiralty.runtime.policy.records import DecisionRecord, Verdict

PAGE = 500

DecideAt = Callable[[Access, float], Decision]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A recorded decision that would be another."""

    record: DecisionRecord
    decision: Verdict
    """What it would be."""
    reasons: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class Replay:
    """What came of asking again."""

    asked: int = 0
    changes: list[Change] = field(default_factory=list)
    unreadable: list[DecisionRecord] = field(default_factory=list)
    """Records that hold no question, of a version to come or of somebody's making."""


def compare(record: DecisionRecord, decide_at: DecideAt) -> Change | None:
    """Ask a recorded question again, as at its time.

    Raises LookupError, TypeError, ValueError or AttributeError for what is none.
    """
    decision = decide_at(record.access, record.at)
    verdict: Verdict = "allow" if decision.allowed else "deny"
    if verdict == record.decision:
        return None
    return Change(record=record, decision=verdict, reasons=decision.reasons, errors=decision.errors)


def replay(records: Iterable[DecisionRecord], decide_at: DecideAt, into: Replay) -> None:
    """Ask all of ``records`` again."""
    for record in records:
        into.asked += 1
        try:
            change = compare(record, decide_at)
        except (LookupError, TypeError, ValueError, AttributeError):
            into.unreadable.append(record)
            continue
        if change is not None:
            into.changes.append(change)


async def recorded(
    log: DecisionLog, *, tenant: str | None, since: float | None
) -> AsyncIterator[list[DecisionRecord]]:
    """Yield recorded decisions, newest first, a page at a time."""
    after: str | None = None
    while page := await log.find(tenant=tenant, since=since, after=after, limit=PAGE):
        yield page
        after = page[-1].id
