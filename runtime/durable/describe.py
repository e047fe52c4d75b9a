"""Runs as JSON: what the API and the command line show. Pure."""

from __future__ import annotations

from typing import Any

from admiralty.runtime.durable.values import Run


def run_json(run: Run, *, operator: bool = False) -> dict[str, Any]:
    """Return a run; for an ``operator`` also whose it is, and which processes had it."""
    attempts = [
        {name: one[name] for name in ("attempt", "at", "reason")}
        | ({"owner": one["owner"]} if operator else {})
        for one in run.attempts
    ]
    shown = {
        "id": run.id,
        "object": "run",
        "conversation_id": run.conversation_id,
        "turn": run.turn,
        "status": run.status,
        "message": run.message,
        "answer": run.answer,
        "user": run.request.get("user"),
        "attempt": run.attempt,
        "attempts": attempts,
        "error": None if run.error is None else dict(run.error),
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "seconds": seconds_of(run),
        "deadline": run.deadline,
    }
    return shown | ({"tenant": run.tenant, "fleet": run.fleet} if operator else {})


def seconds_of(run: Run) -> float | None:
    """Return how long a run took, from its message to its end, once it has ended."""
    return None if run.finished_at is None else round(run.finished_at - run.started_at, 4)
