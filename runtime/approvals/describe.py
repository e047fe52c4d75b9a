"""Approvals as JSON: what the API and the command line show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from admiralty.core.values import Event
from admiralty.runtime.approvals.values import Approval


def approval_json(approval: Approval, *, secrets: bool = True) -> Mapping[str, Any]:
    """Return an approval; without ``secrets``, not what the tool would be given."""
    return {
        "id": approval.id,
        "object": "approval",
        "status": approval.status,
        "kind": approval.kind,
        "fleet": approval.fleet,
        "agent": approval.agent,
        "agent_version": approval.agent_version,
        "tool": approval.tool,
        "arguments": approval.arguments if secrets else None,
        "edited": approval.edited if secrets else None,
        "reason": approval.reason,
        "default": approval.default,
        "user": approval.user,
        "conversation_id": approval.conversation_id,
        "run_id": approval.run_id,
        "call_id": approval.call_id,
        "created_at": approval.created_at,
        "expires_at": approval.expires_at,
        "decided_at": approval.decided_at,
        "decided_by": approval.decided_by,
        "decision_reason": approval.decision_reason,
    }


def approval_event(approval: Approval) -> Event:
    """Return the event that tells of an approval: that it waits, or what was decided."""
    data = {
        "approval_id": approval.id,
        "agent": approval.agent,
        "kind": approval.kind,
        "tool": approval.tool,
        "call_id": approval.call_id,
        "arguments": dict(approval.arguments),
        "reason": approval.reason,
        "expires_at": approval.expires_at,
        "status": approval.status,
    }
    if not approval.pending:
        data |= {"decided_by": approval.decided_by, "decision_reason": approval.decision_reason}
        if approval.edited is not None:
            data["edited"] = dict(approval.edited)
    return Event(type="approval", data=data)
