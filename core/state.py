"""Values of shared state: what is kept under a name, what changed, and who did it.

They pass between processes, and pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from admiralty.core.values import Caller, Identity

NAMESPACE = "shared"
"""Where values lie that nobody has put elsewhere."""

Who = Caller | Identity
"""On whose behalf state is read or written: an agent in its run, or somebody with a key. Its tenant is the
only one whose state can be reached; nothing else names a tenant."""

Merge = Callable[[Any], Any]
"""Makes a value's next from its present one. It may run several times, so it does nothing besides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateValue:
    """A value as it was when it was read."""

    namespace: str
    key: str
    value: Any
    """JSON. A copy of the reader's own."""
    version: int
    """1 for the first; every write and every deletion adds 1, and no version is ever used again."""
    updated_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """Who wrote: an agent in its run, or a person or program with a key; empty is what does not apply."""

    fleet: str = ""
    agent: str = ""
    agent_version: str = ""
    conversation_id: str = ""
    run_id: str = ""
    user: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChange:
    """One version of a value, and who made it."""

    namespace: str
    key: str
    version: int
    value: Any
    """JSON; ``None`` where it was deleted."""
    deleted: bool
    at: float
    writer: Writer
    missed: int = 0
    """To a watcher: how many versions before this one are not kept any more, and were not told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """One value's part of a transaction."""

    namespace: str
    key: str
    value: Any = None
    """JSON."""
    expected: int | None = None
    """The version that was read; 0: there must be none; ``None``: whatever there is."""
    delete: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A value that a transaction has read and does not write: it must still have this version (0: none)."""

    namespace: str
    key: str
    expected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock that is held until its lease ends, unless it is renewed."""

    namespace: str
    key: str
    holder: str
    """Names this very acquisition."""
    fence: int
    """Grows with every acquisition of the lock: who comes with an older one is refused."""
    lease_until: float
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """That a tool call is done, to be written down with what it has done: both are kept, or neither."""

    conversation_id: str
    run_id: str
    fence: int
    call_id: str
    digest: str
    outcome: Mapping[str, Any]
    """What the call is answered with (JSON), also if it is made again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What a transaction has made."""

    versions: tuple[int, ...]
    """Of its writes, in their order; 0 where there was nothing to delete."""
    at: float
