"""Stage: keep a model's reply for its run, so that an execution after a crash need not ask again.

Stands behind settle, which passes no reply on before it is kept. Its row is on its way while the call is
priced, and stands before the ledger's entry in the writer's queue: so this wait costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial

from sqlalchemy import Connection

from admiralty.core.errors import Retryable, RunLost
from admiralty.core.frozen import replace
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import Caller, ModelCall, ModelReply
from admiralty.runtime.durable.naming import named
from admiralty.runtime.durable.steps import Row, insert_rows, step_row
from admiralty.runtime.scheduler.pipeline import Attempt, Next
from admiralty.runtime.scheduler.settle import as_told
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.fences import check_fence

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long an answer is kept waiting for its row while the database is away."""

PAUSE_SECONDS = 0.1
"""Between two tries."""

Write = Callable[[Connection], None]


class StepJournal:
    """Writes the replies of calls that have a ``journal``, of runs that are kept."""

    def __init__(self, database: Database, clock: Clock, *, patience: float = PATIENCE_SECONDS) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        caller, entry = attempt.call.caller, attempt.call.journal
        async with aclosing(following(attempt)) as stream:
            async for chunk in stream:
                if entry is not None and isinstance(chunk, ModelReply):
                    chunk = named(chunk, caller.run_id, entry.key)
                    if caller.fence:
                        kept = replace(entry, reply=as_told(chunk, attempt))
                        row = step_row(caller.run_id, kept, self._clock.now())
                        self._begin(attempt, partial(_write, caller, row))
                yield chunk

    def _begin(self, attempt: Attempt, write: Write) -> None:
        attempt.progress.kept = partial(self._end, attempt.call, write, self._submit(write))

    def _submit(self, write: Write) -> Future[None]:
        try:
            return self._database.submit(write)
        except Retryable as error:
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed

    async def _end(self, call: ModelCall, write: Write, future: Future[None]) -> None:
        """Return when the row is written, or will not be: the answer is worth more than its copy."""
        until = self._clock.monotonic() + self._patience
        while True:
            left = until - self._clock.monotonic()
            try:
                if future.done():
                    return future.result()
                async with asyncio.timeout(left):
                    return await asyncio.shield(asyncio.wrap_future(future))
            except RunLost:
                logger.info("the reply to call %s came for a run that was taken over", call.id)
                return None
            except (Retryable, TimeoutError) as error:
                if left <= PAUSE_SECONDS or isinstance(error, TimeoutError):
                    logger.warning("the reply to call %s is not kept: the database does not answer", call.id)
                    return None
            except Exception:
                logger.exception("the reply to call %s cannot be kept", call.id)
                return None
            await asyncio.sleep(PAUSE_SECONDS)
            future = self._submit(write)


def _write(caller: Caller, row: Row, connection: Connection) -> None:
    check_fence(connection, caller.run_id, caller.fence)
    insert_rows(connection, [row])
