"""The ledger's SQL: one batch of reservations and settlements in one transaction.

All rows of ``budgets`` that a batch touches are locked first, in order of their ids; so batches of any
number of processes come one after the other where they share a budget, and never deadlock. On SQLite
the transaction's own lock does that.

A batch is applied in this order: settlements and releases (they free money), then reservations in
their fair order. Knows nothing of event loops, waiting or retries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.money import Nanos
from admiralty.runtime.ledger.batch import (
    MAX_REGISTERED,
    WAITER_LEASE,
    Batch,
    HeldMoney,
    Key,
    OnSpent,
    Order,
    Outcome,
    Reservation,
    Settlement,
    SpentChange,
)
from admiralty.runtime.ledger.decide import Admit, Line, Refuse, Wait, decide
from admiralty.runtime.ledger.rows import charges_json, entry_row, read_budget, read_charges, read_entry
from admiralty.runtime.ledger.scopes import scopes_of
from admiralty.runtime.ledger.statements import Statements
from admiralty.runtime.ledger.values import Budget, Charge, Counter, Entry, Hold, HoldRequest
from admiralty.runtime.ledger.windows import HELD, oldest_bucket, window_key
from admiralty.runtime.storage.tables import holds, ledger


class Books:
    """Applies batches. ``lease`` is how many seconds holds and waiting calls live without a renewal."""

    def __init__(self, *, is_sqlite: bool, owner: str, lease: float, on_spent: OnSpent | None = None) -> None:
        self._owner = owner
        self.lease = lease
        self._on_spent = on_spent
        self._sql = Statements(is_sqlite)

    def apply(self, batch: Batch, connection: Connection) -> Outcome:
        """Apply a batch in the connection's transaction."""
        work = _Applying(self._sql, connection, batch, self._owner, self.lease)
        outcome = work.run()
        if self._on_spent and work.changes:
            self._on_spent(connection, work.changes, batch.now)
        return outcome

    def expired(self, connection: Connection, now: float, limit: int) -> list[Settlement]:
        """Return what is to be written for holds whose owner has not come back: their worst case."""
        query = (
            sa.select(holds)
            .where(holds.c.expires_at < now)
            .order_by(holds.c.expires_at, holds.c.id)
            .limit(limit)
        )
        found = []
        for row in connection.execute(query.limit(limit)).mappings():
            entry = replace(
                read_entry(row["entry"]),
                cost=Nanos(row["amount"]),
                held=Nanos(row["amount"]),
                status="expired",
                estimated=True,
                error="The process that made the call ended before it could say what it cost.",
                at=now,
            )
            held = HeldMoney(id=row["id"], amount=Nanos(row["amount"]), charges=read_charges(row["charges"]))
            found.append(Settlement(entry=entry, hold=held, expired=True))
        return found

    def renew(self, connection: Connection, held: Sequence[str], waiting: Sequence[str], now: float) -> None:
        """Let holds and waiting calls live on."""
        if held:
            given = {"ids": self._sql.listed(held), "until": now + self.lease}
            connection.execute(self._sql.renew_holds, given)
        if waiting:
            given = {"ids": self._sql.listed(waiting), "until": now + WAITER_LEASE}
            connection.execute(self._sql.renew_waiters, given)

    def recent(self, connection: Connection, fleet: str, agent: str, model: str, limit: int) -> list[Entry]:
        """Return the last entries of an agent's calls to a model, newest first."""
        table = ledger.c
        query = (
            sa.select(ledger)
            .where(table.fleet == fleet, table.agent == agent, table.model == model, table.status == "ok")
            .order_by(table.at.desc())
            .limit(limit)
        )
        return [read_entry(row) for row in connection.execute(query).mappings()]


