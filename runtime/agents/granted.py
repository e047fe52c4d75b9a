"""Tool calls that the scheduler has granted: run and paid for, told again, or looked after.

What may change the world is run once. Where nobody knows whether it was, the tool's ``reconcile`` is asked;
where that does not help, EffectUnknown ends the execution, and a person looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from admiralty.core import frozen
from admiralty.core.clock import SystemClock
from admiralty.core.errors import AdmiraltyError, ApprovalRequired, EffectUnknown, Retryable
from admiralty.core.ids import new_id
from admiralty.core.money import ZERO
from admiralty.core.ports import Scheduler
from admiralty.core.values import Access, CallStatus, EffectCall, Grant
from admiralty.runtime.effects.outbox import OutboxEffect
from admiralty.runtime.effects.outcomes import record, restore, snapshot
from admiralty.runtime.effects.values import NOT_BEGUN
from admiralty.tools import Reconciled, ToolExecutor, ToolOutcome
from admiralty.tools.executor import MAX_RESULT_CHARACTERS, PreparedCall, to_content

logger = logging.getLogger(__name__)

SETTLE_PAUSES = (0.1, 0.5, 2.0)
"""Seconds before the outcome of an effect is told again to a scheduler that did not take it."""

Session = MutableMapping[str, Any]


class GrantedCalls:
    """Calls of one agent's tools."""

    def __init__(self, scheduler: Scheduler, executor: ToolExecutor) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._late: set[asyncio.Task[Any]] = set()

    async def authorize(self, access: Access) -> Grant:
        """Ask for a call. Raises Denied, BudgetExceeded, RunLost."""
        if not access.price and access.effect is None:
            return await self._scheduler.authorize(access)
        asking = self._keep(self._scheduler.authorize(access))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # It may be granted by now: money set aside, a row begun, for a tool that will never run.
            asking.add_done_callback(self._give_back)
            raise

    def _give_back(self, asking: asyncio.Task[Grant]) -> None:
        if not asking.cancelled() and asking.exception() is None and asking.result().open:
            self._keep(self._settle(asking.result(), "error", 0.0, NOT_BEGUN))

    async def make(self, call: PreparedCall, grant: Grant, session: Session) -> ToolOutcome:
        """Return what comes of a call, or came of it: it is run if it is new.

        Raises EffectUnknown, ApprovalRequired (then nothing was done, and its row is gone), RunLost, and
        what :meth:`authorize` raises, where it has to ask again.
        """
        if grant.effect == "finished":
            return restore(grant.outcome or {}, session)
        if grant.effect == "unknown":
            return await self._look_after(call, grant, session)
        if not grant.open:
            return await self._executor.run(call)
        return await self._run(call, grant, session)

    # -- running -----------------------------------------------------------------------------------

    async def _run(self, call: PreparedCall, grant: Grant, session: Session) -> ToolOutcome:
        before, started = snapshot(session), time.monotonic()
        if grant.effect and grant.access.effect is not None:
            call = _with_effect(call, grant.access.effect, before, session)
        running: asyncio.Task[ToolOutcome] | None = None
        try:
            if call.tool.is_async:
                outcome = await self._executor.run(call)
            else:
                running = self._keep(self._executor.run(call))
                outcome = await asyncio.shield(running)
            if outcome.unfinished and grant.effect:
                return await self._given_up(call, grant, outcome, before, session)
        except ApprovalRequired:
            await asyncio.shield(self._keep(self._settle(grant, "error", 0.0, NOT_BEGUN)))
            raise
        except EffectUnknown:
            elapsed = time.monotonic() - started
            await asyncio.shield(self._keep(self._settle(grant, "cancelled", elapsed, None)))
            raise
        except BaseException:  # cancelled, or taken over: nobody knows how far it had come
            if running is not None and not running.done():
                # A thread cannot be ended: what comes of it is written down when it comes.
                self._keep(self._end_late(running, grant, before, session))
                raise
            self._keep(self._settle(grant, "cancelled", time.monotonic() - started, None))
            raise
        status: CallStatus = "ok" if outcome.ran else "cancelled" if outcome.unfinished else "error"
        return await self._end(grant, outcome, status, before, session)

    async def _end_late(
        self,
        running: asyncio.Task[ToolOutcome],
        grant: Grant,
        before: Mapping[str, Any],
        session: Session,
    ) -> None:
        """Settle a call that was still at work when its visit was broken off."""
        started = time.monotonic()
        try:
            outcome = await running
        except Exception:
            await self._settle(grant, "cancelled", time.monotonic() - started, None)
            return
        if outcome.unfinished:
            await self._settle(grant, "cancelled", outcome.seconds, None)
            return
        status: CallStatus = "ok" if outcome.ran else "error"
        kept = record(outcome, before, session) if grant.effect else None
        await self._settle(grant, status, outcome.seconds, kept)

    async def _given_up(
        self,
        call: PreparedCall,
        grant: Grant,
        outcome: ToolOutcome,
        before: Mapping[str, Any],
        session: Session,
    ) -> ToolOutcome:
        """Find out what became of a call that was given up while it ran. Raises EffectUnknown."""
        if call.tool.outbox:
            # With the row finished here, the tool can complete it no more; unless it was quicker.
            await self._end(grant, outcome, "cancelled", before, session)
            known = await self.authorize(frozen.replace(grant.access, id=new_id("call")))
            if known.effect != "finished":
                raise _unknown(call, grant)
            return replace(restore(known.outcome or {}, session), cost=_price(grant))
        answer = await self._executor.reconcile(call)
        if answer.state == "done":
            done = _done(answer, outcome.seconds)
            return await self._end(frozen.replace(grant, effect="unknown"), done, "ok", before, session)
        # A thread cannot be ended: what a sync function has not done yet, it may still do.
        if answer.state == "not_done" and call.tool.is_async:
            return await self._end(grant, outcome, "error", before, session)
        raise _unknown(call, grant)

    async def _end(
        self,
        grant: Grant,
        outcome: ToolOutcome,
        status: CallStatus,
        before: Mapping[str, Any],
        session: Session,
    ) -> ToolOutcome:
        kept = record(outcome, before, session) if grant.effect else None
        await asyncio.shield(self._keep(self._settle(grant, status, outcome.seconds, kept)))
        return outcome if status == "error" else replace(outcome, cost=_price(grant))

    # -- what an earlier execution has begun -------------------------------------------------------

    async def _look_after(self, call: PreparedCall, grant: Grant, session: Session) -> ToolOutcome:
        effect = grant.access.effect
        if effect is None:
            raise _unknown(call, grant)
        # The world knows it by the id under which it was begun.
        call = replace(call, ctx=replace(call.ctx, call_id=effect.call_id))
        before = snapshot(session)
        answer = await self._executor.reconcile(call)
        if answer.state != "done" and not call.tool.is_async and not call.tool.outbox:
            grant = await self._until_ended(call, grant)
            if grant.effect != "unknown":
                return await self.make(call, grant, session)
            answer = await self._executor.reconcile(call)
        if answer.state == "done":
            return await self._end(grant, _done(answer, 0.0), "ok", before, session)
        if answer.state == "not_done":
            resolved = frozen.replace(effect, resolved="not_done", journal=())
            again = await self.authorize(frozen.replace(grant.access, id=new_id("call"), effect=resolved))
            if again.effect == "begun":
                return await self._run(call, again, session)
            if again.effect == "finished":
                return restore(again.outcome or {}, session)
        raise _unknown(call, grant)

    async def _until_ended(self, call: PreparedCall, grant: Grant) -> Grant:
        """Wait as long as another execution's thread may be at work; return what is known of the call then.

        Threads cannot be ended: one may go on where its visit was cancelled, or its process taken for dead.
        """
        until, pause = grant.begun_at + call.tool.timeout, 0.05
        while grant.effect == "unknown" and (left := until - time.time()) > 0:
            await asyncio.sleep(min(left, pause))
            pause = min(1.0, 2 * pause)
            grant = await self.authorize(frozen.replace(grant.access, id=new_id("call")))
        return grant

    # -- settling ----------------------------------------------------------------------------------

    async def _settle(
        self, grant: Grant, status: CallStatus, seconds: float, outcome: Mapping[str, Any] | None
    ) -> None:
        pauses = SETTLE_PAUSES if grant.effect else ()
        for pause in (*pauses, None):
            try:
                await self._scheduler.settle(grant, status=status, seconds=seconds, outcome=outcome)
            except Retryable as error:
                if pause is not None:
                    await asyncio.sleep(pause)
                    continue
                self._unsettled(grant, error)
            except AdmiraltyError as error:
                self._unsettled(grant, error)
            return

    def _unsettled(self, grant: Grant, error: AdmiraltyError) -> None:
        # The tool has run: its result is not thrown away. The hold runs out, and is then charged; and
        # another execution would find the effect begun, and ask.
        logger.warning("tool call %s could not be settled: %s", grant.access.id, error)

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        """Begin work that goes on when the visit is cancelled."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task


def _with_effect(
    call: PreparedCall, effect: EffectCall, before: Mapping[str, Any], session: Session
) -> PreparedCall:
    """Return the call with the handle by which the tool may complete its effect itself."""

    def outcome_of(result: Any) -> Mapping[str, Any]:
        done = ToolOutcome(status="ok", content=to_content(result), seconds=0.0, ran=True)
        return record(done, before, session)

    handle = OutboxEffect(call.ctx.caller, effect, SystemClock(), outcome_of)
    return replace(call, ctx=replace(call.ctx, effect=handle))


def _done(answer: Reconciled, seconds: float) -> ToolOutcome:
    """Return the outcome that the tool would have had."""
    content = to_content(answer.result)
    if len(content) > MAX_RESULT_CHARACTERS:
        content = "It was done. What came of it is too long to be told."
    return ToolOutcome(status="ok", content=content, seconds=seconds, ran=True)


def _price(grant: Grant) -> Any:
    return grant.access.price if grant.priced else ZERO


def _unknown(call: PreparedCall, grant: Grant) -> EffectUnknown:
    effect = grant.access.effect
    return EffectUnknown(
        f"{call.tool.name} was begun, and nobody knows whether it was carried out. A person must look, and "
        "say so; then the run can be retried.",
        tool=call.tool.name,
        call_id=call.ctx.call_id if effect is None else effect.call_id,
        digest="" if effect is None else effect.digest,
        run_id=call.ctx.caller.run_id,
    )
