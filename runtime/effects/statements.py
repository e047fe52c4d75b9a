"""The SQL of the effects, made once: making a statement costs as much as executing it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.runtime.effects.values import COLUMNS
from admiralty.runtime.storage.tables import effects, runs

OPEN = ("begun", "unknown")
"""Statuses of which nobody knows yet what came of it."""

_THIS = (
    effects.c.conversation_id == sa.bindparam("conversation"),
    effects.c.run_id == sa.bindparam("run"),
    effects.c.call_id == sa.bindparam("call"),
    effects.c.digest == sa.bindparam("of"),
)
_FENCE: sa.BindParameter[int] = sa.bindparam("at_fence")
_OUTCOME = sa.bindparam("came_of_it", type_=effects.c.outcome.type)
_FINISHED = {
    "status": "finished",
    "outcome": _OUTCOME,
    "resolved_by": sa.bindparam("by"),
    "finished_at": sa.bindparam("now"),
}
_BEGUN = {
    "status": "begun",
    "outcome": None,
    "resolved_by": None,
    "finished_at": None,
    "fence": _FENCE,
    "begun_at": sa.bindparam("now"),
}

INSERT = {
    "sqlite": sqlite.insert(effects).on_conflict_do_nothing().returning(effects.c.status),
    "postgresql": postgresql.insert(effects).on_conflict_do_nothing().returning(effects.c.status),
}
# FOR UPDATE, so that two that meet the same row do so one after the other; SQLite leaves it out.
FIND = (
    sa.select(effects.c.status, effects.c.outcome, effects.c.fence, effects.c.begun_at)
    .where(*_THIS)
    .with_for_update()
)

# An equal call that an earlier execution made under another id. Only the same agent's: another may well
# want the same done once more.
EQUAL = (
    sa.select(effects.c.call_id, effects.c.status, effects.c.begun_at)
    .where(
        effects.c.conversation_id == sa.bindparam("conversation"),
        effects.c.run_id == sa.bindparam("run"),
        effects.c.digest == sa.bindparam("of"),
        effects.c.agent == sa.bindparam("by_agent"),
        effects.c.effect != "read",
        effects.c.status.in_(("finished", *OPEN)),
        effects.c.fence < _FENCE,
    )
    .order_by(effects.c.begun_at, effects.c.call_id)
    .limit(1)
)
TAKE = (
    effects.update()
    .where(*_THIS, effects.c.status == "finished", effects.c.fence < _FENCE)
    .values(call_id=sa.bindparam("as_call"), fence=_FENCE)
    .returning(effects.c.outcome)
)
MET = effects.update().where(*_THIS).values(fence=_FENCE)
DOUBT_OLDER = effects.update().where(*_THIS, effects.c.status == "begun").values(status="unknown")
BEGIN_AGAIN = effects.update().where(*_THIS).values(**_BEGUN)

# Whoever has run the tool says what came of it, though its run be another's by now: it is a fact, and what
# the later execution asks for. But not once that one has begun the call anew.
FINISH = (
    effects.update()
    .where(*_THIS, effects.c.status.in_(OPEN), effects.c.fence <= _FENCE)
    .values(**_FINISHED, fence=_FENCE)
)
DOUBT = (
    effects.update()
    .where(*_THIS, effects.c.status == "begun", effects.c.fence == _FENCE)
    .values(status="unknown")
)
FORGET = effects.delete().where(*_THIS, effects.c.status == "begun", effects.c.fence == _FENCE)
FORGET_UNKNOWN = effects.delete().where(*_THIS, effects.c.status == "unknown", effects.c.fence <= _FENCE)

ROWS = sa.select(*COLUMNS).order_by(effects.c.begun_at, effects.c.call_id, effects.c.digest)
OF_CALL = ROWS.where(effects.c.run_id == sa.bindparam("run"), effects.c.call_id == sa.bindparam("call"))
OF_RUN = ROWS.where(effects.c.run_id == sa.bindparam("run"))
OF_CONVERSATION = ROWS.where(effects.c.conversation_id == sa.bindparam("conversation"))
RUN_STATUS = sa.select(runs.c.status).where(runs.c.id == sa.bindparam("run")).with_for_update(read=True)
RESOLVE = effects.update().where(*_THIS).values(**(_FINISHED | {"status": sa.bindparam("becomes")}))

_IS_OPEN = "effects.status IN ('begun', 'unknown')"  # as the index on it is written
_LIVE = sa.select(runs.c.id).where(runs.c.id == effects.c.run_id, runs.c.status == "running")
UNKNOWN = (
    sa.select(*COLUMNS)
    .where(sa.text(_IS_OPEN), ~_LIVE.exists())
    .order_by(effects.c.begun_at.desc(), effects.c.call_id)
)
"""What people must look at: what runs just now is settled by its own process."""
UNKNOWN_OF = UNKNOWN.where(effects.c.tenant == sa.bindparam("of_tenant"))
