"""Shared state as pydantic models: what comes in, and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from admiralty.runtime.api.wire import Given, Shown

Version = Annotated[int, Field(ge=0, lt=2**31)]


class NewValue(Given):
    """A value to be written."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"value": {"open": ["W1", "W2"]}}}
    )

    value: Any
    """JSON, at most 1,000,000 bytes and 30 levels."""


class WriteOf(Given):
    """One value's part of a transaction."""

    model_config = ConfigDict(extra="forbid")

    namespace: str
    key: str
    value: Any = None
    """JSON; left out where it is deleted."""
    expected: Version | None = None
    """The version that you read; 0: there must be none; left out: whatever there is."""
    delete: bool = False


class CheckOf(Given):
    """A value that was read and is not written: it must still have this version, 0 for none."""

    model_config = ConfigDict(extra="forbid")

    namespace: str
    key: str
    expected: Version


_MOVE: dict[str, Any] = {
    "writes": [
        {"namespace": "shared", "key": "stock:teapot", "value": 4, "expected": 7},
        {"namespace": "shared", "key": "order:W1", "value": {"teapots": 1}, "expected": 0},
    ],
    "checks": [{"namespace": "shared", "key": "shop:open", "expected": 1}],
}


class NewTransaction(Given):
    """Writes that are all made or none; at most 100 with the checks."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _MOVE})

    writes: Annotated[list[WriteOf], Field(min_length=1, max_length=100)]
    checks: Annotated[list[CheckOf], Field(max_length=100, default_factory=list)]


class ValueInfo(Shown):
    """A value. Its version is the ETag too."""

    object: Literal["state.value"]
    namespace: str
    key: str
    value: Any
    version: int
    """Every write and every deletion adds 1; none is ever used again."""
    updated_at: float
    """Seconds since the epoch."""


class ValueList(Shown):
    """Values of a namespace, by key."""

    object: Literal["list"]
    data: list[ValueInfo]
    has_more: bool
    """Whether there are more: ask with ``after`` = the last key."""


class VersionInfo(Shown):
    """What a write has made."""

    object: Literal["state.version"] = "state.version"
    namespace: str
    key: str
    version: int
    updated_at: float


class VersionList(Shown):
    """What a transaction's writes have made, in their order."""

    object: Literal["list"] = "list"
    data: list[VersionInfo]
    """Version 0: there was nothing to delete."""


class WriterInfo(Shown):
    """Who wrote: an agent in its run, or somebody with a key; empty or ``null`` is what does not apply."""

    fleet: str
    agent: str
    agent_version: str
    conversation_id: str
    run_id: str
    user: str | None
    key_id: str | None


class ChangeInfo(Shown):
    """One version of a value."""

    object: Literal["state.change"]
    namespace: str
    key: str
    version: int
    value: Any
    """``null`` where it was deleted."""
    deleted: bool
    at: float
    writer: WriterInfo
    missed: int
    """In a stream: how many versions before this one are not kept any more."""


class ChangeList(Shown):
    """The versions of a value that are kept, latest first."""

    object: Literal["list"]
    data: list[ChangeInfo]
    has_more: bool
    """Whether there are more: ask with ``before`` = the last version."""
