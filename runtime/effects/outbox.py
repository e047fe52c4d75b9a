"""The effect of a tool that writes to the runtime's own database, completed in the tool's own transaction.

Plain SQL on whatever connection the tool has: the tool's process needs nothing else of the runtime.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from admiralty.core.errors import ConfigurationError, RunLost
from admiralty.core.ports import Clock
from admiralty.core.state import Completion
from admiralty.core.values import Caller, EffectCall
from admiralty.runtime.effects.values import key_of, plain

COMPLETE = """
UPDATE effects SET status = 'finished', outcome = ?, resolved_by = 'outbox', finished_at = ?
WHERE conversation_id = ? AND run_id = ? AND call_id = ? AND digest = ? AND status = 'begun' AND fence = ?
"""


class OutboxEffect:
    """One call's row, as its tool may complete it."""

    def __init__(
        self,
        caller: Caller,
        call: EffectCall,
        clock: Clock,
        outcome_of: Callable[[Any], Mapping[str, Any]],
    ) -> None:
        """``outcome_of`` makes of what the tool returns what is kept."""
        self._key = key_of(caller, call)
        self._fence = caller.fence
        self._clock = clock
        self._outcome_of = outcome_of

    def complete(self, connection: Any, result: Any) -> None:
        complete(connection, self.completion(result), self._clock.now())

    def completion(self, result: Any) -> Completion:
        return Completion(
            conversation_id=self._key["conversation"],
            run_id=self._key["run"],
            call_id=self._key["call"],
            digest=self._key["of"],
            fence=self._fence,
            outcome=plain(self._outcome_of(result)),
        )


def complete(connection: Any, done: Completion, now: float) -> None:
    """Write down in the connection's transaction that a call is done.

    Raises RunLost if it is another execution's by now, ConfigurationError for a connection that will not do.
    """
    where = (done.conversation_id, done.run_id, done.call_id, done.digest, done.fence)
    if _execute(connection, (json.dumps(done.outcome), now, *where)) != 1:
        raise RunLost(f"A call of run {done.run_id} is another execution's by now: roll back what it did.")


def _execute(connection: Any, values: tuple[Any, ...]) -> int:
    """Run the statement in the connection's transaction; return how many rows it changed."""
    if isinstance(connection, sa.Connection):
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            raise _commits_at_once(connection)
        postgresql = connection.dialect.name == "postgresql"
        return connection.exec_driver_sql(_PYFORMAT if postgresql else COMPLETE, values).rowcount
    if isinstance(connection, sqlite3.Connection):
        each = connection.isolation_level is None or getattr(connection, "autocommit", None) is True
        if each and not connection.in_transaction:
            raise _commits_at_once(connection)
        return connection.execute(COMPLETE, values).rowcount
    if type(connection).__module__.partition(".")[0] == "psycopg" and not _is_async(connection):
        if connection.autocommit and connection.info.transaction_status.name == "IDLE":
            raise _commits_at_once(connection)
        changed: int = connection.execute(_PYFORMAT, values).rowcount
        return changed
    raise ConfigurationError(
        f"ctx.effect.complete was given a {type(connection).__name__}. Give a SQLAlchemy Connection (of a "
        "session: session.connection()), a sqlite3 or a psycopg connection; of an asynchronous one of "
        "SQLAlchemy, await connection.run_sync(lambda sync: ctx.effect.complete(sync, result))."
    )


def _is_async(connection: Any) -> bool:
    return type(connection).__name__.startswith("Async")


def _commits_at_once(connection: Any) -> ConfigurationError:
    return ConfigurationError(
        f"ctx.effect.complete was given a {type(connection).__name__} that commits each statement by itself. "
        "Begin a transaction, write, complete, then commit: so that both are there, or neither."
    )


_PYFORMAT = COMPLETE.replace("?", "%s")
