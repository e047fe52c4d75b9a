"""Shared state in the database: what stands behind every adapter of the port."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from admiralty.core.errors import AdmiraltyError, InvalidRequest
from admiralty.core.ports import Clock
from admiralty.core.state import (
    Check,
    Committed,
    Completion,
    Lock,
    StateChange,
    StateValue,
    Who,
    Write,
    Writer,
)
from admiralty.core.values import Caller
from admiralty.runtime.state.batch import Batches
from admiralty.runtime.state.books import Books, Request, Result
from admiralty.runtime.state.decide import Acquire, Change, Claim, Renew, Transaction
from admiralty.runtime.state.names import Slot, checked_name, decode, encode, slot_of, tenant_of
from admiralty.runtime.state.primitives import MAX_NAMES
from admiralty.runtime.state.statements import BIGGEST, Row, Statements
from admiralty.runtime.state.watching import Versions
from admiralty.runtime.storage import Database

MAX_TOLD = 200
"""Changes that a watcher is told at once."""

MAX_VERSIONS = 500
"""Values whose versions one statement tells."""

MAX_LEASE = 86_400.0
"""Seconds for which a lock can be had."""


class SqlState:
    """The state of one database, with versions, locks and history."""

    def __init__(self, database: Database, clock: Clock, *, history: int) -> None:
        self._database = database
        self._clock = clock
        self._sql = Statements(database.is_sqlite)
        self._books = Books(is_sqlite=database.is_sqlite, history=history)
        self._batches = Batches(database, self._apply)
        self._versions = Versions(self._versions_of, most=MAX_VERSIONS)
        self._watchers: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)

    # -- reading ----------------------------------------------------------------------------------

    async def read(self, who: Who, names: Sequence[tuple[str, str]]) -> list[StateValue | None]:
        _check_count("names", len(names))
        slots = [slot_of(who, namespace, key) for namespace, key in names]
        if not slots:
            return []
        given = self._sql.slots(dict.fromkeys(slots))
        rows = await self._read(self._sql.read, given)
        found = {(row[0], row[1]): row for row in rows}
        return [_value(found[slot[1:]]) if slot[1:] in found else None for slot in slots]

    async def find(self, who: Who, namespace: str, prefix: str, after: str, limit: int) -> list[StateValue]:
        given = _scope(who, namespace) | {"prefix": _part("prefix", prefix), "after": _part("after", after)}
        rows = await self._read(self._sql.find, given | {"limit": max(0, limit)})
        return [_value(row) for row in rows]

    async def history(
        self, who: Who, namespace: str, key: str, before: int | None, limit: int
    ) -> list[StateChange]:
        _, _, checked = slot_of(who, namespace, key)
        given = _scope(who, namespace) | {"key": checked, "after": 0, "limit": max(0, limit)}
        below = BIGGEST if before is None else max(0, min(before, BIGGEST))
        return [_change(row) for row in await self._read(self._sql.history, given | {"before": below})]

    async def positions(self, who: Who, namespace: str, key: str | None, prefix: str) -> dict[str, int]:
        if key is not None:
            version = await self._versions.of(slot_of(who, namespace, key))
            return {key: version} if version else {}
        scope = _scope(who, namespace)
        return await self._database.read(lambda connection: self._positions(connection, scope, key, prefix))

    async def _versions_of(self, slots: Sequence[Slot]) -> dict[Slot, int]:
        rows = await self._read(self._sql.versions, self._sql.slots(slots))
        return {(tenant, namespace, key): version for tenant, namespace, key, version in rows}

    async def changes(
        self, who: Who, namespace: str, key: str | None, prefix: str, known: Mapping[str, int]
    ) -> list[StateChange]:
        scope = _scope(who, namespace)

        def work(connection: Connection) -> list[StateChange]:
            told: list[StateChange] = []
            for name, version in self._positions(connection, scope, key, prefix).items():
                seen = known.get(name, 0)
                if version <= seen:
                    continue
                given = scope | {"key": name, "after": seen, "before": BIGGEST}
                rows = self._sql.run(connection, self._sql.changes, given | {"limit": MAX_TOLD - len(told)})
                for row in rows:
                    told.append(_change(row, missed=row[2] - seen - 1))
                    seen = row[2]
                if len(told) >= MAX_TOLD:
                    break
            return told

        return await self._database.read(work)

    def _positions(
        self, connection: Connection, scope: Mapping[str, str], key: str | None, prefix: str
    ) -> dict[str, int]:
        if key is not None:
            rows = self._sql.run(connection, self._sql.position, {**scope, "key": checked_name("key", key)})
        else:
            given = {**scope, "prefix": _part("prefix", prefix)}
            rows = self._sql.run(connection, self._sql.positions, given)
        return {name: version for name, version in rows if version}

    async def _read(self, statement: str, given: Mapping[str, object]) -> Sequence[Row]:
        return await self._database.read(lambda connection: self._sql.run(connection, statement, given))

    # -- writing ----------------------------------------------------------------------------------

    async def transact(
        self,
        who: Who,
        writes: Sequence[Write],
        checks: Sequence[Check],
        locks: Sequence[Lock],
        completes: Completion | None,
    ) -> Committed:
        transaction = replace(_transaction(who, writes, checks, locks), completes=_completion(who, completes))
        committed: Committed = await self._one(transaction)
        self._wake({change.slot[:2] for change in transaction.changes})
        return committed

    async def chain(self, writes: Sequence[tuple[Who, Write]]) -> list[Committed | AdmiraltyError]:
        _check_count("writes", len(writes))
        requests = [
            Transaction(who=who, changes=(_write_of(who, write),), chained=position > 0)
            for position, (who, write) in enumerate(writes)
        ]
        if len({request.changes[0].slot for request in requests}) > 1:
            raise InvalidRequest("A chain is of one key.")
        results = await self._batches.carry_out(requests)
        self._wake({request.changes[0].slot[:2] for request in requests})
        return [result for result in results if not isinstance(result, Lock)]

    async def try_acquire(self, who: Who, namespace: str, key: str, holder: str, lease: float) -> Lock:
        slot = slot_of(who, namespace, key)
        wish = Acquire(who=who, slot=slot, holder=checked_name("holder", holder)[:80], lease=_lease(lease))
        lock: Lock = await self._one(wish)
        return lock

    async def renew(self, who: Who, lock: Lock, lease: float) -> Lock:
        renewed: Lock = await self._one(Renew(who=who, claim=_claim(who, lock), lease=_lease(lease)))
        return renewed

    async def release(self, who: Who, lock: Lock) -> None:
        claim = _claim(who, lock)
        await self._one(Renew(who=who, claim=claim, lease=None))
        self._wake({claim.slot[:2]})

    async def _one(self, request: Request) -> Any:
        [result] = await self._batches.carry_out([request])
        if isinstance(result, AdmiraltyError):
            raise result
        return result

    def _apply(self, connection: Connection, requests: Sequence[Request]) -> list[Result]:
        return self._books.apply(connection, requests, self._clock.now())

    # -- being told -------------------------------------------------------------------------------

    async def until_changed(self, who: Who, namespace: str, seconds: float) -> None:
        place = (tenant_of(who), namespace)
        event = asyncio.Event()
        self._watchers[place].add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._watchers[place].discard(event)
            if not self._watchers[place]:
                del self._watchers[place]

    def _wake(self, places: set[tuple[str, str]]) -> None:
        for place in places:
            for event in self._watchers.get(place, ()):
                event.set()


def _transaction(
    who: Who, writes: Sequence[Write], checks: Sequence[Check], locks: Sequence[Lock]
) -> Transaction:
    _check_count("a transaction", len(writes) + len(checks) + len(locks))
    changes = tuple(_write_of(who, write) for write in writes)
    read = tuple((slot_of(who, check.namespace, check.key), _version(check.expected)) for check in checks)
    named = [change.slot for change in changes] + [slot for slot, _ in read]
    if twice := [slot for slot in named if named.count(slot) > 1]:
        raise InvalidRequest(
            f"A transaction names {twice[0][2]!r} in {twice[0][1]!r} twice: "
            "say once what it expects and writes."
        )
    return Transaction(
        who=who, changes=changes, checks=read, claims=tuple(_claim(who, lock) for lock in locks)
    )


def _completion(who: Who, completion: Completion | None) -> Completion | None:
    """Return what is to be completed. Raises InvalidRequest for a call that is not the caller's own."""
    if completion is None:
        return None
    own = isinstance(who, Caller) and (who.conversation_id, who.run_id, who.fence) == (
        completion.conversation_id,
        completion.run_id,
        completion.fence,
    )
    if not own:
        raise InvalidRequest("completes: this is no call of the caller's own run.")
    return completion


