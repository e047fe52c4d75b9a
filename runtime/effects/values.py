"""An effect as it stands in its row, and what came of it as JSON. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from admiralty.core.values import Caller, Effect, EffectCall, EffectState
from admiralty.runtime.storage.tables import effects, storable

EffectStatus = Literal["begun", "finished", "unknown", "undone"]
"""``begun``: it runs, or its process is gone and nobody has looked yet. ``unknown``: an execution that came
later has found it begun. ``undone``: a person says that it was not carried out; it may run again."""

MAX_CALL_ID = 200

NOT_BEGUN: Mapping[str, Any] = {}
"""The outcome of a call that was granted but never made: its row goes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectRow:
    """A tool call, and what came of it. Times are seconds since the epoch."""

    conversation_id: str
    run_id: str
    call_id: str
    digest: str
    tenant: str
    agent: str
    agent_version: str
    tool: str
    effect: Effect
    arguments: Mapping[str, Any]
    status: EffectStatus
    outcome: Mapping[str, Any] | None
    """``status``, ``content``, ``ran``, ``seconds``; ``session`` and ``removed``: what it changed there."""
    resolved_by: str | None
    """``tool``, ``outbox``, ``reconcile``, or the person who said so."""
    fence: int
    """The execution that began it, or was told of it last."""
    begun_at: float
    finished_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """What the book says to a call that is about to be made."""

    state: EffectState
    outcome: Mapping[str, Any] | None = None
    call_id: str
    """Under which the call is in the book: another's, where an equal call of an earlier execution may have
    been this one."""
    begun_at: float = 0.0
    """Of an ``unknown`` one: when."""


def key_of(caller: Caller, call: EffectCall) -> dict[str, str]:
    """Return the parameters that name a call's row."""
    return {
        "conversation": caller.conversation_id,
        "run": caller.run_id,
        "call": storable_id(call.call_id),
        "of": call.digest,
    }


def storable_id(call_id: str) -> str:
    """Return an id as a row can keep it: models may write ids of any length."""
    if len(call_id) > MAX_CALL_ID:
        return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()
    return storable(call_id)


def row_of(caller: Caller, call: EffectCall, *, tool: str, effect: str, at: float) -> dict[str, Any]:
    """Return the row of a call that begins."""
    return {
        "conversation_id": caller.conversation_id,
        "run_id": caller.run_id,
        "call_id": storable_id(call.call_id),
        "digest": call.digest,
        "tenant": caller.identity.tenant,
        "agent": caller.agent,
        "agent_version": caller.agent_version,
        "tool": tool,
        "effect": effect,
        "arguments": plain(call.arguments),
        "status": "begun",
        "outcome": None,
        "resolved_by": None,
        "fence": caller.fence,
        "begun_at": at,
        "finished_at": None,
    }


def plain(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``value`` as every database's JSON takes it: infinities, NaN and what is no JSON become text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        finite: Mapping[str, Any] = json.loads(json.dumps(value, default=str), parse_constant=str)
        return finite
    return value


COLUMNS = tuple(effects.c[name] for name in EffectRow.__dataclass_fields__)
