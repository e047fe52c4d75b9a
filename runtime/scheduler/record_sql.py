"""Stage: keep a record of every call in SQL. Stands in until the ledger settles calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from admiralty.core.errors import OutputInvalid
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import ModelReply, Usage
from admiralty.runtime.scheduler.pipeline import Attempt, Next
from admiralty.runtime.storage.usage import ModelCallRecord

AddRecord = Callable[[ModelCallRecord], Awaitable[None]]


class RecordInSql:
    """Writes the record before the reply is passed on: no answer goes out unrecorded.

    Stands behind routing, so that the record names the model that was asked.
    """

    def __init__(self, add: AddRecord, clock: Clock) -> None:
        self._add = add
        self._clock = clock
        self._late: set[asyncio.Future[None]] = set()

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        started = self._clock.monotonic()
        recorded = False
        try:
            async with aclosing(following(attempt)) as stream:
                async for chunk in stream:
                    if isinstance(chunk, ModelReply):
                        recorded = True  # also if the caller goes while it is being written
                        await self._add(self._record(attempt, started, "ok", chunk))
                    yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            # The caller has gone; the record must be written all the same, without awaiting here.
            if not recorded:
                record = self._record(attempt, started, "cancelled", None)
                task = asyncio.ensure_future(self._add(record))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            raise
        except Exception as error:
            if not recorded:
                reply = error.reply if isinstance(error, OutputInvalid) else None
                await self._add(self._record(attempt, started, "error", reply, str(error)))
            raise

    def _record(
        self,
        attempt: Attempt,
        started: float,
        status: str,
        reply: ModelReply | None,
        error: str | None = None,
    ) -> ModelCallRecord:
        return ModelCallRecord(
            id=attempt.id or attempt.call.id,
            caller=attempt.call.caller,
            model=reply.model if reply else attempt.model.id if attempt.model else "",
            tier=reply.tier if reply else attempt.model.tier if attempt.model else attempt.call.tier,
            status=status,
            usage=reply.usage if reply else Usage(),
            cost=reply.cost if reply else None,
            seconds=self._clock.monotonic() - started,
            at=self._clock.now(),
            error=error,
        )
