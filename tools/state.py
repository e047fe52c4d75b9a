"""Shared state as a tool, a graph or any other code on somebody's behalf sees it: ``ctx.state``.

A view is bound to one caller: his tenant's values, his name in the history. It holds nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from admiralty.core.errors import (
    ConfigurationError,
    Conflict,
    DefinitionError,
    InvalidRequest,
    VersionConflict,
)
from admiralty.core.ports import StateStore
from admiralty.core.state import (
    NAMESPACE,
    Check,
    Committed,
    Completion,
    Lock,
    Merge,
    StateChange,
    StateValue,
    Who,
    Write,
)

M = TypeVar("M")
T = TypeVar("T")


class Completing(Protocol):
    """The effect of a tool call, ``ctx.effect``."""

    def completion(self, result: Any) -> Completion | None:
        """Return what says that the call is done, with what it returns."""
        ...


class SharedState:
    """Values under keys, with versions, that all agents of the tenant share."""

    def __init__(self, store: StateStore | None, who: Callable[[], Who], namespace: str = NAMESPACE) -> None:
        """Look into ``store`` as ``who`` says at each call, in ``namespace`` unless a call names another."""
        self._inner = store
        self._who = who
        self._namespace = namespace

    def within(self, namespace: str) -> SharedState:
        """Return the same view of another namespace."""
        return SharedState(self._inner, self._who, namespace)

    def typed(self, model: type[M]) -> TypedState[M]:
        """Return a view whose values are checked to be ``model``: a pydantic model, or any type it knows.

        Raises DefinitionError for a type that it does not know.
        """
        return TypedState(self, model)

    # -- reading ----------------------------------------------------------------------------------

    async def get(self, key: str, *, namespace: str | None = None) -> StateValue | None:
        """Return a value with its version; ``None`` where there is none."""
        [found] = await self._store.get_many(self._who(), [(self._place(namespace), key)])
        return found

    async def value(self, key: str, default: Any = None, *, namespace: str | None = None) -> Any:
        """Return a value without its version, ``default`` where there is none."""
        found = await self.get(key, namespace=namespace)
        return default if found is None else found.value

    async def get_many(
        self, keys: Sequence[str], *, namespace: str | None = None
    ) -> dict[str, StateValue | None]:
        """Return the values of several keys, all as of one moment."""
        place = self._place(namespace)
        found = await self._store.get_many(self._who(), [(place, key) for key in keys])
        return dict(zip(keys, found, strict=True))

    async def find(
        self, prefix: str = "", *, after: str = "", limit: int = 100, namespace: str | None = None
    ) -> list[StateValue]:
        """Return the values whose key begins with ``prefix`` and comes behind ``after``, by key."""
        place = self._place(namespace)
        return await self._store.find(self._who(), place, prefix=prefix, after=after, limit=limit)

    async def history(
        self, key: str, *, before: int | None = None, limit: int = 100, namespace: str | None = None
    ) -> list[StateChange]:
        """Return the versions that are kept, latest first, with who wrote them."""
        return await self._store.history(self._who(), self._place(namespace), key, before=before, limit=limit)

    async def watch(
        self,
        key: str | None = None,
        *,
        prefix: str = "",
        after: int | None = None,
        namespace: str | None = None,
    ) -> AsyncGenerator[StateChange, None]:
        """Return the changes from now on, or behind one: ``async for change in await state.watch(key)``.

        Without a key, of all whose name begins with ``prefix``. See :meth:`StateStore.watch`.
        """
        place = self._place(namespace)
        return await self._store.watch(self._who(), place, key=key, prefix=prefix, after=after)

    # -- writing ----------------------------------------------------------------------------------

    async def update(
        self,
        key: str,
        merge: Merge,
        *,
        default: Any = None,
        attempts: int = 50,
        namespace: str | None = None,
    ) -> StateValue:
        """Replace a value by ``merge(value)``, or by ``merge(default)`` where there is none. Loses no write.

        ``merge`` may run several times, so it does nothing but return the new value. Raises VersionConflict
        if others were faster every time.
        """
        place = self._place(namespace)
        return await self._store.update(self._who(), place, key, merge, default=default, attempts=attempts)

    async def compare_and_set(
        self, key: str, value: Any, expected: int, *, lock: Lock | None = None, namespace: str | None = None
    ) -> int:
        """Write a value if its version is still ``expected`` (0: if there is none); return the new version.

        Raises VersionConflict.
        """
        return await self._write(key, lock, namespace, value=value, expected=expected)

    async def create(
        self, key: str, value: Any, *, lock: Lock | None = None, namespace: str | None = None
    ) -> int:
        """Write a value if there is none; return its version. Raises VersionConflict."""
        return await self._write(key, lock, namespace, value=value, expected=0)

    async def put(
        self, key: str, value: Any, *, lock: Lock | None = None, namespace: str | None = None
    ) -> int:
        """Write a value whatever there is, and return its version. What others wrote just now is gone."""
        return await self._write(key, lock, namespace, value=value)

    async def delete(
        self,
        key: str,
        *,
        expected: int | None = None,
        lock: Lock | None = None,
        namespace: str | None = None,
    ) -> int:
        """Delete a value, if it has the version ``expected``; return the deletion's own, 0 if there was none.

        Raises VersionConflict.
        """
        return await self._write(key, lock, namespace, delete=True, expected=expected)

    async def transact(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        attempts: int = 10,
        locks: Sequence[Lock] = (),
        effect: Completing | None = None,
    ) -> T:
        """Read and write several values as one: all is written or nothing, from what was read or not at all.

        ``work`` is run again where somebody has changed meanwhile what it has read, so it does nothing
        besides. Returns what it returns. Raises VersionConflict after so many attempts.

        A tool with ``reconcile=OUTBOX`` gives its ``ctx.effect``, and returns what this returns: then it is
        written down with the values that the call is done, and it is never made twice.
        """
        for left in reversed(range(attempts)):
            transaction = Transaction(self)
            result = await work(transaction)
            try:
                await transaction.commit(locks, None if effect is None else effect.completion(result))
            except VersionConflict:
                if not left:
                    raise
                continue
            return result
        raise InvalidRequest(f"attempts = {attempts!r}: at least 1.")

    async def commit(
        self,
        writes: Sequence[Write],
        *,
        checks: Sequence[Check] = (),
        locks: Sequence[Lock] = (),
        completes: Completion | None = None,
    ) -> Committed:
        """Make writes of known versions, all or none. Raises VersionConflict, LockLost, RunLost."""
        return await self._store.transact(
            self._who(), writes, checks=checks, locks=locks, completes=completes
        )

    # -- locks ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lock(
        self, key: str, *, lease: float = 30.0, wait: float = 30.0, namespace: str | None = None
    ) -> AsyncIterator[Lock]:
        """Hold a lock: ``async with state.lock("x") as lock``, and give ``lock=lock`` to each write.

        Then a write after the lease has ended and the lock was taken is refused. Raises Locked.
        """
        lock = await self.acquire(key, lease=lease, wait=wait, namespace=namespace)
        try:
            yield lock
        finally:
            await self.release(lock)

    async def acquire(
        self, key: str, *, lease: float = 30.0, wait: float = 0.0, namespace: str | None = None
    ) -> Lock:
        """Take a lock for ``lease`` seconds, waiting so many seconds for it. Raises Locked."""
        return await self._store.acquire(self._who(), self._place(namespace), key, lease=lease, wait=wait)

    async def renew(self, lock: Lock, *, lease: float = 30.0) -> Lock:
        """Hold a lock for ``lease`` seconds from now. Raises LockLost."""
        return await self._store.renew(self._who(), lock, lease=lease)

    async def release(self, lock: Lock) -> None:
        """Give a lock back."""
        await self._store.release(self._who(), lock)

    async def _write(self, key: str, lock: Lock | None, namespace: str | None, **given: Any) -> int:
        write = Write(namespace=self._place(namespace), key=key, **given)
        made = await self.commit([write], locks=[] if lock is None else [lock])
        return made.versions[0]

    def _place(self, namespace: str | None) -> str:
        return self._namespace if namespace is None else namespace

    @property
    def _store(self) -> StateStore:
        if self._inner is None:
            raise ConfigurationError(
                "There is no shared state here: give ToolContext(state=SharedState(store, ...)) one."
            )
        return self._inner


class Transaction:
    """What one run of a transaction's work has read and wants to write."""

    def __init__(self, state: SharedState) -> None:
        self._state = state
        self._read: dict[tuple[str, str], int] = {}
        self._writes: dict[tuple[str, str], Write] = {}

    async def get(self, key: str, default: Any = None, *, namespace: str | None = None) -> Any:
        """Return a value as it will be if this goes through; ``default`` where there is none."""
        name = (self._state._place(namespace), key)
        if (write := self._writes.get(name)) is not None:
            return default if write.delete else write.value
        found = await self._state.get(key, namespace=namespace)
        # What is read twice must be the same both times: the first version counts.
        self._read.setdefault(name, 0 if found is None else found.version)
        return default if found is None else found.value

    def put(self, key: str, value: Any, *, namespace: str | None = None) -> None:
        """Write a value, at the end."""
        name = (self._state._place(namespace), key)
        self._writes[name] = Write(namespace=name[0], key=key, value=value)

    def delete(self, key: str, *, namespace: str | None = None) -> None:
        """Delete a value, at the end."""
        name = (self._state._place(namespace), key)
        self._writes[name] = Write(namespace=name[0], key=key, delete=True)

    async def commit(self, locks: Sequence[Lock], completes: Completion | None) -> None:
        """Write, if all that was read is as it was. Raises VersionConflict, LockLost, RunLost."""
        writes = [
            Write(
                namespace=write.namespace,
                key=write.key,
                value=write.value,
                delete=write.delete,
                expected=self._read.get(name),
            )
            for name, write in self._writes.items()
        ]
        checks = [
            Check(namespace=namespace, key=key, expected=version)
            for (namespace, key), version in self._read.items()
            if (namespace, key) not in self._writes
        ]
        if writes or checks or completes:
            await self._state.commit(writes, checks=checks, locks=locks, completes=completes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedValue(Generic[M]):
    """A checked value as it was when it was read."""

    key: str
    value: M
    version: int
    updated_at: float


class TypedState(Generic[M]):
    """A view whose values are all of one type: checked when they are written and when they are read."""

    def __init__(self, state: SharedState, model: type[M]) -> None:
        self._state = state
        self._name = getattr(model, "__name__", str(model))
        try:
            self._adapter: TypeAdapter[M] = TypeAdapter(model)
        except PydanticUserError as error:
            reason = str(error).partition("\n")[0]
            raise DefinitionError("typed", model, reason, "Give a model that pydantic can check.") from None

    def within(self, namespace: str) -> TypedState[M]:
        """Return the same view of another namespace."""
        other = object.__new__(type(self))
        other._state, other._name, other._adapter = self._state.within(namespace), self._name, self._adapter
        return other

    async def get(self, key: str) -> TypedValue[M] | None:
        """Return a value with its version. Raises Conflict for one that is stored but of another form."""
        found = await self._state.get(key)
        return None if found is None else self._checked(found)

    async def find(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[TypedValue[M]]:
        """Return values by key. Raises Conflict as ``get``."""
        return [self._checked(one) for one in await self._state.find(prefix, after=after, limit=limit)]

    async def put(self, key: str, value: M, *, lock: Lock | None = None) -> int:
        """Write a value whatever there is. Raises InvalidRequest for one that is not of the type."""
        return await self._state.put(key, self._plain(key, value), lock=lock)

    async def create(self, key: str, value: M, *, lock: Lock | None = None) -> int:
        """Write a value if there is none. Raises VersionConflict, InvalidRequest."""
        return await self._state.create(key, self._plain(key, value), lock=lock)

    async def compare_and_set(self, key: str, value: M, expected: int, *, lock: Lock | None = None) -> int:
        """Write a value if its version is ``expected``. Raises VersionConflict, InvalidRequest."""
        return await self._state.compare_and_set(key, self._plain(key, value), expected, lock=lock)

    async def delete(self, key: str, *, expected: int | None = None, lock: Lock | None = None) -> int:
        """Delete a value. Raises VersionConflict."""
        return await self._state.delete(key, expected=expected, lock=lock)

    async def update(
        self, key: str, merge: Callable[[M], M], *, default: M | None = None, attempts: int = 50
    ) -> TypedValue[M]:
        """Replace a value by ``merge(value)``, or by ``merge(default)``; without a default there must be one.

        Raises as ``get``, ``put`` and :meth:`SharedState.update`, Conflict where there is no value.
        """

        def merged(raw: Any) -> Any:
            if raw is None and default is None:
                raise Conflict(f"There is nothing under {key!r} to update: give a default.")
            return self._plain(key, merge(self._parsed(key, raw)))

        given = None if default is None else self._plain(key, default)
        return self._checked(await self._state.update(key, merged, default=given, attempts=attempts))

    def _checked(self, found: StateValue) -> TypedValue[M]:
        value = self._parsed(found.key, found.value, f" (version {found.version})")
        return TypedValue(key=found.key, value=value, version=found.version, updated_at=found.updated_at)

    def _parsed(self, key: str, raw: Any, version: str = "") -> M:
        try:
            return self._adapter.validate_json(json.dumps(raw))
        except ValidationError as error:
            raise Conflict(
                f"What is stored under {key!r}{version} is no {self._name}: {_told(error)}."
            ) from None

    def _plain(self, key: str, value: M) -> Any:
        """Return a value as JSON, checked: a model can have been changed since it was made."""
        plain = self._adapter.dump_python(value, mode="json", by_alias=True, warnings="none")
        try:
            self._adapter.validate_json(json.dumps(plain))
        except (ValidationError, TypeError) as error:
            told = _told(error) if isinstance(error, ValidationError) else str(error)
            raise InvalidRequest(
                f"What is to be {key!r} is no {self._name}: {told}.", param="value"
            ) from None
        return plain


def _told(error: ValidationError) -> str:
    """Return what is wrong, field by field."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}"
        for item in error.errors(include_url=False)[:5]
    )


def no_state() -> SharedState:
    """Return a view for where there is no shared state: every use of it raises ConfigurationError."""

    def nobody() -> Who:
        raise ConfigurationError("There is no shared state here.")

    return SharedState(None, nobody)
