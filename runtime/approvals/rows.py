"""Approvals within a transaction of somebody else's: asked for, decided by the clock, withdrawn, read.

A conversation's row is locked before those of its runs, and these before their approvals': two orders would
be a deadlock. Knows nothing of who may decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.core.ids import new_id
from admiralty.core.values import ApprovalRequest, ApprovalVerdict
from admiralty.runtime.approvals.describe import approval_event
from admiralty.runtime.approvals.values import CLOCK, DECIDED, Approval, read_approval
from admiralty.runtime.storage.events import append_events
from admiralty.runtime.storage.tables import approvals, conversations, runs

MAX_SECONDS = 10 * 366 * 86_400.0
"""Longest wait for a person: any longer one is taken for this."""

SWEEP = 50
"""Approvals that one transaction ends by the clock: writes that wait behind it wait no longer."""


def insert_approval(
    connection: Connection,
    *,
    tenant: str,
    fleet: str,
    conversation_id: str,
    run_id: str,
    user: str | None,
    request: ApprovalRequest,
    now: float,
    default_seconds: float,
) -> Approval:
    """Write down that a run waits for a person, in the transaction that sets it to ``waiting``.

    Returns the approval of this very call that is there, where there is one. It need not be pending: a run
    must not be set to wait for what is decided. One that was withdrawn is asked for anew.
    """
    row = {
        "id": new_id("appr"),
        "tenant": tenant,
        "fleet": fleet,
        "conversation_id": conversation_id,
        "run_id": run_id,
        "call_id": request.call_id,
        "digest": request.digest,
        "kind": request.kind,
        "agent": request.agent,
        "agent_version": request.agent_version,
        "user": user,
        "tool": request.tool,
        "arguments": plain(request.arguments),
        "reason": request.reason,
        "status": "pending",
        "default": "approve" if request.default == "approve" else "reject",
        "created_at": now,
        "expires_at": now + _seconds(request.expires_seconds, default_seconds),
    }
    made = connection.execute(_ASK[connection.dialect.name], row).mappings().first()
    if made is None:
        named = {"run": run_id, "call": request.call_id, "digest_": request.digest}
        made = connection.execute(_SAME, named).mappings().one()
    return read_approval(made)


def verdicts(connection: Connection, run_id: str) -> dict[str, ApprovalVerdict]:
    """Return what persons, or the clock, decided for a run, by :func:`effect_key`."""
    found = [read_approval(row) for row in connection.execute(_DECIDED, {"run": run_id}).mappings()]
    return {one.key: one.verdict for one in found if one.verdict is not None}


def withdraw(connection: Connection, run_id: str, now: float) -> int:
    """Take back what a run still asks for, in the transaction that ends the run; return how many it was."""
    return connection.execute(_WITHDRAW, {"run": run_id, "now": now}).rowcount


def expire(connection: Connection, now: float) -> list[str]:
    """End up to ``SWEEP`` approvals whose time is over by their defaults; return the runs that go on.

    Those are queued in the same transaction. A conversation that another process changes right now is left
    for the next time.
    """
    due = connection.execute(_DUE, {"now": now, "most": SWEEP}).all()
    going_on = []
    for approval_id, conversation_id in due:
        if connection.execute(_FREE, {"conversation": conversation_id}).first() is None:
            continue
        # Asked again under the lock: somebody may have decided meanwhile.
        row = connection.execute(_EXPIRE, {"approval": approval_id, "now": now}).mappings().first()
        if row is not None and go_on(connection, read_approval(row), now):
            going_on.append(row["run_id"])
    return going_on


def lock_run(connection: Connection, approval: Approval) -> str | None:
    """Let nobody else change an approval's run until this transaction ends; return the run's status."""
    connection.execute(_LOCK, {"conversation": approval.conversation_id})
    status: str | None = connection.execute(_RUN, {"run": approval.run_id}).scalar()
    return status


def go_on(connection: Connection, approval: Approval, now: float) -> bool:
    """Queue the run that waited for what is decided now, and tell so; return whether it did wait."""
    waited = connection.execute(_QUEUE, {"run": approval.run_id, "now": now}).rowcount
    if waited:
        told = [approval_event(approval)]
        append_events(connection, approval.conversation_id, approval.run_id, told, now)
    return bool(waited)


def plain(value: Any) -> Any:
    """Return JSON without what PostgreSQL's JSON does not know: numbers that are none become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _seconds(wished: float | None, default: float) -> float:
    """Return how long to wait: what is no length of time counts as not given."""
    if wished is None or not wished > 0:
        return min(default, MAX_SECONDS)
    return min(wished, MAX_SECONDS)


# -- statements -----------------------------------------------------------------------------------

_NOW = sa.bindparam("now", type_=sa.Float)
_OF_RUN = approvals.c.run_id == sa.bindparam("run")


def _ask(dialect: Any) -> Any:
    asked = dialect.insert(approvals)
    anew = {name: asked.excluded[name] for name in ("status", "created_at", "expires_at")}
    anew |= dict.fromkeys(("decided_at", "decided_by", "decision_reason", "edited"), sa.null())
    return asked.on_conflict_do_update(
        index_elements=["run_id", "call_id", "digest"], set_=anew, where=approvals.c.status == "withdrawn"
    ).returning(approvals)


_ASK = {"sqlite": _ask(sqlite), "postgresql": _ask(postgresql)}
_SAME = sa.select(approvals).where(
    _OF_RUN, approvals.c.call_id == sa.bindparam("call"), approvals.c.digest == sa.bindparam("digest_")
)
_DECIDED = sa.select(approvals).where(_OF_RUN, approvals.c.status.in_(DECIDED))
_WITHDRAW = (
    approvals.update()
    .where(_OF_RUN, approvals.c.status == "pending")
    .values(status="withdrawn", decided_at=_NOW)
)
_DUE = (
    sa.select(approvals.c.id, approvals.c.conversation_id)
    .where(approvals.c.status == "pending", approvals.c.expires_at <= _NOW)
    .order_by(approvals.c.expires_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_CONVERSATION = sa.select(conversations.c.id).where(conversations.c.id == sa.bindparam("conversation"))
_LOCK = _CONVERSATION.with_for_update()
_FREE = _CONVERSATION.with_for_update(skip_locked=True)
_RUN = sa.select(runs.c.status).where(runs.c.id == sa.bindparam("run")).with_for_update()
_EXPIRE = (
    approvals.update()
    .where(approvals.c.id == sa.bindparam("approval"), approvals.c.status == "pending")
    .where(approvals.c.expires_at <= _NOW)
    .values(
        status=sa.case((approvals.c.default == "approve", "approved"), else_="expired"),
        decided_at=_NOW,
        decided_by=CLOCK,
        decision_reason="Nobody decided in time.",
    )
    .returning(approvals)
)
_QUEUE = (
    runs.update()
    .where(runs.c.id == sa.bindparam("run"), runs.c.status == "waiting")
    .values(status="queued", available_at=_NOW)
)
