"""Who may write for a run: only its latest execution, and only while it runs."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.errors import RunLost
from admiralty.runtime.storage.tables import runs

_OWN = sa.select(runs.c.id).where(
    runs.c.id == sa.bindparam("run"), runs.c.fence == sa.bindparam("at"), runs.c.status == "running"
)
_HELD = _OWN.with_for_update(read=True)


def check_fence(connection: Connection, run_id: str, fence: int) -> None:
    """Raise RunLost unless ``fence`` is the run's present execution; stays true until the transaction ends.

    A fence of 0 is of no run that is kept, and is not checked.
    """
    if fence == 0:
        return
    # On PostgreSQL the row is held, so that nobody takes the run over before this is committed.
    own = _HELD if connection.dialect.name == "postgresql" else _OWN
    if connection.execute(own, {"run": run_id, "at": fence}).first() is None:
        raise RunLost(f"Run {run_id} was taken over by another process; nothing was written.")
