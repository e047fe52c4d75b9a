"""A run as its row tells it: one execution after another of one turn, by whoever has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from admiralty.core.values import Identity

RunStatus = Literal["queued", "running", "waiting", "done", "failed", "cancelled", "parked"]
"""``waiting``: for a person's approval. ``failed``: for good. ``parked``: until a person retries it."""

OPEN: frozenset[RunStatus] = frozenset({"queued", "running", "waiting"})
"""Statuses of runs that will go on by themselves."""

Strategy = Literal["reject", "enqueue", "interrupt", "rollback"]
"""What becomes of a message that comes while an earlier one is being answered."""

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

Stop = Literal["cancel", "interrupt", "rollback"]
"""Why a run is ended from outside. ``interrupt``, ``rollback``: a newer message takes its place, and what
was done is kept in mind, or forgotten."""


RETRIED = "retried by hand"
"""The reason that stands among a run's attempts where a person had it executed again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """All that any process needs to execute a run."""

    identity: Identity
    entry: str
    """The agent that is asked first."""
    streaming: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return it as the row keeps it."""
        me = self.identity
        return {
            "tenant": me.tenant,
            "team": me.team,
            "user": me.user,
            "key_id": me.key_id,
            "tags": dict(me.tags),
            "admin": me.admin,
            "entry": self.entry,
            "streaming": self.streaming,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunRequest:
        """Return what a row keeps. Raises KeyError for a row from before runs could be taken over."""
        return cls(
            identity=Identity(
                tenant=data["tenant"],
                team=data["team"],
                user=data["user"],
                key_id=data["key_id"],
                tags=data["tags"],
                admin=data["admin"],
            ),
            entry=data["entry"],
            streaming=data["streaming"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run's row."""

    id: str
    conversation_id: str
    turn: int
    status: RunStatus
    message: str
    answer: str | None = None
    error: Mapping[str, Any] | None = None
    started_at: float
    finished_at: float | None = None
    fleet: str = ""
    tenant: str = ""
    fence: int = 0
    """Counts who has had it: what an older one writes is refused."""
    attempt: int = 1
    """Executions so far, those included that went on after a pause."""
    attempts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """Why earlier executions broke off: ``{"attempt", "owner", "at", "reason"}``; and who retried it."""
    request: Mapping[str, Any] = field(default_factory=dict)
    cancel: Stop | None = None
    deadline: float | None = None
    """Seconds since the epoch after which nobody waits for the answer."""
    follows_gap: bool = True
    """Whether the turn before may have ended without an answer; no column."""
    last_event: int = 0
    """The conversation's last event when it was claimed; no column."""


COLUMNS = tuple(name for name in Run.__dataclass_fields__ if name not in ("follows_gap", "last_event"))
"""The columns of ``runs`` that a :class:`Run` is made of."""


def run_of(row: Any, **known: Any) -> Run:
    """Return the run that a row of ``runs`` is."""
    return Run(**{name: getattr(row, name) for name in COLUMNS}, **known)


def breaks(attempts: Sequence[Mapping[str, Any]]) -> int:
    """Return how often a run broke off since a person last had it executed again."""
    since = 0
    for one in attempts:
        since = 0 if one["reason"] == RETRIED else since + 1
    return since


def run_data(run: Run) -> dict[str, Any]:
    """Return what events say of a run."""
    return {
        "run_id": run.id,
        "conversation_id": run.conversation_id,
        "turn": run.turn,
        "status": run.status,
    }
