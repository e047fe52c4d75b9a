"""One batch of the ledger while it is applied: budgets locked, counters in memory, changes gathered."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.frozen import replace
from admiralty.core.money import Nanos
from admiralty.runtime.ledger.batch import (
    MAX_REGISTERED,
    WAITER_LEASE,
    Batch,
    HeldMoney,
    Key,
    Order,
    Outcome,
    Reservation,
    Settlement,
    SpentChange,
)
from admiralty.runtime.ledger.decide import Admit, Line, Refuse, Wait, decide
from admiralty.runtime.ledger.rows import charges_json, driver_row, entry_row, read_charges, read_entry
from admiralty.runtime.ledger.scopes import scopes_of
from admiralty.runtime.ledger.statements import BUDGET, Row, Statements, parsed
from admiralty.runtime.ledger.values import Budget, Charge, Counter, Entry, Hold, HoldRequest
from admiralty.runtime.ledger.windows import HELD, oldest_bucket, window_key
from admiralty.runtime.storage.tables import ledger, storable


class Applying:
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
            self._run(self._sql.drop_waiters, ids=self._sql.listed(batch.withdrawn))
        released = self._charges_of(batch.releases)
        self._read_budgets(released)
        lines = [self._lines(r.request.scopes) for r in batch.reservations]
        self._read_counters({charge for some in lines for _, charge in some})
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
        rows = self._run(self._sql.charges_of, ids=self._sql.listed(ids))
        return {hold_id: read_charges(parsed(charges)) for hold_id, charges in rows}

    def _read_budgets(self, released: Mapping[str, Sequence[Charge]]) -> None:
        """Read the budgets that the batch touches, and lock them if it is to decide by what they say.

        What ends holds needs no lock: it frees money, or records what is spent already.
        """
        batch = self._batch
        scopes = {scope for r in batch.reservations for scope in r.request.scopes}
        ids = {charge.budget_id for charges in released.values() for charge in charges}
        for settlement in batch.settlements:
            if settlement.hold is not None:
                ids.update(charge.budget_id for charge in settlement.hold.charges)
            elif settlement.entry.cost:
                scopes.update(scopes_of(settlement.entry.caller))
        if not scopes and not ids:
            return
        statement = self._sql.lock_budgets if batch.reservations else self._sql.budgets
        listed = self._sql.listed
        for row in self._run(statement, scopes=listed(sorted(scopes)), ids=listed(sorted(ids))):
            budget = _budget(row)
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

    def _read_counters(self, keys: Iterable[Charge]) -> None:
        """Read how the budgets stand that are decided by."""
        wanted = sorted(keys)
        if not wanted:
            return
        rows = self._run(self._sql.counters, **self._sql.keys(wanted))
        found = {Charge(*row[:3]): Counter(spent=row[3], held=row[4], unproven=row[5]) for row in rows}
        for charge in wanted:
            counter = found.get(charge) or Counter()
            if charge.window == HELD:  # what is spent of it stands in its buckets
                counter = replace(counter, spent=self._spent_of_rolling(charge))
            self._counters[charge] = counter

    def _spent_of_rolling(self, charge: Charge) -> int:
        budget = self._budgets.get(charge.budget_id)
        if budget is None or budget.window != "rolling":
            return 0
        oldest = oldest_bucket(budget, self._batch.now)
        [[spent]] = self._run(
            self._sql.spent_of_rolling, budget_id=charge.budget_id, subject=charge.subject, oldest=oldest
        )
        return int(spent)

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
            for hold_id, amount, unproven, stored in self._sql.run(self._connection, statement, given):
                charges = read_charges(parsed(stored))
                ended[hold_id] = HeldMoney(id=hold_id, amount=Nanos(amount), charges=charges)
                for charge in charges:
                    self._change(charge, held=-amount, unproven=-amount if unproven else 0)
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
            rows = [driver_row(entry_row(entry)) for entry in written]
            self._sql.run_many(self._connection, self._sql.add_entries, rows)
        return entries

    def _present(self, ids: Sequence[str]) -> dict[str, list[Entry]]:
        """Return what the ledger says already: the entry and its corrections."""
        present: dict[str, list[Entry]] = {}
        if ids:
            both = [*ids, *(f"{entry_id}~c" for entry_id in ids)]
            rows = self._connection.execute(sa.select(ledger).where(ledger.c.id.in_(both)))
            for row in rows.mappings():
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
                self._note(charge, cost)
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
            rows = self._run(self._sql.waiting, ids=self._sql.listed(ids), now=self._batch.now)
            for budget_id, subject, hold_id, priority, since in rows:
                found[budget_id, subject].append((-priority, since, hold_id))
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
            self._run(self._sql.drop_waiters, ids=self._sql.listed(gone))
        if waiting:
            self._sql.run_many(self._connection, self._sql.add_waiters, waiting)
        if admitted:
            rows = [self._hold_row(hold) for hold in admitted]
            self._sql.run_many(self._connection, self._sql.add_holds, rows)

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
            "charges": json.dumps(charges_json(hold.charges)),
            "entry": storable(json.dumps(entry_row(hold.request.entry))),
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
        self._note(charge, spent, held, unproven)

    def _note(self, charge: Charge, spent: int, held: int = 0, unproven: int = 0) -> None:
        """Change what later decisions of this batch see."""
        before = self._counters.get(charge)
        if before is not None:
            self._counters[charge] = Counter(
                spent=before.spent + spent, held=before.held + held, unproven=before.unproven + unproven
            )

    def _write_counters(self) -> None:
        # In one order, as batches that only end holds lock nothing else before.
        changed = sorted((charge, delta) for charge, delta in self._deltas.items() if any(delta))
        rows = [
            {
                "budget_id": charge.budget_id,
                "subject": charge.subject,
                "window": charge.window,
                "spent": spent,
                "held": held,
                "unproven": unproven,
            }
            for charge, (spent, held, unproven) in changed
        ]
        if not rows:
            return
        now_spent = self._sql.add_to_counters(self._connection, rows)
        for (charge, delta), spent in zip(changed, now_spent, strict=True):
            budget = self._budgets.get(charge.budget_id)
            if delta[0] > 0 and budget is not None:
                after = self._spent_of_rolling(charge) if budget.window == "rolling" else spent
                self.changes.append(
                    SpentChange(budget=budget, charge=charge, before=after - delta[0], after=after)
                )

    def _run(self, statement: str, **given: Any) -> list[Row]:
        return self._sql.run(self._connection, statement, given)


def _budget(row: Row) -> Budget:
    told = dict(zip(BUDGET, row, strict=True))
    told["limit"] = told.pop("limit_nanos")
    told["hard"] = bool(told["hard"])
    told["thresholds"] = tuple(parsed(told["thresholds"]))
    return Budget(**told)


def _is_behind(line: Line, reservation: Reservation, ahead: Mapping[Key, Order]) -> bool:
    first = ahead.get((line.charge.budget_id, line.charge.subject))
    return line.budget.hard and first is not None and first < reservation.order
