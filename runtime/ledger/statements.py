"""The SQL of the ledger's hot path, for both dialects, run on the driver itself.

SQLAlchemy writes the statements, once; to run one through it costs more than SQLite takes to answer.
Values go in as drivers know them: JSON as text, lists as one value, so that the SQL stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from admiralty.runtime.ledger.rows import charges_json
from admiralty.runtime.ledger.values import Charge
from admiralty.runtime.ledger.windows import HELD
from admiralty.runtime.storage.tables import budgets, counters, holds, ledger, waiters

BUDGET = (
    "id", "scope", "name", "limit_nanos", "window", "seconds", "timezone", "hard", "thresholds", "webhook",
    "created_at", "updated_at", "archived_at",
)  # fmt: skip
"""Columns of budgets as they are read."""

AMOUNTS = ("spent", "held", "unproven")

_READ_COUNTERS = """
SELECT budget_id, subject, "window", spent, held, unproven FROM counters
WHERE (budget_id, subject, "window") IN
"""
_KEYS_SQLITE = """
(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
 FROM json_each(:keys))
"""
_KEYS_POSTGRESQL = """
(SELECT * FROM unnest(%(ids)s::text[], %(subjects)s::text[], %(windows)s::text[]))
"""

Row = tuple[Any, ...]


class Statements:
    """The statements, each with the way to run it."""

    def __init__(self, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite
        self._dialect: Any = SQLiteDialect_pysqlite(paramstyle="named") if is_sqlite else PGDialect_psycopg()  # type: ignore[no-untyped-call]
        among, insert, sql = self._among, (sqlite if is_sqlite else postgresql).insert, self._compiled
        named = sa.or_(
            sa.and_(among(budgets.c.scope, "scopes"), budgets.c.archived_at.is_(None)),
            among(budgets.c.id, "ids"),
        )
        found = sa.select(*(budgets.c[name] for name in BUDGET)).where(named).order_by(budgets.c.id)
        self.budgets = sql(found)
        self.lock_budgets = self.budgets if is_sqlite else sql(found.with_for_update(key_share=True))
        self.counters = _READ_COUNTERS + (_KEYS_SQLITE if is_sqlite else _KEYS_POSTGRESQL)
        self.spent_of_rolling = sql(
            sa.select(sa.func.coalesce(sa.func.sum(counters.c.spent), sa.literal_column("0"))).where(
                counters.c.budget_id == sa.bindparam("budget_id"),
                counters.c.subject == sa.bindparam("subject"),
                counters.c.window >= sa.bindparam("oldest"),
                counters.c.window != sa.literal_column(f"'{HELD}'"),
            )
        )
        added = insert(counters)
        self.add_to_counter = sql(
            added.on_conflict_do_update(
                index_elements=["budget_id", "subject", "window"],
                set_={
                    name: counters.c[name] + added.excluded[name] for name in ("spent", "held", "unproven")
                },
            ).returning(counters.c.spent)
        )
        ended = (holds.c.id, holds.c.amount, holds.c.unproven, holds.c.charges)
        mine = among(holds.c.id, "ids")
        self.charges_of = sql(sa.select(holds.c.id, holds.c.charges).where(mine))
        self.end_holds = sql(holds.delete().where(mine).returning(*ended))
        late = holds.c.expires_at < sa.bindparam("now")
        self.end_expired = sql(holds.delete().where(mine, late).returning(*ended))
        self.add_holds = sql(holds.insert())
        self.renew_holds = sql(holds.update().where(mine).values(expires_at=sa.bindparam("until")))
        self.add_entries = sql(insert(ledger).on_conflict_do_nothing(index_elements=["id"]))
        queue = waiters.c
        self.waiting = sql(
            sa.select(queue.budget_id, queue.subject, queue.hold_id, queue.priority, queue.since).where(
                among(queue.budget_id, "ids"), queue.expires_at > sa.bindparam("now")
            )
        )
        waits = insert(waiters)
        self.add_waiters = sql(
            waits.on_conflict_do_update(
                index_elements=["budget_id", "subject", "hold_id"],
                set_={"expires_at": waits.excluded.expires_at},
            )
        )
        gone = among(queue.hold_id, "ids")
        self.drop_waiters = sql(waiters.delete().where(gone))
        self.renew_waiters = sql(waiters.update().where(gone).values(expires_at=sa.bindparam("until")))

    # -- running ----------------------------------------------------------------------------------

    def run(self, connection: Connection, statement: str, given: Mapping[str, Any]) -> list[Row]:
        """Run a statement; return its rows, if it has any."""
        driver: Any = connection.connection.driver_connection
        try:
            cursor = driver.execute(statement, given)
            return list(cursor.fetchall()) if cursor.description else []
        except Exception as error:
            raise self._translated(connection, statement, error) from error

    def run_many(self, connection: Connection, statement: str, given: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement for each of many."""
        driver: Any = connection.connection.driver_connection
        try:
            driver.cursor().executemany(statement, given)
        except Exception as error:
            raise self._translated(connection, statement, error) from error

    def add_to_counters(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add to counters; return what is spent of each now."""
        driver: Any = connection.connection.driver_connection
        try:
            if self._is_sqlite:
                return [driver.execute(self.add_to_counter, row).fetchall()[0][0] for row in rows]
            cursor = driver.cursor()
            cursor.executemany(self.add_to_counter, rows, returning=True)
            spent = []
            for _ in rows:
                spent.append(cursor.fetchone()[0])
                cursor.nextset()
            return spent
        except Exception as error:
            raise self._translated(connection, self.add_to_counter, error) from error

    def _translated(self, connection: Connection, statement: str, error: Exception) -> Exception:
        """Return a driver's error as SQLAlchemy's, which the writer knows to handle."""
        base: Any = connection.dialect.dbapi and connection.dialect.dbapi.Error
        if base is None or not isinstance(error, base):
            return error
        lost = connection.dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
        if lost:
            connection.invalidate(error)
        translated: Exception = sa.exc.DBAPIError.instance(
            statement, None, error, base, connection_invalidated=lost, dialect=connection.dialect
        )
        return translated

    # -- values -----------------------------------------------------------------------------------

    def listed(self, values: Iterable[str]) -> Any:
        """Return a list as one parameter."""
        return json.dumps(list(values)) if self._is_sqlite else list(values)

    def keys(self, charges: Sequence[Charge]) -> dict[str, Any]:
        """Return the parameters of ``counters``."""
        if self._is_sqlite:
            return {"keys": json.dumps(charges_json(charges))}
        return {
            "ids": [charge.budget_id for charge in charges],
            "subjects": [charge.subject for charge in charges],
            "windows": [charge.window for charge in charges],
        }

    def _among(self, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        if self._is_sqlite:
            values = sa.func.json_each(sa.bindparam(name, type_=sa.String)).table_valued("value")
            return column.in_(sa.select(values.c.value))
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text)))

    def _compiled(self, statement: Any) -> str:
        return str(statement.compile(dialect=self._dialect))


def parsed(value: Any) -> Any:
    """Return a JSON column's value: PostgreSQL's driver has read it already."""
    return json.loads(value) if isinstance(value, str) else value
