"""What is kept of a tool call's outcome, and how it is told again. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any, get_args

from admiralty.tools import ToolOutcome
from admiralty.tools.executor import Status

_STATUSES: frozenset[str] = frozenset(get_args(Status))


def snapshot(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy to compare with later."""
    return copy.deepcopy(dict(session))


def record(outcome: ToolOutcome, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of ``outcome`` (JSON), with what the call changed in the session."""
    kept: dict[str, Any] = {
        "status": outcome.status,
        "content": outcome.content,
        "ran": outcome.ran,
        "seconds": round(outcome.seconds, 4),
        "session": {
            key: copy.deepcopy(value)
            for key, value in after.items()
            if key not in before or before[key] != value
        },
    }
    if removed := [key for key in before if key not in after]:
        kept["removed"] = removed
    return kept


def restore(kept: Mapping[str, Any], session: MutableMapping[str, Any]) -> ToolOutcome:
    """Return the outcome again, and do to ``session`` what the call had done. It costs nothing more."""
    session.update(copy.deepcopy(dict(kept.get("session") or {})))
    for key in kept.get("removed") or ():
        session.pop(key, None)
    status = kept.get("status")
    return ToolOutcome(
        status=status if status in _STATUSES else "error",
        content=str(kept.get("content", "")),
        seconds=float(kept.get("seconds") or 0.0),
        ran=bool(kept.get("ran")),
    )
