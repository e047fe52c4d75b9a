"""Approvals: a run that waits for a person, what the person decides, and what the clock decides instead."""

from admiralty.runtime.approvals.rows import expire, insert_approval, verdicts, withdraw
from admiralty.runtime.approvals.store import ApprovalStore, Decider
from admiralty.runtime.approvals.values import STATUSES, Approval, ApprovalStatus

__all__ = [
    "STATUSES",
    "Approval",
    "ApprovalStatus",
    "ApprovalStore",
    "Decider",
    "expire",
    "insert_approval",
    "verdicts",
    "withdraw",
]
