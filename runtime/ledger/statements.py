"""The SQL statements of the ledger's hot path, for both dialects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from admiralty.runtime.ledger.rows import charges_json
from admiralty.runtime.ledger.values import Charge
from admiralty.runtime.ledger.windows import HELD
from admiralty.runtime.storage.tables import budgets, counters, holds, ledger, waiters

_READ_COUNTERS = """
SELECT budget_id, subject, "window", spent, held, unproven FROM counters
WHERE (budget_id, subject, "window") IN
"""
_KEYS_SQLITE = """
(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
 FROM json_each(:keys))
"""
_KEYS_POSTGRESQL = """
(SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:windows AS text[])))
"""


class Statements:
    """The statements, built once for a dialect. Lists go in as one value, so that the SQL stays the same."""

    def __init__(self, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite
        among, insert = self._among, (sqlite if is_sqlite else postgresql).insert
        lock = (
            sa.select(budgets)
            .where(
                sa.or_(
                    sa.and_(among(budgets.c.scope, "scopes"), budgets.c.archived_at.is_(None)),
                    among(budgets.c.id, "ids"),
                )
            )
            .order_by(budgets.c.id)
        )
        self.lock = lock if is_sqlite else lock.with_for_update(key_share=True)
        self.read_counters = sa.text(_READ_COUNTERS + (_KEYS_SQLITE if is_sqlite else _KEYS_POSTGRESQL))
        self.spent_of_rolling = sa.select(sa.func.coalesce(sa.func.sum(counters.c.spent), 0)).where(
            counters.c.budget_id == sa.bindparam("budget_id"),
            counters.c.subject == sa.bindparam("subject"),
            counters.c.window >= sa.bindparam("oldest"),
            counters.c.window != HELD,
        )
        added = insert(counters)
        self.add_to_counters = added.on_conflict_do_update(
            index_elements=["budget_id", "subject", "window"],
            set_={name: counters.c[name] + added.excluded[name] for name in ("spent", "held", "unproven")},
        )
        ended = (holds.c.id, holds.c.amount, holds.c.unproven, holds.c.charges)
        self.charges_of = sa.select(holds.c.id, holds.c.charges).where(among(holds.c.id, "ids"))
        self.end_holds = holds.delete().where(among(holds.c.id, "ids")).returning(*ended)
        self.end_expired = (
            holds.delete()
            .where(among(holds.c.id, "ids"), holds.c.expires_at < sa.bindparam("now"))
            .returning(*ended)
        )
        self.add_holds = holds.insert()
        self.renew_holds = (
            holds.update().where(among(holds.c.id, "ids")).values(expires_at=sa.bindparam("until"))
        )
        self.present = sa.select(ledger).where(among(ledger.c.id, "ids"))
        self.add_entries = insert(ledger).on_conflict_do_nothing(index_elements=["id"])
        self.waiting = sa.select(
            waiters.c.budget_id, waiters.c.subject, waiters.c.hold_id, waiters.c.priority, waiters.c.since
        ).where(among(waiters.c.budget_id, "ids"), waiters.c.expires_at > sa.bindparam("now"))
        waiting = insert(waiters)
        self.add_waiters = waiting.on_conflict_do_update(
            index_elements=["budget_id", "subject", "hold_id"],
            set_={"expires_at": waiting.excluded.expires_at},
        )
        self.drop_waiters = waiters.delete().where(among(waiters.c.hold_id, "ids"))
        self.renew_waiters = (
            waiters.update().where(among(waiters.c.hold_id, "ids")).values(expires_at=sa.bindparam("until"))
        )

    def _among(self, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        if self._is_sqlite:
            values = sa.func.json_each(sa.bindparam(name, type_=sa.String)).table_valued("value")
            return column.in_(sa.select(values.c.value))
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text)))

    def listed(self, values: Sequence[str]) -> Any:
        """Return a list as a parameter."""
        return json.dumps(list(values)) if self._is_sqlite else list(values)

    def keys(self, charges: Sequence[Charge]) -> dict[str, Any]:
        """Return the parameters of ``read_counters``."""
        if self._is_sqlite:
            return {"keys": json.dumps(charges_json(charges))}
        return {
            "ids": [charge.budget_id for charge in charges],
            "subjects": [charge.subject for charge in charges],
            "windows": [charge.window for charge in charges],
        }
