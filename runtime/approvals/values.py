"""An approval, as it stands in its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import RowMapping

from admiralty.core.values import ApprovalKind, ApprovalVerdict, Verdict, effect_key

ApprovalStatus = Literal["pending", "approved", "rejected", "expired", "withdrawn"]
"""``expired``: nobody decided, and so it was rejected. ``withdrawn``: its run was ended meanwhile."""

STATUSES: tuple[ApprovalStatus, ...] = get_args(ApprovalStatus)
DECIDED: tuple[Verdict, ...] = get_args(Verdict)

CLOCK = "expiry"
"""Who decided where nobody did in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """A tool call that waits, or waited, for a person. Times are seconds since the epoch."""

    id: str
    tenant: str
    fleet: str
    conversation_id: str
    run_id: str
    call_id: str
    digest: str
    kind: ApprovalKind
    agent: str
    agent_version: str
    user: str | None
    """The end user for whom the run acts."""
    tool: str
    arguments: Mapping[str, Any]
    """As the agent wished them."""
    reason: str
    """Why a person is asked; of an agent that asks itself, its question."""
    status: ApprovalStatus
    default: Literal["reject", "approve"]
    """What holds if nobody decides."""
    created_at: float
    expires_at: float
    decided_at: float | None = None
    decided_by: str | None = None
    decision_reason: str | None = None
    edited: Mapping[str, Any] | None = None
    """What the person changed the arguments to; ``None``: they stayed."""

    @property
    def pending(self) -> bool:
        """Whether somebody may still decide."""
        return self.status == "pending"

    @property
    def key(self) -> str:
        """The name of the call within its run."""
        return effect_key(self.call_id, self.digest)

    @property
    def verdict(self) -> ApprovalVerdict | None:
        """What the run is told; ``None`` as long as nothing is decided."""
        if self.status not in DECIDED:
            return None
        return ApprovalVerdict(
            id=self.id,
            verdict=self.status,
            arguments=self.edited,
            reason=self.decision_reason or "",
            by=self.decided_by or "",
        )


def read_approval(row: RowMapping) -> Approval:
    """Return the approval of a row."""
    return Approval(**row)
