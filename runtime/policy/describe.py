"""Bundles, decisions and changes as JSON: what the API and the command line show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from admiralty.runtime.policy.bundle import Bundle
from admiralty.runtime.policy.records import DecisionRecord
from admiralty.runtime.policy.replay import Change, Replay


def bundle_json(bundle: Bundle, mode: str) -> Mapping[str, Any]:
    """Return what a bundle consists of; not where its files lie."""
    return {
        "bundle": bundle.hash,
        "mode": mode,
        "files": [
            {"name": file.name, "from": file.layer, "replaces": file.replaces, "sha256": file.digest}
            for file in bundle.files
        ],
        "policies": [
            {
                "id": rule.id,
                "effect": rule.effect,
                "file": rule.file,
                "line": rule.line,
                "message": rule.message,
                "approval": rule.approval,
            }
            for rule in bundle.rules.values()
        ],
    }


def decision_json(record: DecisionRecord) -> Mapping[str, Any]:
    """Return a recorded decision."""
    caller = record.request.get("caller", {})
    return {
        "id": record.id,
        "at": record.at,
        "action": record.action,
        "principal": record.principal,
        "resource": record.resource,
        "decision": record.decision,
        "enforced": record.enforced,
        "reasons": list(record.reasons),
        "errors": list(record.errors),
        "bundle": record.bundle,
        "call_id": record.request.get("id", ""),
        "team": caller.get("team"),
        "user": caller.get("user"),
        "conversation_id": record.conversation_id,
        "run_id": record.run_id,
    }


def replay_json(bundle: Bundle, outcome: Replay) -> Mapping[str, Any]:
    """Return what asking again under another bundle came to."""
    return {
        "bundle": bundle.hash,
        "asked": outcome.asked,
        "changed": len(outcome.changes),
        "unreadable": len(outcome.unreadable),
        "changes": [_change(change) for change in outcome.changes],
    }


def _change(change: Change) -> Mapping[str, Any]:
    record = change.record
    return {
        "id": record.id,
        "at": record.at,
        "tenant": record.tenant,
        "action": record.action,
        "principal": record.principal,
        "resource": record.resource,
        "conversation_id": record.conversation_id,
        "was": {
            "decision": record.decision,
            "reasons": list(record.reasons),
            "errors": list(record.errors),
            "bundle": record.bundle,
        },
        "would_be": {
            "decision": change.decision,
            "reasons": list(change.reasons),
            "errors": list(change.errors),
        },
    }