class _Applying:
    """One batch while it is applied: budgets locked, counters in memory, changes gathered."""

    def __init__(
        self, sql: Statements, connection: Connection, batch: Batch, owner: str, lease: float
    ) -> None:
        self._sql = sql
        self._connection = connection
        self._batch = batch
        self._owner = owner
        self._lease = lease
        self._budgets: dict[str, Budget] = {}
        self._by_scope: dict[str, list[Budget]] = defaultdict(list)
        self._counters: dict[Charge, Counter] = {}
        self._deltas: dict[Charge, list[int]] = defaultdict(lambda: [0, 0, 0])
        self.changes: list[SpentChange] = []
        self.registered: set[str] = set()

    def run(self) -> Outcome:
        batch = self._batch
        if batch.withdrawn:
            self._connection.execute(self._sql.drop_waiters, {"ids": self._sql.listed(batch.withdrawn)})
        released = self._charges_of(batch.releases)
        self._lock(released)
        lines = [self._lines(r.request.scopes) for r in batch.reservations]
        self._read_counters(lines, released)
        ended = self._end_holds(released)
        entries = self._settle(ended)
        verdicts = self._decide(lines)
        self._write_counters()
        return Outcome(entries=entries, verdicts=verdicts, registered=self.registered)

    # -- reading ----------------------------------------------------------------------------------

    def _charges_of(self, ids: Sequence[str]) -> dict[str, Sequence[Charge]]:
        """Return what holds count in, read before any lock is taken: to know which are needed."""
        if not ids:
            return {}
        rows = self._connection.execute(self._sql.charges_of, {"ids": self._sql.listed(ids)})
        return {row.id: read_charges(row.charges) for row in rows}

    def _lock(self, released: Mapping[str, Sequence[Charge]]) -> None:
        batch = self._batch
        scopes = {scope for r in batch.reservations for scope in r.request.scopes}
        ids = {charge.budget_id for charges in released.values() for charge in charges}
        for settlement in batch.settlements:
            if settlement.hold is not None:
                ids |= {charge.budget_id for charge in settlement.hold.charges}
            elif settlement.entry.cost:
                scopes |= set(scopes_of(settlement.entry.caller))
        if not scopes and not ids:
            return
        given = {"scopes": self._sql.listed(sorted(scopes)), "ids": self._sql.listed(sorted(ids))}
        for row in self._connection.execute(self._sql.lock, given).mappings():
            budget = read_budget(row)
            self._budgets[budget.id] = budget
            if budget.archived_at is None:
                self._by_scope[budget.scope].append(budget)

    def _lines(self, scopes: Mapping[str, str]) -> list[tuple[Budget, Charge]]:
        return [
            (budget, Charge(budget.id, subject, self._held_window(budget)))
            for scope, subject in scopes.items()
            for budget in self._by_scope.get(scope, ())
        ]

    def _held_window(self, budget: Budget) -> str:
        return HELD if budget.window == "rolling" else window_key(budget, self._batch.now)

    def _read_counters(
        self,
        lines: Sequence[Sequence[tuple[Budget, Charge]]],
        released: Mapping[str, Sequence[Charge]],
    ) -> None:
        keys = {charge for some in lines for _, charge in some}
        keys |= {charge for charges in released.values() for charge in charges}
        for settlement in self._batch.settlements:
            if settlement.hold is not None:
                keys |= set(settlement.hold.charges)
            elif settlement.entry.cost:
                keys |= {charge for _, charge in self._lines(scopes_of(settlement.entry.caller))}
        if keys:
            self._load_counters(keys)

    def _load_counters(self, keys: Iterable[Charge]) -> None:
        wanted = sorted(set(keys) - self._counters.keys(), key=lambda c: (c.budget_id, c.subject, c.window))
        found = {
            Charge(row.budget_id, row.subject, row.window): Counter(
                spent=row.spent, held=row.held, unproven=row.unproven
            )
            for row in self._connection.execute(self._sql.read_counters, self._sql.keys(wanted))
        }
        for charge in wanted:
            counter = found.get(charge, Counter())
            if charge.window == HELD:  # what is spent of it stands in its buckets
                counter = replace(counter, spent=self._spent_of_rolling(charge))
            self._counters[charge] = counter

    def _spent_of_rolling(self, charge: Charge) -> int:
        budget = self._budgets.get(charge.budget_id)
        if budget is None or budget.window != "rolling":
            return 0
        given = {
            "budget_id": charge.budget_id,
            "subject": charge.subject,
            "oldest": oldest_bucket(budget, self._batch.now),
        }
        return int(self._connection.execute(self._sql.spent_of_rolling, given).scalar_one())

    # -- ending holds -----------------------------------------------------------------------------

    def _end_holds(self, released: Mapping[str, Sequence[Charge]]) -> dict[str, HeldMoney]:
        """Delete the holds that end; return them as they stood."""
        settlements = self._batch.settlements
        mine = [s.hold.id for s in settlements if s.hold is not None and not s.expired]
        late = [s.hold.id for s in settlements if s.hold is not None and s.expired]
        ended: dict[str, HeldMoney] = {}
        for statement, ids in ((self._sql.end_holds, [*mine, *released]), (self._sql.end_expired, late)):
            if not ids:
                continue
            given = {"ids": self._sql.listed(ids), "now": self._batch.now}
            for row in self._connection.execute(statement, given):
                charges = read_charges(row.charges)
                ended[row.id] = HeldMoney(id=row.id, amount=Nanos(row.amount), charges=charges)
                for charge in charges:
                    self._change(charge, held=-row.amount, unproven=-row.amount if row.unproven else 0)
        return ended

    def _settle(self, ended: Mapping[str, HeldMoney]) -> list[Entry]:
        """Write the entries; return them as they are in the ledger now."""
        settlements = self._batch.settlements
        if not settlements:
            return []
        unheld = [s.entry.id for s in settlements if s.hold is None or s.hold.id not in ended]
        present = self._present(unheld)
        written: list[Entry] = []
        entries: list[Entry] = []
        for settlement in settlements:
            entry = self._entry(settlement, ended, present)
            if entry is not None:
                written.append(entry)
                present.setdefault(settlement.entry.id, []).append(entry)
            entries.append(entry or (present.get(settlement.entry.id) or [settlement.entry])[0])
        if written:
            self._connection.execute(self._sql.add_entries, [entry_row(entry) for entry in written])
        return entries

    def _present(self, ids: Sequence[str]) -> dict[str, list[Entry]]:
        """Return what the ledger says already: the entry and its corrections."""
        present: dict[str, list[Entry]] = {}
        if ids:
            both = [*ids, *(f"{entry_id}~c" for entry_id in ids)]
            for row in self._connection.execute(
                self._sql.present, {"ids": self._sql.listed(both)}
            ).mappings():
                entry = read_entry(row)
                present.setdefault(entry.corrects or entry.id, []).append(entry)
        for entries in present.values():
            entries.sort(key=lambda entry: entry.corrects is not None)
        return present

    def _entry(
        self, settlement: Settlement, ended: Mapping[str, HeldMoney], present: Mapping[str, list[Entry]]
    ) -> Entry | None:
        """Return the entry to write for a settlement; ``None`` where there is nothing new to say."""
        entry, hold = settlement.entry, settlement.hold
        cost = entry.cost or 0
        known = present.get(entry.id)
        if hold is not None and hold.id in ended and not known:
            held = ended[hold.id]
            charges = self._spend(held.charges, cost)
            debt = Nanos(max(0, cost - held.amount))
            return replace(entry, held=held.amount, debt=debt, charges=charges)
        if settlement.expired:
            return None  # its owner was faster, or lives
        if known:
            return self._correction(entry, known)
        if hold is not None:  # neither hold nor entry: whatever removed it, the money is spent
            charges = self._spend(hold.charges, cost)
            return replace(entry, debt=Nanos(cost), charges=charges)
        lines = self._lines(scopes_of(entry.caller)) if cost else []
        return replace(entry, debt=Nanos(cost), charges=self._spend([charge for _, charge in lines], cost))

    def _correction(self, entry: Entry, known: Sequence[Entry]) -> Entry | None:
        """Return what sets an estimate right; ``None`` for one that has been told already."""
        first = known[0]
        if len(known) > 1 or not first.estimated or entry.estimated or entry.cost is None:
            return None
        difference = entry.cost - (first.cost or 0)
        for charge in first.charges:
            self._load_counters([charge])
            self._change(charge, spent=difference)
        debt = Nanos(max(0, entry.cost - first.held))
        return replace(
            entry,
            id=f"{entry.id}~c",
            kind="correction",
            corrects=first.id,
            cost=Nanos(difference),
            held=Nanos(0),
            debt=debt,
            charges=first.charges,
        )

    def _spend(self, charges: Iterable[Charge], cost: int) -> list[Charge]:
        """Count money as spent; return the counters that it is in."""
        counted = []
        for charge in charges:
            if charge.window == HELD and (budget := self._budgets.get(charge.budget_id)):
                bucket = Charge(charge.budget_id, charge.subject, window_key(budget, self._batch.now))
                self._deltas[bucket][0] += cost
                self._note(charge, spent=cost)
                counted.append(bucket)
            else:
                self._change(charge, spent=cost)
                counted.append(charge)
        return counted

    # -- admitting --------------------------------------------------------------------------------

    def _decide(self, lines: Sequence[Sequence[tuple[Budget, Charge]]]) -> list[Hold | Wait | Refuse]:
        batch = self._batch
        if not batch.reservations:
            return []
        known = self._waiting(lines)
        ahead = self._ahead(known)
        places: dict[str, set[Key]] = defaultdict(set)
        for key, orders in known.items():
            for order in orders:
                places[order[2]].add(key)
        result: dict[int, Hold | Wait | Refuse] = {}
        gone: list[str] = []
        new_waiters: list[dict[str, Any]] = []
        registered = dict(batch.registered)
        for index in sorted(range(len(lines)), key=lambda i: batch.reservations[i].order):
            reservation = batch.reservations[index]
            verdict = self._verdict(reservation, lines[index], ahead)
            result[index] = verdict
            stays: set[Key] = set()
            if isinstance(verdict, Wait):
                key = verdict.line.charge.budget_id, verdict.line.charge.subject
                ahead[key] = min(ahead.get(key, reservation.order), reservation.order)
                if registered.get(key, 0) < MAX_REGISTERED:
                    registered[key] = registered.get(key, 0) + 1
                    stays = {key}
                    self.registered.add(reservation.request.id)
                    new_waiters.append(self._waiter_row(key, reservation))
            if places[reservation.request.id] - stays:
                gone.append(reservation.request.id)
        self._write_queue(gone, new_waiters, [held for held in result.values() if isinstance(held, Hold)])
        return [result[index] for index in range(len(lines))]

    def _verdict(
        self,
        reservation: Reservation,
        lines: Sequence[tuple[Budget, Charge]],
        ahead: Mapping[Key, Order],
    ) -> Hold | Wait | Refuse:
        state = [
            Line(budget=budget, charge=charge, counter=self._counters[charge]) for budget, charge in lines
        ]
        behind = next((line for line in state if _is_behind(line, reservation, ahead)), None)
        verdict = decide(reservation.request, state, behind=behind)
        if isinstance(verdict, Admit):
            return self._hold(reservation.request, verdict, [charge for _, charge in lines])
        return verdict

    def _waiting(self, lines: Sequence[Sequence[tuple[Budget, Charge]]]) -> dict[Key, list[Order]]:
        """Return who waits for the counters of these lines, of all processes."""
        ids = sorted({budget.id for some in lines for budget, _ in some if budget.hard})
        found: dict[Key, list[Order]] = defaultdict(list)
        if ids:
            given = {"ids": self._sql.listed(ids), "now": self._batch.now}
            for row in self._connection.execute(self._sql.waiting, given):
                found[row.budget_id, row.subject].append((-row.priority, row.since, row.hold_id))
        return found

    def _ahead(self, known: Mapping[Key, Sequence[Order]]) -> dict[Key, Order]:
        """Return for each counter the first who waits for it and is not decided about in this batch."""
        ahead = dict(self._batch.queued)
        here = {reservation.request.id for reservation in self._batch.reservations}
        for key, orders in known.items():
            for order in orders:
                if order[2] not in here and (key not in ahead or order < ahead[key]):
                    ahead[key] = order
        return ahead

    def _write_queue(
        self, gone: Sequence[str], waiting: Sequence[dict[str, Any]], admitted: Sequence[Hold]
    ) -> None:
        if gone:
            self._connection.execute(self._sql.drop_waiters, {"ids": self._sql.listed(gone)})
        if waiting:
            self._connection.execute(self._sql.add_waiters, waiting)
        if admitted:
            self._connection.execute(self._sql.add_holds, [self._hold_row(hold) for hold in admitted])

    def _hold(self, request: HoldRequest, verdict: Admit, charges: Sequence[Charge]) -> Hold:
        for charge in charges:
            self._change(charge, held=verdict.amount, unproven=verdict.amount if request.unproven else 0)
        return Hold(
            id=request.id,
            amount=verdict.amount,
            output_tokens=verdict.output_tokens,
            charges=tuple(charges),
            request=request,
        )

    def _hold_row(self, hold: Hold) -> dict[str, Any]:
        return {
            "id": hold.id,
            "owner": self._owner,
            "amount": hold.amount,
            "unproven": hold.request.unproven,
            "charges": charges_json(hold.charges),
            "entry": entry_row(hold.request.entry),
            "created_at": self._batch.now,
            "expires_at": self._batch.now + self._lease,
        }

    def _waiter_row(self, key: Key, reservation: Reservation) -> dict[str, Any]:
        return {
            "budget_id": key[0],
            "subject": key[1],
            "hold_id": reservation.request.id,
            "priority": reservation.request.priority,
            "since": reservation.since,
            "expires_at": self._batch.now + WAITER_LEASE,
        }

    # -- counters ---------------------------------------------------------------------------------

    def _change(self, charge: Charge, *, spent: int = 0, held: int = 0, unproven: int = 0) -> None:
        delta = self._deltas[charge]
        delta[0] += spent
        delta[1] += held
        delta[2] += unproven
        self._note(charge, spent=spent, held=held, unproven=unproven)

    def _note(self, charge: Charge, *, spent: int = 0, held: int = 0, unproven: int = 0) -> None:
        """Change what later decisions of this batch see, and remember spending for alerts."""
        before = self._counters.get(charge)
        if before is None:  # a hold of a budget that this batch does not ask about otherwise
            self._load_counters([charge])
            before = self._counters[charge]
        after = Counter(
            spent=before.spent + spent, held=before.held + held, unproven=before.unproven + unproven
        )
        self._counters[charge] = after
        budget = self._budgets.get(charge.budget_id)
        if spent > 0 and budget is not None:
            self.changes.append(
                SpentChange(budget=budget, charge=charge, before=before.spent, after=after.spent)
            )

    def _write_counters(self) -> None:
        rows = [
            {
                "budget_id": charge.budget_id,
                "subject": charge.subject,
                "window": charge.window,
                "spent": spent,
                "held": held,
                "unproven": unproven,
            }
            for charge, (spent, held, unproven) in self._deltas.items()
            if spent or held or unproven
        ]
        if rows:
            self._connection.execute(self._sql.add_to_counters, rows)


def _is_behind(line: Line, reservation: Reservation, ahead: Mapping[Key, Order]) -> bool:
    first = ahead.get((line.charge.budget_id, line.charge.subject))
    return line.budget.hard and first is not None and first < reservation.order
