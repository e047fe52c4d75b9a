"""The ledger: money is set aside before a call, and paid after it. Waiting happens here, SQL in ``books``.

Reservations and settlements that arrive while a transaction is under way share the next one. A call
that must wait stays here, is tried again whenever money comes free, and stands in the database too, so
that processes serve each other's calls in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import sqlalchemy as sa

from admiralty.core.errors import AdmiraltyError, Retryable
from admiralty.core.frozen import replace
from admiralty.core.ports import Clock
from admiralty.runtime.ledger.batch import (
    WAITER_LEASE,
    Batch,
    HeldMoney,
    OnSpent,
    Outcome,
    Reservation,
    Settlement,
)
from admiralty.runtime.ledger.books import Books
from admiralty.runtime.ledger.decide import Refuse, Wait
from admiralty.runtime.ledger.journal import Journal
from admiralty.runtime.ledger.queues import MAX_BATCH, Pending, Queues, Refresh, Sent, Settling
from admiralty.runtime.ledger.refusals import refusal
from admiralty.runtime.ledger.values import Entry, Hold, HoldRequest
from admiralty.runtime.storage import Database

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""How long a hold lives without its owner: then it is charged at its worst case."""

PATIENCE_SECONDS = 5.0
"""How long a settlement may keep an answer waiting while the database is away; the journal has it."""

MAX_WAIT_SECONDS = 60.0
"""How long a call without a deadline waits for money that others hold."""

POLL_SECONDS = 0.05
"""How often waiting calls look whether another process has freed money."""

SWEEP_SECONDS = 5.0


