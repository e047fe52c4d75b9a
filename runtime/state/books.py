"""Carries requests out on the tables, many in one go: rows are locked, decided on, and written together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from admiralty.core.errors import AdmiraltyError, RunLost
from admiralty.core.state import Committed, Lock, Who, Writer
from admiralty.core.values import Caller
from admiralty.runtime.effects.outbox import complete
from admiralty.runtime.state.decide import (
    Acquire,
    Held,
    Renew,
    Standing,
    Transaction,
    Version,
    acquired,
    changed,
    new_slots,
    renewed,
    slots_of,
    unchained,
)
from admiralty.runtime.state.names import Slot, identity_of
from admiralty.runtime.state.statements import Statements
from admiralty.runtime.storage.fences import check_fence
from admiralty.runtime.storage.tables import storable

Request = Transaction | Acquire | Renew
Result = Committed | Lock | AdmiraltyError


class Books:
    """The tables of shared state."""

    def __init__(self, *, is_sqlite: bool, history: int) -> None:
        """Keep ``history`` versions of a value besides its present one."""
        self._sql = Statements(is_sqlite)
        self._history = history

    def apply(self, connection: Connection, requests: Sequence[Request], now: float) -> list[Result]:
        """Carry out requests one after the other; return what came of each, errors too."""
        lost = self._lost_runs(connection, requests)
        value_slots, lock_slots = slots_of(requests)
        locks = self._locked_locks(connection, lock_slots)
        values = self._locked_values(connection, value_slots, new_slots(requests))
        made: list[Version] = []
        moved: dict[Slot, Held] = {}
        results: list[Result] = []
        for request in requests:
            try:
                if error := lost.get(_run(request.who)):
                    raise error
                if isinstance(request, Transaction):
                    if request.chained and results and isinstance(results[-1], AdmiraltyError):
                        raise unchained(request)
                    versions = changed(request, values, locks)
                    if request.completes is not None:
                        complete(connection, request.completes, now)
                    for version in versions:
                        if version is not None:
                            made.append(version)
                            deleted = version.text is None
                            values[version.slot] = Standing(version=version.number, deleted=deleted)
                    numbers = tuple(version.number if version else 0 for version in versions)
                    results.append(Committed(versions=numbers, at=now))
                else:
                    slot, held = self._lock(request, locks, now)
                    locks[slot] = moved[slot] = held
                    results.append(_lock_value(slot, held))
            except AdmiraltyError as error:
                results.append(error)
        self._write(connection, made, moved, now)
        return results

    def _lock(self, request: Acquire | Renew, locks: dict[Slot, Held], now: float) -> tuple[Slot, Held]:
        if isinstance(request, Acquire):
            return request.slot, acquired(request, locks.get(request.slot, Held()), now)
        slot = request.claim.slot
        return slot, renewed(request, locks.get(slot, Held()), now)

    def _lost_runs(
        self, connection: Connection, requests: Sequence[Request]
    ) -> dict[tuple[str, int], RunLost]:
        """Return the runs that may not write any more. In order, as whatever else locks rows here."""
        lost = {}
        for run in sorted({_run(request.who) for request in requests}):
            try:
                check_fence(connection, *run)
            except RunLost as error:
                lost[run] = error
        return lost

    def _locked_locks(self, connection: Connection, slots: set[Slot]) -> dict[Slot, Held]:
        if not slots:
            return {}
        found = sorted(slots)
        self._sql.make_rows(connection, self._sql.add_locks, found)
        rows = self._sql.run(connection, self._sql.locks, self._sql.slots(found))
        return {
            (tenant, namespace, key): Held(holder=holder, fence=fence, lease_until=until)
            for tenant, namespace, key, holder, fence, until in rows
        }

    def _locked_values(
        self, connection: Connection, slots: set[Slot], new: set[Slot]
    ) -> dict[Slot, Standing]:
        if not slots:
            return {}
        self._sql.make_rows(connection, self._sql.add_values, sorted(new))
        rows = self._sql.run(connection, self._sql.values, self._sql.slots(sorted(slots)))
        return {
            (tenant, namespace, key): Standing(version=version, deleted=bool(deleted))
            for tenant, namespace, key, version, deleted in rows
        }

    def _write(
        self, connection: Connection, made: Sequence[Version], moved: dict[Slot, Held], now: float
    ) -> None:
        sql = self._sql
        rows = [_row(version, now) for version in made]
        last = {version.slot: row for version, row in zip(made, rows, strict=True)}
        sql.run_many(connection, sql.put_value, [_only(row, _VALUE_COLUMNS) for row in last.values()])
        sql.run_many(connection, sql.add_history, rows)
        old = [row | {"oldest": row["version"] - self._history} for row in last.values()]
        old = [_only(row, _PRUNE_COLUMNS) for row in old if row["oldest"] > 1]
        sql.run_many(connection, sql.prune, old)
        sql.run_many(
            connection, sql.put_lock, [_names(slot) | _held_row(held) for slot, held in moved.items()]
        )


_VALUE_COLUMNS = ("tenant", "namespace", "key", "version", "value", "deleted", "at")
_PRUNE_COLUMNS = ("tenant", "namespace", "key", "oldest")


def writer_of(who: Who) -> Writer:
    """Return who is written down for what ``who`` does."""
    identity = identity_of(who)
    user, key_id = _cut(identity.user, 200), _cut(identity.key_id, 40)
    if not isinstance(who, Caller):
        return Writer(user=user, key_id=key_id)
    return Writer(
        fleet=_cut(who.fleet, 48) or "",
        agent=_cut(who.agent, 48) or "",
        agent_version=_cut(who.agent_version, 16) or "",
        conversation_id=_cut(who.conversation_id, 40) or "",
        run_id=_cut(who.run_id, 40) or "",
        user=user,
        key_id=key_id,
    )


def _run(who: Who) -> tuple[str, int]:
    return (who.run_id, who.fence) if isinstance(who, Caller) else ("", 0)


def _cut(text: str | None, length: int) -> str | None:
    return None if text is None else storable(text)[:length]


def _names(slot: Slot) -> dict[str, Any]:
    return dict(zip(("tenant", "namespace", "key"), slot, strict=True))


def _row(version: Version, now: float) -> dict[str, Any]:
    writer = writer_of(version.who)
    row = _names(version.slot)
    row |= {"version": version.number, "value": version.text, "deleted": version.text is None, "at": now}
    row |= {name: getattr(writer, name) for name in Writer.__dataclass_fields__}
    return row


def _held_row(held: Held) -> dict[str, Any]:
    return {"holder": held.holder, "fence": held.fence, "lease_until": held.lease_until}


def _only(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _lock_value(slot: Slot, held: Held) -> Lock:
    _, namespace, key = slot
    return Lock(
        namespace=namespace, key=key, holder=held.holder, fence=held.fence, lease_until=held.lease_until
    )
