"""The book of effects: a tool call that may change the world is written down before it runs, and once it has.

It says to each call whether it is new, was made before, or may have been made. Every write that makes a call
possible checks the run's fence in its own transaction; what came of a call is a fact, and is taken from
whoever made it as long as nobody has begun the call anew. Knows nothing of tools, policies and money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection

from admiralty.core.errors import Conflict, NotFound
from admiralty.core.ports import Clock
from admiralty.core.values import Access, Caller, EffectCall
from admiralty.runtime.durable.steps import insert_steps
from admiralty.runtime.effects import statements as sql
from admiralty.runtime.effects.values import Begun, EffectRow, key_of, plain, row_of, storable_id
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.fences import check_fence

SAID_DONE = "It was done, says a person who has looked."
"""What the model reads of a call that a person has resolved without words."""


class EffectBook:
    """The effects of one database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # -- for the scheduler -------------------------------------------------------------------------

    async def begin(self, access: Access) -> Begun:
        """Write down that a call begins, unless it has begun already; and the replies of its run before it.

        ``begun``: it is new. ``finished``: with its outcome, which is told once to this execution.
        ``unknown``: an earlier execution began it, or this one has it in hand. Raises RunLost.
        """
        caller, call, now = access.caller, _call(access), self._clock.now()
        row = row_of(
            caller, call, tool=access.resource, effect=str(access.attributes.get("effect", "write")), at=now
        )

        def begin(connection: Connection) -> Begun:
            _enter(connection, caller, call, now)
            # Of a first execution there is nothing earlier: the row itself tells whether it is new.
            met = None if caller.fence <= 1 else _meet(connection, caller, call, now, begins=True)
            if met is not None:
                return met
            if connection.execute(sql.INSERT[connection.dialect.name], row).first() is not None:
                return Begun(state="begun", call_id=call.call_id)
            met = _meet(connection, caller, call, now, begins=True)
            # The row that was in the way may be gone by now, if money was refused to it.
            return met or Begun(state="unknown", call_id=call.call_id)

        return await self._database.write(begin)

    async def recall(self, access: Access) -> Begun | None:
        """Return what earlier executions have left of a call; ``None`` if it is still to be made.

        As :meth:`begin`, but nothing begins. Raises RunLost.
        """
        caller, call, now = access.caller, _call(access), self._clock.now()

        def recall(connection: Connection) -> Begun | None:
            _enter(connection, caller, call, now)
            return _meet(connection, caller, call, now, begins=False)

        return await self._database.write(recall)

    async def finish(self, access: Access, outcome: Mapping[str, Any], *, by: str) -> bool:
        """Keep what came of a call. Idempotent: the first word stands. Return whether it was this one."""
        named = _named(access) | {"came_of_it": plain(outcome), "by": by, "now": self._clock.now()}
        return await self._database.write(lambda c: c.execute(sql.FINISH, named).rowcount > 0)

    async def doubt(self, access: Access) -> None:
        """Note that nobody knows what came of a call."""
        named = _named(access)
        await self._database.write(lambda c: c.execute(sql.DOUBT, named).rowcount)

    async def forget(self, access: Access, *, status: Literal["begun", "unknown"] = "begun") -> None:
        """Drop the row of a call that was not made, and of which that is certain.

        ``begun``: by this execution; ``unknown``: by an earlier one.
        """
        statement = sql.FORGET if status == "begun" else sql.FORGET_UNKNOWN
        named = _named(access)
        await self._database.write(lambda c: c.execute(statement, named).rowcount)

    # -- for people --------------------------------------------------------------------------------

    async def resolve(
        self,
        run_id: str,
        call_id: str,
        *,
        done: bool,
        by: str,
        result: str | None = None,
        tenant: str | None = None,
        digest: str | None = None,
    ) -> EffectRow:
        """Say of an unknown call that it was carried out, with what the model is to read; or was not.

        Then the run can be retried: it takes the result, or makes the call. ``digest`` tells calls apart
        that have one id. Raises NotFound, also for a call of another tenant than ``tenant``; Conflict if
        what came of it is known, or its run is being executed.
        """
        named, now = {"run": run_id, "call": storable_id(call_id)}, self._clock.now()

        def resolve(connection: Connection) -> EffectRow:
            # First, so that nobody begins to execute the run meanwhile.
            status = connection.execute(sql.RUN_STATUS, {"run": run_id}).scalar()
            row = _unresolved(_rows(connection, sql.OF_CALL, named, tenant), run_id, call_id, digest)
            if status == "running":
                raise Conflict(f"Run {run_id} is being executed; wait until it has ended or is parked.")
            came = {
                "status": "ok",
                "content": result or SAID_DONE,
                "ran": True,
                "seconds": 0.0,
                "session": {},
            }
            values = {
                "conversation": row.conversation_id,
                "of": row.digest,
                "becomes": "finished" if done else "undone",
                "came_of_it": came if done else None,
                "by": by,
                "now": now,
            }
            connection.execute(sql.RESOLVE, named | values)
            [resolved] = _rows(connection, sql.OF_CALL, named, tenant, digest=row.digest)
            return resolved

        return await self._database.write(resolve)

    async def of_run(self, run_id: str, *, tenant: str | None = None) -> list[EffectRow]:
        """Return a run's effects in order; none for another tenant's."""
        return await self._database.read(lambda c: _rows(c, sql.OF_RUN, {"run": run_id}, tenant))

    async def of_conversation(self, conversation_id: str, *, tenant: str | None = None) -> list[EffectRow]:
        """Return a conversation's effects in order; none for another tenant's."""
        named = {"conversation": conversation_id}
        return await self._database.read(lambda c: _rows(c, sql.OF_CONVERSATION, named, tenant))

    async def unknown(self, *, tenant: str | None = None, limit: int = 100) -> list[EffectRow]:
        """Return the latest effects of which nobody knows what came, of a tenant or of all.

        What a run is just executing is none of them.
        """
        query = (sql.UNKNOWN if tenant is None else sql.UNKNOWN_OF).limit(limit)
        return await self._database.read(lambda c: _rows(c, query, {"of_tenant": tenant}, tenant))