def _write_of(who: Who, write: Write) -> Change:
    expected = None if write.expected is None else _version(write.expected)
    text = None if write.delete else encode(write.value)
    return Change(slot=slot_of(who, write.namespace, write.key), text=text, expected=expected)


def _claim(who: Who, lock: Lock) -> Claim:
    return Claim(slot=slot_of(who, lock.namespace, lock.key), holder=lock.holder, fence=lock.fence)


def _version(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InvalidRequest(f"expected = {number!r}: a version is a whole number, 0 for none.")
    return number


def _lease(seconds: float) -> float:
    if not 0 < seconds <= MAX_LEASE:
        raise InvalidRequest(f"lease = {seconds!r}: more than 0 and at most {MAX_LEASE:g} seconds.")
    return float(seconds)


def _check_count(what: str, number: int) -> None:
    if number > MAX_NAMES:
        raise InvalidRequest(f"{what}: {number} at once; {MAX_NAMES} are possible.")


def _scope(who: Who, namespace: str) -> dict[str, str]:
    return {"tenant": tenant_of(who), "namespace": checked_name("namespace", namespace)}


def _part(what: str, text: str) -> str:
    """Return the part of a name. Nothing begins with what is no name, but that is a mistake to be told."""
    return checked_name(what, text) if text.strip(".") else text


def _value(row: Row) -> StateValue:
    namespace, key, text, version, at = row
    return StateValue(namespace=namespace, key=key, value=decode(text), version=version, updated_at=at)


def _change(row: Row, missed: int = 0) -> StateChange:
    namespace, key, version, text, deleted, at, *who = row
    fleet, agent, agent_version, conversation_id, run_id, user, key_id = who
    return StateChange(
        namespace=namespace,
        key=key,
        version=version,
        value=None if text is None else decode(text),
        deleted=bool(deleted),
        at=at,
        writer=Writer(
            fleet=fleet,
            agent=agent,
            agent_version=agent_version,
            conversation_id=conversation_id,
            run_id=run_id,
            user=user,
            key_id=key_id,
        ),
        missed=missed,
    )
