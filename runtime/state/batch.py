"""Collects requests that arrive while others are being committed, and carries them out in one transaction.

One at a time of this process: all rows of it are locked in one order. Two such transactions within one
commit of the database's writer could each hold what another process's needs next.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from admiralty.core.errors import AdmiraltyError, Retryable
from admiralty.runtime.state.books import Request, Result
from admiralty.runtime.storage import Database

MAX_BATCH = 256
MAX_DEADLOCKS = 5
_DEADLOCK = "40P01"
"""PostgreSQL's name for two transactions that wait for each other: one of them was undone."""

Apply = Callable[[Connection, Sequence[Request]], list[Result]]


@dataclass(kw_only=True)
class _Group:
    """Requests that are carried out one directly after the other, each as if on its own."""

    requests: Sequence[Request]
    future: Future[list[Result]] = field(default_factory=Future)
    deadlocks: int = 0


class _DeadlockError(Exception):
    """The transaction was undone; it may go through another time."""


class Batches:
    """The one queue of a process to the tables of shared state."""

    def __init__(self, database: Database, apply: Apply) -> None:
        self._database = database
        self._apply = apply
        self._waiting: deque[_Group] = deque()
        self._taken: list[_Group] = []
        self._busy = False
        self._mutex = threading.Lock()

    async def carry_out(self, requests: Sequence[Request]) -> list[Result]:
        """Return what came of requests, after it was committed; what was begun goes on if nobody waits."""
        group = _Group(requests=requests)
        with self._mutex:
            self._waiting.append(group)
            begins, self._busy = not self._busy, True
        if begins:
            self._send()
        return await asyncio.shield(asyncio.wrap_future(group.future))

    def _send(self) -> None:
        try:
            sent = self._database.submit(self._work)
        except AdmiraltyError as error:  # the database is closed
            self._fail(error)
            return
        sent.add_done_callback(self._done)

    def _work(self, connection: Connection) -> list[Result]:
        """Carry out what waits by now, in the writer's thread."""
        with self._mutex:
            size = 0
            while self._waiting and (not size or size + len(self._waiting[0].requests) <= MAX_BATCH):
                self._taken.append(self._waiting.popleft())
                size += len(self._taken[-1].requests)
        try:
            return self._apply(connection, [request for group in self._taken for request in group.requests])
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) == _DEADLOCK:
                raise _DeadlockError from error
            raise

    def _done(self, sent: Future[list[Result]]) -> None:
        """Tell what came of a batch, after its commit; go on with what has come meanwhile."""
        taken, self._taken = self._taken, []
        error = sent.exception()
        if error is None:
            results = iter(sent.result())
            for group in taken:
                group.future.set_result([next(results) for _ in group.requests])
        elif isinstance(error, _DeadlockError) and all(one.deadlocks < MAX_DEADLOCKS for one in taken):
            for group in taken:
                group.deadlocks += 1
            with self._mutex:
                self._waiting.extendleft(reversed(taken))
        else:
            if isinstance(error, _DeadlockError):
                error = Retryable("Too many processes wrote the same values at once.", retry_after=1.0)
            for group in taken:
                group.future.set_exception(error)
        with self._mutex:
            self._busy = bool(self._waiting)
        if self._busy:
            self._send()

    def _fail(self, error: AdmiraltyError) -> None:
        with self._mutex:
            left, self._busy = list(self._waiting), False
            self._waiting.clear()
        for group in left:
            group.future.set_exception(error)
