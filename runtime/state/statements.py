"""The SQL of shared state, for both databases, run without SQLAlchemy's expressions: they cost as much
again.

Rows are locked in one order, that of their names' bytes: so no two processes wait for each other in a circle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from admiralty.runtime.state.names import Slot

_AMONG_SQLITE = """(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
 json_extract(value, '$[2]') FROM json_each(:slots))"""
_AMONG_POSTGRESQL = """(SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:namespaces AS text[]),
 CAST(:keys AS text[])))"""

_VALUES = """SELECT tenant, namespace, key, version, deleted FROM state_values
WHERE (tenant, namespace, key) IN {among}{locked}"""
_LOCKS = """SELECT tenant, namespace, key, holder, fence, lease_until FROM state_locks
WHERE (tenant, namespace, key) IN {among}{locked}"""
_LOCKED = """ ORDER BY tenant COLLATE "C", namespace COLLATE "C", key COLLATE "C" FOR UPDATE"""

# PostgreSQL locks no row that is not there: such a row is made first, as of a name never written.
_ADD_VALUES = """INSERT INTO state_values (tenant, namespace, key, version, deleted, updated_at)
SELECT t, n, k, 0, true, 0 FROM unnest(CAST(:tenants AS text[]), CAST(:namespaces AS text[]),
 CAST(:keys AS text[])) AS given (t, n, k)
ORDER BY t COLLATE "C", n COLLATE "C", k COLLATE "C" ON CONFLICT DO NOTHING"""
_ADD_LOCKS = """INSERT INTO state_locks (tenant, namespace, key, holder, fence, lease_until)
SELECT t, n, k, '', 0, 0 FROM unnest(CAST(:tenants AS text[]), CAST(:namespaces AS text[]),
 CAST(:keys AS text[])) AS given (t, n, k)
ORDER BY t COLLATE "C", n COLLATE "C", k COLLATE "C" ON CONFLICT DO NOTHING"""

_PUT_VALUE = """INSERT INTO state_values (tenant, namespace, key, version, value, deleted, updated_at)
VALUES (:tenant, :namespace, :key, :version, :value, :deleted, :at)
ON CONFLICT (tenant, namespace, key) DO UPDATE SET version = excluded.version, value = excluded.value,
 deleted = excluded.deleted, updated_at = excluded.updated_at"""
_PUT_LOCK = """INSERT INTO state_locks (tenant, namespace, key, holder, fence, lease_until)
VALUES (:tenant, :namespace, :key, :holder, :fence, :lease_until)
ON CONFLICT (tenant, namespace, key) DO UPDATE SET holder = excluded.holder, fence = excluded.fence,
 lease_until = excluded.lease_until"""
_ADD_HISTORY = """INSERT INTO state_history (tenant, namespace, key, version, value, deleted, at,
 fleet, agent, agent_version, conversation_id, run_id, "user", key_id)
VALUES (:tenant, :namespace, :key, :version, :value, :deleted, :at,
 :fleet, :agent, :agent_version, :conversation_id, :run_id, :user, :key_id)"""
_PRUNE = """DELETE FROM state_history
WHERE tenant = :tenant AND namespace = :namespace AND key = :key AND version < :oldest"""

_READ = """SELECT namespace, key, CAST(value AS text), version, updated_at FROM state_values
WHERE (tenant, namespace, key) IN {among} AND NOT deleted"""
_FIND = """SELECT namespace, key, CAST(value AS text), version, updated_at FROM state_values
WHERE tenant = :tenant AND namespace = :namespace AND NOT deleted
 AND substr(key, 1, length(:prefix)) = :prefix AND key{bytes} > :after
ORDER BY key{bytes} LIMIT :limit"""
_HISTORY = """SELECT namespace, key, version, CAST(value AS text), deleted, at,
 fleet, agent, agent_version, conversation_id, run_id, "user", key_id FROM state_history
WHERE tenant = :tenant AND namespace = :namespace AND key = :key
 AND version > :after AND version < :before ORDER BY version {order} LIMIT :limit"""
_POSITION = """SELECT key, version FROM state_values
WHERE tenant = :tenant AND namespace = :namespace AND key = :key"""
_VERSIONS = """SELECT tenant, namespace, key, version FROM state_values
WHERE (tenant, namespace, key) IN {among}"""
_POSITIONS = """SELECT key, version FROM state_values
WHERE tenant = :tenant AND namespace = :namespace AND substr(key, 1, length(:prefix)) = :prefix"""

Row = Sequence[Any]
BIGGEST = 2**31 - 1
"""Above every version."""


class Statements:
    """The statements of one of the databases."""

    def __init__(self, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite
        among = _AMONG_SQLITE if is_sqlite else _AMONG_POSTGRESQL
        locked = "" if is_sqlite else _LOCKED
        bytewise = "" if is_sqlite else ' COLLATE "C"'
        self.values = self._own(_VALUES.format(among=among, locked=locked))
        self.locks = self._own(_LOCKS.format(among=among, locked=locked))
        self.add_values, self.add_locks = self._own(_ADD_VALUES), self._own(_ADD_LOCKS)
        self.put_value, self.put_lock = self._own(_PUT_VALUE), self._own(_PUT_LOCK)
        self.add_history, self.prune = self._own(_ADD_HISTORY), self._own(_PRUNE)
        self.read = self._own(_READ.format(among=among))
        self.find = self._own(_FIND.format(bytes=bytewise))
        self.history = self._own(_HISTORY.format(order="DESC"))
        self.changes = self._own(_HISTORY.format(order="ASC"))
        self.versions = self._own(_VERSIONS.format(among=among))
        self.position, self.positions = self._own(_POSITION), self._own(_POSITIONS)

    def run(self, connection: Connection, statement: str, given: Mapping[str, Any]) -> Sequence[Row]:
        """Run a statement; return its rows."""
        return connection.exec_driver_sql(statement, dict(given)).fetchall()

    def run_many(self, connection: Connection, statement: str, given: Sequence[dict[str, Any]]) -> None:
        """Run a statement that returns nothing, for each of many."""
        if given:
            connection.exec_driver_sql(statement, given[0] if len(given) == 1 else list(given))

    def make_rows(self, connection: Connection, statement: str, slots: Iterable[Slot]) -> None:
        """Make rows that are to be locked, where that takes a row."""
        found = list(slots)
        if found and not self._is_sqlite:
            self.run_many(connection, statement, [self.slots(found)])

    def slots(self, slots: Iterable[Slot]) -> dict[str, Any]:
        """Return names as the parameters of a statement that takes many."""
        if self._is_sqlite:
            return {"slots": json.dumps(list(slots))}
        tenants, namespaces, keys = zip(*slots, strict=True)
        return {"tenants": list(tenants), "namespaces": list(namespaces), "keys": list(keys)}

    def _own(self, statement: str) -> str:
        """Return a statement with parameters as the database's driver wants them."""
        return statement if self._is_sqlite else re.sub(r":(\w+)", r"%(\1)s", statement)