def _call(access: Access) -> EffectCall:
    if access.effect is None:
        raise TypeError(f"access {access.id} has no effect")
    return access.effect


def _named(access: Access) -> dict[str, Any]:
    return {**key_of(access.caller, _call(access)), "at_fence": access.caller.fence}


def _enter(connection: Connection, caller: Caller, call: EffectCall, now: float) -> None:
    """Make sure that the run is the caller's, and keep its replies."""
    check_fence(connection, caller.run_id, caller.fence)
    if call.journal:
        insert_steps(connection, caller.run_id, call.journal, now)


def _meet(
    connection: Connection, caller: Caller, call: EffectCall, now: float, *, begins: bool
) -> Begun | None:
    """Return what is known of a call, and note that this execution has been told.

    ``begins``: what was not carried out begins anew.
    """
    named = {**key_of(caller, call), "at_fence": caller.fence}
    row = connection.execute(sql.FIND, named).first()
    if row is None:
        return _equal(connection, named, caller, call) if caller.fence > 1 else None
    if row.status == "finished":
        if row.fence < caller.fence:
            connection.execute(sql.MET, named)
        return Begun(state="finished", outcome=row.outcome, call_id=call.call_id)
    in_hand = row.status == "begun" and row.fence >= caller.fence
    if row.status == "undone" or (call.resolved == "not_done" and not in_hand):
        if not begins:
            return None
        connection.execute(sql.BEGIN_AGAIN, {**named, "now": now})
        return Begun(state="begun", call_id=call.call_id)
    if row.status == "begun" and not in_hand:
        connection.execute(sql.DOUBT_OLDER, named)
    return Begun(state="unknown", call_id=call.call_id, begun_at=row.begun_at)


def _equal(
    connection: Connection, named: Mapping[str, Any], caller: Caller, call: EffectCall
) -> Begun | None:
    """Return what is known of an equal call that an earlier execution made under another id.

    Graphs may ask a model anew, and models name their calls anew. A finished call is told once to each
    execution: from then on it is known by its new id, which is the one that the conversation shows.
    """
    while (row := connection.execute(sql.EQUAL, {**named, "by_agent": caller.agent}).first()) is not None:
        theirs = {**named, "call": row.call_id}
        if row.status != "finished":
            # Under its old id, which is the one that the world knows it by.
            connection.execute(sql.DOUBT_OLDER, theirs)
            return Begun(state="unknown", call_id=row.call_id, begun_at=row.begun_at)
        taken = connection.execute(sql.TAKE, {**theirs, "as_call": named["call"]}).first()
        if taken is not None:
            return Begun(state="finished", outcome=taken.outcome, call_id=call.call_id)
    return None


def _rows(
    connection: Connection,
    query: Any,
    named: Mapping[str, Any],
    tenant: str | None,
    *,
    digest: str | None = None,
) -> list[EffectRow]:
    rows = [EffectRow(**row) for row in connection.execute(query, named).mappings()]
    return [
        row
        for row in rows
        if (tenant is None or row.tenant == tenant) and (digest is None or row.digest == digest)
    ]


def _unresolved(rows: Sequence[EffectRow], run_id: str, call_id: str, digest: str | None) -> EffectRow:
    rows = [row for row in rows if digest is None or row.digest == digest]
    if not rows:
        raise NotFound(f"There is no effect of call {call_id!r} in run {run_id!r}.")
    unresolved = [row for row in rows if row.status != "finished"]
    if not unresolved:
        by = rows[0].resolved_by
        raise Conflict(f"What came of call {call_id!r} is known already: {by} has said it.")
    if len(unresolved) > 1:
        digests = ", ".join(row.digest for row in unresolved)
        raise Conflict(f"Several calls have the id {call_id!r}: name one by its digest ({digests}).")
    return unresolved[0]
