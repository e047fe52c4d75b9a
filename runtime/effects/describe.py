"""Effects as JSON: what the API and the command line show. Pure."""

from __future__ import annotations

from typing import Any

from admiralty.runtime.effects.values import EffectRow


def effect_json(row: EffectRow) -> dict[str, Any]:
    """Return a tool call and what came of it."""
    return {
        "object": "effect",
        "run_id": row.run_id,
        "call_id": row.call_id,
        "digest": row.digest,
        "agent": row.agent,
        "agent_version": row.agent_version,
        "tool": row.tool,
        "effect": row.effect,
        "arguments": dict(row.arguments),
        "status": row.status,
        "result": (row.outcome or {}).get("content"),
        "resolved_by": row.resolved_by,
        "begun_at": row.begun_at,
        "finished_at": row.finished_at,
    }
