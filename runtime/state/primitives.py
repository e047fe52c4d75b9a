"""What shared state asks of the process that has the database: few calls, all by value.

Everything else (updates, watching, waiting for locks) is made of these, in the process that wants it; so
it is the same beside the database and beyond a hop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from admiralty.core.errors import AdmiraltyError, InvalidRequest
from admiralty.core.state import Check, Committed, Completion, Lock, StateChange, StateValue, Who, Write

CALLS = frozenset(
    {
        "read",
        "find",
        "transact",
        "chain",
        "history",
        "positions",
        "changes",
        "try_acquire",
        "renew",
        "release",
    }
)
"""What may be called from another process."""


MAX_NAMES = 100
"""Names of values in one call: read at once, or of one transaction."""


class Primitives(Protocol):
    """The state of one database."""

    async def read(self, who: Who, names: Sequence[tuple[str, str]]) -> list[StateValue | None]:
        """Return values by ``(namespace, key)``."""
        ...

    async def find(self, who: Who, namespace: str, prefix: str, after: str, limit: int) -> list[StateValue]:
        """Return a namespace's values, by key."""
        ...

    async def transact(
        self,
        who: Who,
        writes: Sequence[Write],
        checks: Sequence[Check],
        locks: Sequence[Lock],
        completes: Completion | None,
    ) -> Committed:
        """Make all writes or none, and complete a tool call with them."""
        ...

    async def chain(self, writes: Sequence[tuple[Who, Write]]) -> list[Committed | AdmiraltyError]:
        """Make writes of one key, each from what the one before it has made; return errors as values."""
        ...

    async def history(
        self, who: Who, namespace: str, key: str, before: int | None, limit: int
    ) -> list[StateChange]:
        """Return versions of a value, latest first."""
        ...

    async def positions(self, who: Who, namespace: str, key: str | None, prefix: str) -> dict[str, int]:
        """Return the present version of one key, or of all that begin with ``prefix``; deletions count."""
        ...

    async def changes(
        self, who: Who, namespace: str, key: str | None, prefix: str, known: Mapping[str, int]
    ) -> list[StateChange]:
        """Return versions behind those that are ``known``, of each key in order; not necessarily all."""
        ...

    async def try_acquire(self, who: Who, namespace: str, key: str, holder: str, lease: float) -> Lock:
        """Take a lock if it is free. Raises Locked."""
        ...

    async def renew(self, who: Who, lock: Lock, lease: float) -> Lock:
        """Hold a lock longer. Raises LockLost."""
        ...

    async def release(self, who: Who, lock: Lock) -> None:
        """Give a lock back. Raises LockLost."""
        ...

    async def until_changed(self, who: Who, namespace: str, seconds: float) -> None:
        """Return when something in the namespace may have changed, after so many seconds at the latest."""
        ...


async def call_state(state: Primitives, name: str, arguments: Sequence[Any]) -> Any:
    """Answer a call of another process. Raises InvalidRequest for what is none of :data:`CALLS`."""
    if name not in CALLS:
        raise InvalidRequest(f"state: there is no call {name!r}.")
    return await getattr(state, name)(*arguments)