class Ledger:
    """The money of one database, as this process sees it. Belongs to one event loop.

    ``owner`` names the process in holds. ``clock`` is used as it is on SQLite, whose processes share a
    machine; with PostgreSQL the server's clock counts, so that machines whose clocks differ agree.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        clock: Clock,
        journal: Journal | None = None,
        on_spent: OnSpent | None = None,
        lease: float = LEASE_SECONDS,
        max_wait: float = MAX_WAIT_SECONDS,
        patience: float = PATIENCE_SECONDS,
        server_clock: bool | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._server_clock = not database.is_sqlite if server_clock is None else server_clock
        self._offset = 0.0
        self._books = Books(is_sqlite=database.is_sqlite, owner=owner, lease=lease, on_spent=on_spent)
        self._journal = journal
        self._max_wait = max_wait
        self._patience = patience
        self._queues = Queues()
        self._live: set[str] = set()
        self._unwritten: list[Settlement] = []
        self._closed = False
        self._busy = False
        self._retry = False
        self._failures = 0
        self._poll: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    # -- what callers do --------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to renew this process's holds, and to end those of processes that have died."""
        if self._sweeper is None:
            if self._server_clock:
                await self._set_clock()
            await self._try_to_sweep()
            self._sweeper = asyncio.create_task(self._keep_sweeping())

    async def close(self) -> None:
        """Commit what is settled, then stop; what cannot be committed stays in the journal."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._idle.wait()
        self._closed = True
        if self._poll is not None:
            self._poll.cancel()
        self._write_journal()
        if self._journal is not None:
            self._journal.close()

    def now(self) -> float:
        """Return the time that all processes of this ledger agree on."""
        return self._clock.monotonic() + self._offset if self._server_clock else self._clock.now()

    async def reserve(self, request: HoldRequest, refresh: Refresh | None = None) -> Hold:
        """Set money aside for a call; waits while others hold what it needs.

        ``refresh`` returns the request anew each time that it is tried again: what such calls cost may be
        known better by then. Raises BudgetExceeded where the money is spent, or was held until the
        deadline; Retryable if the database is away: nothing is let through then.
        """
        now = self.now()
        loop = asyncio.get_running_loop()
        pending = Pending(
            reservation=Reservation(request=request, since=now),
            future=loop.create_future(),
            refresh=refresh,
        )
        left = PATIENCE_SECONDS
        if request.deadline is not None:
            left = max(0.0, request.deadline - self._clock.now())
        # Others' money is waited for so long; for the database's answer, until the deadline.
        limit = self._max_wait if request.deadline is None else min(self._max_wait, left)
        pending.until = loop.time() + limit
        self._queues.new.append(pending)
        self._kick()
        taken = False
        try:
            async with asyncio.timeout(max(left, limit)) as pending.timer:
                hold = await pending.future
            taken = True
            return hold
        except TimeoutError:
            if pending.wait is None:
                raise Retryable("The ledger did not answer before the call's deadline.") from None
            raise refusal(pending.wait, now=self.now(), waited=self.now() - now) from None
        finally:
            if not taken:
                self._give_back(pending)
            self._forget(pending)

    async def settle(self, entry: Entry, hold: Hold | None) -> Entry:
        """Write what a call cost in place of its hold; return the entry as the ledger has it.

        Idempotent by the entry's id. What is above the hold is recorded as debt. Returns when it is
        committed; if the database stays away, when it is in the journal, from which it is committed later.
        """
        held = None
        if hold is not None:
            held = HeldMoney(id=hold.id, amount=hold.amount, charges=hold.charges)
        settling = self._settle(Settlement(entry=replace(entry, at=self.now()), hold=held))
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(settling.future)
        except TimeoutError:
            logger.warning("entry %s waits in the journal: the database does not answer", entry.id)
            return settling.settlement.entry

    async def recent(self, fleet: str, agent: str, model: str, *, limit: int = 64) -> list[Entry]:
        """Return the last calls of an agent to a model that went well, newest first."""
        return await self._database.read(
            lambda connection: self._books.recent(connection, fleet, agent, model, limit)
        )

    async def sweep(self) -> None:
        """Do once what :meth:`start` does again and again."""
        if self._server_clock:
            await self._set_clock()
        await self._renew()
        await self._recover()
        expired = await self._database.read(
            lambda connection: self._books.expired(connection, self.now(), MAX_BATCH)
        )
        for settlement in expired:
            self._settle(settlement)
        await self._database.write(lambda connection: self._books.drop_dead_waiters(connection, self.now()))

    # -- batches ----------------------------------------------------------------------------------

    def _settle(self, settlement: Settlement) -> Settling:
        if self._journal is not None and not settlement.expired:
            if not self._unwritten:  # one write for all that end in this step of the loop
                asyncio.get_running_loop().call_soon(self._write_journal)
            self._unwritten.append(settlement)
        settling = Settling(settlement=settlement, future=asyncio.get_running_loop().create_future())
        self._queues.settling.append(settling)
        self._kick()
        return settling

    def _kick(self) -> None:
        """Send the next batch, unless one is under way: then its end will."""
        if self._busy or self._closed:
            return
        sent = self._take()
        if sent is None:
            if not self._queues.waiting:
                self._idle.set()
            return
        self._busy = True
        self._idle.clear()
        loop = asyncio.get_running_loop()
        try:
            future = self._database.submit(partial(self._books.apply, sent.batch))
        except Retryable as error:
            loop.call_soon(self._failed, sent, error)
            return
        future.add_done_callback(partial(self._call_back, loop, sent))

    def _call_back(self, loop: asyncio.AbstractEventLoop, sent: Sent, future: Future[Outcome]) -> None:
        with suppress(RuntimeError):  # the loop has ended before its database
            loop.call_soon_threadsafe(self._ended, sent, future)

    def _take(self) -> Sent | None:
        sent = self._queues.take(self.now(), retry=self._retry)
        self._retry = False
        self._write_journal()
        return sent

    def _write_journal(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        if self._journal is not None and unwritten:
            self._journal.add(unwritten)

    def _ended(self, sent: Sent, future: Future[Outcome]) -> None:
        error = future.exception()
        if error is not None:
            self._failed(sent, error)
            return
        self._busy = False
        self._failures = 0
        outcome = future.result()
        for settling, entry in zip(sent.settling, outcome.entries, strict=True):
            if settling.settlement.hold is not None:
                self._live.discard(settling.settlement.hold.id)
            if not settling.future.done():
                settling.future.set_result(entry)
        if self._journal is not None and sent.settling:
            self._journal.done(s.settlement.entry.id for s in sent.settling if not s.settlement.expired)
        progress = bool(sent.settling or sent.batch.releases or sent.batch.withdrawn)
        for pending, verdict in zip(sent.reserving, outcome.verdicts, strict=True):
            pending.registered = pending.id in outcome.registered
            progress |= self._told(pending, verdict)
        if self._queues.waiting:
            if progress:
                self._retry = True
            elif self._poll is None:
                self._poll = asyncio.get_running_loop().call_later(POLL_SECONDS, self._look_again)
        self._kick()

    def _told(self, pending: Pending, verdict: Hold | Wait | Refuse) -> bool:
        """Tell a caller what was decided; return whether others may profit from it."""
        if isinstance(verdict, Wait) and not pending.future.done():
            pending.wait = verdict
            if pending.timer is not None and not pending.timer.expired():
                pending.timer.reschedule(pending.until)
            self._queues.enqueue(pending, (verdict.line.charge.budget_id, verdict.line.charge.subject))
            return False
        waited = pending.key is not None
        self._queues.dequeue(pending)
        if isinstance(verdict, Hold):
            self._live.add(verdict.id)
            if pending.future.done():  # the caller has gone while it was decided
                self._release(verdict.id)
            else:
                pending.future.set_result(verdict)
        elif isinstance(verdict, Wait):
            self._queues.withdrawn.append(pending.id)
        elif not pending.future.done():
            now = self.now()
            waited_for = now - pending.reservation.since
            pending.future.set_exception(refusal(verdict, now=now, waited=waited_for))
        return waited

    def _failed(self, sent: Sent, error: BaseException) -> None:
        """A batch was not committed, or nobody knows whether it was."""
        self._busy = False
        self._queues.withdrawn = [*sent.batch.withdrawn, *self._queues.withdrawn]
        self._queues.releases = [*sent.batch.releases, *self._queues.releases]
        away = isinstance(error, Retryable)
        if not away and len(sent.settling) + len(sent.reserving) > 1:
            self._one_by_one(sent)
            return
        for pending in sent.reserving:
            self._queues.dequeue(pending)
            # It may have been committed all the same; no provider was asked.
            self._queues.releases.append(pending.id)
            if not pending.future.done():
                failure = error if isinstance(error, AdmiraltyError) else _broken(error)
                pending.future.set_exception(failure)
        if away:
            self._queues.settling = [*sent.settling, *self._queues.settling]
        else:
            for settling in sent.settling:  # it is in the journal, and in the log
                logger.error("entry %s cannot be stored: %r", settling.settlement.entry, error)
                self._live.discard(settling.settlement.entry.id)  # so that it is charged at its worst case
                if not settling.future.done():
                    settling.future.set_exception(_broken(error))
        self._failures += 1
        pause = min(2.0, 0.05 * 2 ** min(self._failures, 6))
        asyncio.get_running_loop().call_later(pause, self._look_again)

    def _one_by_one(self, sent: Sent) -> None:
        """Send the parts of a batch by themselves: one that cannot be stored must not stop the others."""
        singles = [Sent(batch=self._of(settling=[item]), settling=[item]) for item in sent.settling]
        singles += [Sent(batch=self._of(reserving=[item]), reserving=[item]) for item in sent.reserving]
        loop = asyncio.get_running_loop()
        for single in singles:
            try:
                future = self._database.submit(partial(self._books.apply, single.batch))
            except Retryable as error:
                loop.call_soon(self._failed, single, error)
            else:
                future.add_done_callback(partial(self._call_back, loop, single))

    def _of(self, *, settling: Sequence[Settling] = (), reserving: Sequence[Pending] = ()) -> Batch:
        return Batch(
            now=self.now(),
            settlements=[item.settlement for item in settling],
            reservations=[pending.reservation for pending in reserving],
        )

    # -- who waits --------------------------------------------------------------------------------

    def _give_back(self, pending: Pending) -> None:
        """End the hold of a caller who went in the moment between its grant and the news of it."""
        future = pending.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self._release(future.result().id)
            self._kick()

    def _forget(self, pending: Pending) -> None:
        """Leave no trace of a call that waits no longer."""
        if pending.key is None:
            return
        self._queues.dequeue(pending)
        if pending.registered:
            self._queues.withdrawn.append(pending.id)
        self._retry = bool(self._queues.waiting)
        self._kick()

    def _look_again(self) -> None:
        self._poll = None
        self._retry = bool(self._queues.waiting)
        self._kick()

    def _release(self, hold_id: str) -> None:
        self._live.discard(hold_id)
        self._queues.releases.append(hold_id)

    # -- holds of the living and the dead -----------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        while True:
            # Twice within a lease at least: what is not renewed in time counts as a dead process's.
            await asyncio.sleep(min(SWEEP_SECONDS, self._books.lease / 3, WAITER_LEASE / 3))
            await self._try_to_sweep()

    async def _try_to_sweep(self) -> None:
        try:
            await self.sweep()
        except Exception:
            logger.exception("holds could not be renewed or swept")

    async def _renew(self) -> None:
        waiting = [p.id for some in self._queues.waiting.values() for p in some.values() if p.registered]
        live = list(self._live)
        if live or waiting:
            renew: Any = partial(self._renew_in, live, waiting)
            await self._database.write(renew)

    def _renew_in(self, live: Sequence[str], waiting: Sequence[str], connection: sa.Connection) -> None:
        self._books.renew(connection, live, waiting, self.now())

    async def _recover(self) -> None:
        """Settle what processes that have died had journalled."""
        if self._journal is None:
            return
        for path, left in self._journal.abandoned():
            settling = [self._settle(settlement) for settlement in left]
            async with asyncio.timeout(self._patience):
                await asyncio.gather(*(item.future for item in settling))
            path.unlink(missing_ok=True)
            if left:
                logger.warning("settled %d calls of a process that had died", len(left))

    async def _set_clock(self) -> None:
        query = sa.select(sa.extract("epoch", sa.func.clock_timestamp()))
        server = await self._database.read(lambda connection: float(connection.execute(query).scalar_one()))
        self._offset = server - self._clock.monotonic()


def _broken(error: BaseException) -> AdmiraltyError:
    return AdmiraltyError(f"The ledger could not store the call: {type(error).__name__}: {error}")
