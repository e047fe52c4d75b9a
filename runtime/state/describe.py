"""Shared state as JSON, for the API and the command line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from admiralty.core.state import StateChange, StateValue


def value_json(value: StateValue) -> dict[str, Any]:
    """Return a value with its version."""
    return {"object": "state.value", **asdict(value)}


def change_json(change: StateChange) -> dict[str, Any]:
    """Return a version with who wrote it."""
    return {"object": "state.change", **asdict(change)}
