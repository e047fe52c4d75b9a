"""What a conversation has asked and spent so far, for policies that read it."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.values import Caller
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import ledger


class ConversationFacts:
    """Adds up a conversation's entries in the ledger: all processes' calls that have ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, caller: Caller) -> Mapping[str, int]:
        """Return ``calls`` and ``spent_nanos``. Calls under way, and what is held for them, do not count."""
        is_call = sa.case((ledger.c.kind == "model", 1), else_=0)
        query = sa.select(
            sa.func.coalesce(sa.func.sum(is_call), 0),
            sa.func.coalesce(sa.func.sum(ledger.c.cost_nanos), 0),
        ).where(
            ledger.c.conversation_id == caller.conversation_id,
            ledger.c.tenant == caller.identity.tenant,
        )

        def select(connection: Connection) -> Mapping[str, int]:
            calls, spent = connection.execute(query).one()
            return {"calls": int(calls), "spent_nanos": int(spent)}

        return await self._database.read(select)
