"""The approvals of one database, as people see and decide them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict, InvalidRequest, NotFound
from admiralty.core.ports import Clock
from admiralty.core.values import Identity
from admiralty.runtime.approvals.rows import go_on, lock_run, plain
from admiralty.runtime.approvals.values import CLOCK, STATUSES, Approval, ApprovalStatus, read_approval
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import approvals

MAX_REASON = 4000
MAX_WHO = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Decider:
    """A person who looks at approvals and decides them: of one tenant, or whoever has the database itself.

    Whether they may decide is for the door to check.
    """

    tenant: str | None = None
    """``None``: all tenants'."""
    name: str = "operator"
    """How the decision names them."""

    @classmethod
    def of(cls, identity: Identity) -> Decider:
        """Return who holds a key. The end user beside it is what the request says."""
        named = f" ({identity.user})" if identity.user else ""
        return cls(tenant=identity.tenant, name=f"{identity.key_id or 'key'}{named}"[:MAX_WHO])


OPERATOR = Decider()


class ApprovalStore:
    """The approvals of one database. All access names the tenant: others' do not exist for it."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def get(self, approval_id: str, *, viewer: Decider = OPERATOR) -> Approval:
        """Return an approval. Raises NotFound."""
        return await self._database.read(lambda connection: _find(connection, approval_id, viewer))

    async def find(
        self,
        *,
        viewer: Decider = OPERATOR,
        status: ApprovalStatus | None = None,
        conversation: str | None = None,
        run: str | None = None,
        agent: str | None = None,
        tool: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> list[Approval]:
        """Return approvals, newest first; those behind ``after`` (an id), where one is given.

        Raises InvalidRequest for an ``after`` that is none of them.
        """
        table = approvals.c
        wanted = (
            (table.tenant, viewer.tenant),
            (table.status, status),
            (table.conversation_id, conversation),
            (table.run_id, run),
            (table.agent, agent),
            (table.tool, tool),
        )
        query = sa.select(approvals).where(
            *(column == value for column, value in wanted if value is not None)
        )
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit)

        def select(connection: Connection) -> list[Approval]:
            page = query
            if after is not None:
                page = query.where(sa.tuple_(table.created_at, table.id) < _place(connection, after, viewer))
            return [read_approval(row) for row in connection.execute(page).mappings()]

        return await self._database.read(select)

    async def counts(self, *, viewer: Decider = OPERATOR) -> dict[ApprovalStatus, int]:
        """Return how many approvals there are of each status."""

        def count(connection: Connection) -> dict[ApprovalStatus, int]:
            rows = connection.execute(_COUNT, {"tenant": viewer.tenant})
            found = {row.status: row.number for row in rows}
            return {status: found.get(status, 0) for status in STATUSES}

        return await self._database.read(count)

    async def decide(
        self,
        approval_id: str,
        verdict: Literal["approve", "reject"],
        *,
        arguments: Mapping[str, Any] | None = None,
        reason: str = "",
        by: Decider = OPERATOR,
    ) -> Approval:
        """Approve or reject a call, and let its run go on, both or neither.

        ``arguments`` stand for those that the agent wished. The same decision by the same person again is no
        second one. Raises InvalidRequest, NotFound, and Conflict for what cannot be decided any more.
        """
        status = _checked(verdict, arguments, reason)
        edited = None if arguments is None else plain(arguments)
        reason = reason.strip()

        def settle(connection: Connection) -> Approval:
            # Whoever takes the run's row decides; the approval is looked at again behind it.
            waits = lock_run(connection, _find(connection, approval_id, by))
            found = _find(connection, approval_id, by)
            if (found.status, found.edited, found.decided_by) == (status, edited, by.name):
                return found
            now = self._clock.now()
            _check_open(found, waits, now)
            decision: dict[str, Any] = {"status": status, "decided_at": now, "decided_by": by.name}
            decision |= {"decision_reason": reason, "edited": sa.null() if edited is None else edited}
            connection.execute(approvals.update().where(approvals.c.id == found.id).values(decision))
            decided = _find(connection, approval_id, by)
            go_on(connection, decided, now)
            return decided

        return await self._database.write(settle)


def _checked(verdict: str, arguments: Any, reason: str) -> ApprovalStatus:
    """Return the status that a verdict leads to. Raises InvalidRequest."""
    if verdict not in ("approve", "reject"):
        raise InvalidRequest(f"verdict = {verdict[:40]!r}: use approve or reject.", param="verdict")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InvalidRequest("arguments: give a JSON object, as the tool takes it.", param="arguments")
    if arguments is not None and verdict == "reject":
        raise InvalidRequest(
            "arguments: what is rejected is not made with other arguments. Approve it with them, or leave "
            "them out.",
            param="arguments",
        )
    if len(reason) > MAX_REASON:
        raise InvalidRequest(f"reason: at most {MAX_REASON} characters.", param="reason")
    return "approved" if verdict == "approve" else "rejected"


def _check_open(found: Approval, run_status: str | None, now: float) -> None:
    """Raise Conflict unless an approval can be decided."""
    told = {"approval_status": found.status, "approval_id": found.id}
    if found.status == "withdrawn":
        raise Conflict(
            f"Approval {found.id} was withdrawn: its run ended before anybody decided.",
            **told,
        )
    if not found.pending:
        raise Conflict(
            f"Approval {found.id} was {found.status} by {found.decided_by} at {_moment(found.decided_at)}. "
            "What is decided stays.",
            **told,
            decided_by=found.decided_by,
            decided_at=found.decided_at,
        )
    if found.expires_at <= now:
        holds = "approved" if found.default == "approve" else "rejected"
        raise Conflict(
            f"Approval {found.id} ran out at {_moment(found.expires_at)}: by its default it is {holds}.",
            **told | {"approval_status": "expired" if holds == "rejected" else "approved"},
            decided_by=CLOCK,
            decided_at=found.expires_at,
        )
    if run_status != "waiting":
        raise Conflict(
            f"Approval {found.id}: run {found.run_id} does not wait any more, it is {run_status or 'gone'}. "
            "Look at its conversation.",
            **told,
        )


def _moment(at: float | None) -> str:
    return (
        "an unknown time" if at is None else f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    )


def _find(connection: Connection, approval_id: str, viewer: Decider) -> Approval:
    named = {"approval": approval_id, "tenant": viewer.tenant}
    row = connection.execute(_ONE, named).mappings().first()
    if row is None:
        raise NotFound(f"There is no approval {approval_id[:50]!r}.")
    return read_approval(row)


def _place(connection: Connection, after: str, viewer: Decider) -> Any:
    try:
        found = _find(connection, after, viewer)
    except NotFound:
        raise InvalidRequest(f"after = {after[:50]!r}: there is no such approval.", param="after") from None
    return sa.tuple_(sa.literal(found.created_at), sa.literal(found.id))


# -- statements -----------------------------------------------------------------------------------

_TENANT = sa.bindparam("tenant", type_=sa.String)
_VISIBLE = sa.or_(_TENANT.is_(None), approvals.c.tenant == _TENANT)
_ONE = sa.select(approvals).where(approvals.c.id == sa.bindparam("approval"), _VISIBLE)
_COUNT = (
    sa.select(approvals.c.status, sa.func.count().label("number"))
    .where(_VISIBLE)
    .group_by(approvals.c.status)
)
