"""Stage: pay for what was used. Every attempt that passes leaves exactly one entry in the ledger.

No reply passes before it is paid, and kept for its run where it is to be.

What follows runs in a task of its own: a client who leaves does not end the provider's answer, which is
paid for anyhow, and whose usage is only told at its end.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Literal

from admiralty.core.errors import OutputInvalid, ProviderUnavailable
from admiralty.core.frozen import replace
from admiralty.core.money import ZERO, Nanos
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import CallStatus, ModelReply, TokenDelta, Usage
from admiralty.runtime.ledger.estimate import Estimator
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.prices import PriceBook
from admiralty.runtime.ledger.values import Entry
from admiralty.runtime.scheduler.hold import entry_of
from admiralty.runtime.scheduler.pipeline import Attempt, Next

logger = logging.getLogger(__name__)

OnDisconnect = Literal["drain", "estimate"]
"""What becomes of an answer that nobody waits for: read to its end, so that its usage is known, or ended
at once and charged at its worst case."""

USAGE_REPORTED = "usage_reported"
"""Key of a reply's metadata: False where the provider did not tell what it used."""

CLOSE_SECONDS = 5.0
"""How long answers that somebody reads are waited for when the scheduler closes."""

MAX_TOKENS = 2**31 - 1

FOR_US = (USAGE_REPORTED, "rate_limits")
"""What providers' metadata say to the scheduler, and to nobody else."""

Item = TokenDelta | ModelReply | BaseException


class Settle:
    """Turns holds into entries. ``drain_seconds`` is how long an answer nobody waits for is read on."""

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceBook,
        estimator: Estimator,
        clock: Clock,
        *,
        on_disconnect: OnDisconnect = "drain",
        drain_seconds: float = 60.0,
    ) -> None:
        self._ledger = ledger
        self._prices = prices
        self._estimator = estimator
        self._clock = clock
        self._on_disconnect = on_disconnect
        self._drain_seconds = drain_seconds
        self._running: set[asyncio.Task[None]] = set()
        self._left: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait a moment for what is read, then end everything; it is charged by its upper bound."""
        if heard := self._running - self._left:
            await asyncio.wait(heard, timeout=CLOSE_SECONDS)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        items: asyncio.Queue[Item] = asyncio.Queue()
        task = asyncio.create_task(self._run(attempt, following, items))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        ended = False
        try:
            while not ended:
                item = await items.get()
                if isinstance(item, BaseException):
                    ended = True
                    raise item
                ended = isinstance(item, ModelReply)
                yield item
        finally:
            if not task.done():
                self._leave(task, attempt)

    def _leave(self, task: asyncio.Task[None], attempt: Attempt) -> None:
        """Let the rest go on without a listener, or end it."""
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        if not attempt.progress.sent or self._on_disconnect == "estimate":
            # Not at once: a task that is cancelled before its first step would never pay.
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            late = asyncio.get_running_loop().call_later(self._drain_seconds, task.cancel)
            task.add_done_callback(lambda _: late.cancel())

    async def _run(self, attempt: Attempt, following: Next, items: asyncio.Queue[Item]) -> None:
        """Read what follows, pay, and only then tell of the end: no answer goes out unrecorded."""
        started = self._clock.monotonic()
        try:
            item: Item = ProviderUnavailable("The model's answer broke off before its end.")
            try:
                async with aclosing(following(attempt)) as stream:
                    async for chunk in stream:
                        if isinstance(chunk, ModelReply):
                            item = chunk
                            break
                        items.put_nowait(chunk)
            except (Exception, asyncio.CancelledError) as error:
                item = error
            items.put_nowait(await self._paid(attempt, item, self._clock.monotonic() - started))
        except BaseException as error:  # the listener must not wait for ever
            items.put_nowait(error)
            if not isinstance(error, Exception):
                raise

    async def _paid(self, attempt: Attempt, item: Item, seconds: float) -> Item:
        begun = self._clock.monotonic()
        entry = self._entry(attempt, item, seconds)
        written = await self._ledger.settle(entry, attempt.hold)
        attempt.progress.settled = entry.cost
        if attempt.progress.kept is not None:
            await attempt.progress.kept()
        attempt.progress.timings["settle"] = self._clock.monotonic() - begun
        self._estimator.learn(written)
        return replace(as_told(item, attempt), cost=entry.cost) if isinstance(item, ModelReply) else item

    def _entry(self, attempt: Attempt, item: Item, seconds: float) -> Entry:
        """Return what the ledger is told: by real usage where it is known, else by an upper bound."""
        entry = replace(entry_of(attempt, self._prices.version), seconds=seconds)
        status: CallStatus = "ok"
        reply: ModelReply | None = None
        if isinstance(item, ModelReply):
            reply = item
        elif isinstance(item, BaseException):
            status = "cancelled" if isinstance(item, asyncio.CancelledError) else "error"
            reply = item.reply if isinstance(item, OutputInvalid) else None
            entry = replace(entry, error=str(item)[:2000] or type(item).__name__)
        if reply is not None and reply.metadata.get(USAGE_REPORTED, True):
            usage = _sane(reply.usage)
            cost = self._price(attempt, usage, reply.seconds or seconds)
            return replace(entry, status=status, usage=usage, cost=cost)
        if reply is None and not self._may_have_cost(attempt, item):
            return replace(entry, status=status, cost=ZERO)
        usage = self._bound(attempt, reply)
        cost = self._price(attempt, usage, seconds)
        if attempt.hold is not None:
            cost = attempt.hold.amount if reply is None else min(cost, attempt.hold.amount)
        return replace(entry, status=status, usage=usage, cost=cost, estimated=True)

    def _price(self, attempt: Attempt, usage: Usage, seconds: float) -> Nanos:
        return ZERO if attempt.model is None else self._prices.cost(attempt.model, usage, seconds)

    def _may_have_cost(self, attempt: Attempt, item: Item) -> bool:
        """Return whether a provider may charge for an attempt that brought no reply."""
        if not attempt.progress.sent:
            return False
        if isinstance(item, asyncio.CancelledError | OutputInvalid) or attempt.progress.text_bytes:
            return True
        return getattr(item, "details", {}).get("billed") == "unknown"

    def _bound(self, attempt: Attempt, reply: ModelReply | None) -> Usage:
        """Return the most that can have been used.

        Of a whole answer: a token of text is at least a byte of it. Of one that broke off: all that it was
        allowed, as a provider may go on, and charge, after nobody reads any more.
        """
        limit = attempt.output_tokens
        if reply is None:
            output = attempt.progress.text_bytes if limit is None else limit
        else:
            told = str(reply.message.text) + (
                repr(reply.message.tool_calls) if reply.message.tool_calls else ""
            )
            output = len(told.encode(errors="replace"))
            output = output if limit is None else min(output, limit)
        return Usage(input_tokens=attempt.input_tokens, output_tokens=output)


def as_told(reply: ModelReply, attempt: Attempt) -> ModelReply:
    """Return ``reply`` without what is for the scheduler alone, of the tier that was asked in the end."""
    metadata = {name: value for name, value in reply.metadata.items() if name not in FOR_US}
    tier = attempt.model.tier if attempt.model else reply.tier  # the call's may have been lowered
    return replace(reply, tier=tier, metadata=metadata)


def _sane(usage: Usage) -> Usage:
    """Return what a provider told as numbers that can be: it may say anything."""
    counts = {name: getattr(usage, name) for name in usage.__slots__}
    if all(0 <= count <= MAX_TOKENS for count in counts.values()):
        return usage
    return Usage(**{name: max(0, min(count, MAX_TOKENS)) for name, count in counts.items()})
