"""Permissions for what is no model call: tools and corpora. Decided by the policy, paid from the budgets.

What may change the world is written down in between, and is granted once. Knows nothing of pipelines: a
tool call has no stages, only a beginning and an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Literal, Protocol

from admiralty.core.errors import AdmiraltyError, Denied
from admiralty.core.frozen import replace
from admiralty.core.money import ZERO
from admiralty.core.ports import Clock, Metrics
from admiralty.core.values import Access, CallStatus, Decision, Grant
from admiralty.runtime.effects.values import Begun
from admiralty.runtime.ledger.scopes import scopes_of
from admiralty.runtime.ledger.values import Charge, Entry, Hold, HoldRequest, Quote
from admiralty.runtime.scheduler.metrics import NoMetrics

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 600.0
"""How long a call without a deadline may take before its process counts as dead."""

GRACE_SECONDS = 5.0
"""How long after its deadline a call may still be settled by whoever made it."""

PRICE_BOOK = "tool"
"""What the ledger names as the source of a tool's price: its own definition."""


class Gate(Protocol):
    """Asks the policy, and records what it says."""

    async def check(self, access: Access) -> Decision:
        """Return the decision that lets ``access`` through. Raises Denied."""
        ...


class Money(Protocol):
    """The part of the ledger that is asked here."""

    async def reserve(self, request: HoldRequest) -> Hold:
        """Set money aside. Raises BudgetExceeded."""
        ...

    async def settle(self, entry: Entry, hold: Hold | None) -> Entry:
        """End the hold with an entry. Idempotent by the entry's id."""
        ...


class Effects(Protocol):
    """The book of effects, as far as it is asked here."""

    async def recall(self, access: Access) -> Begun | None:
        """Return what earlier executions have left of the call. Raises RunLost."""
        ...

    async def begin(self, access: Access) -> Begun:
        """Write down that the call begins, or say that it has before. Raises RunLost."""
        ...

    async def finish(self, access: Access, outcome: Mapping[str, Any], *, by: str) -> bool:
        """Keep what came of the call. Idempotent."""
        ...

    async def doubt(self, access: Access) -> None:
        """Note that nobody knows what came of the call."""
        ...

    async def forget(self, access: Access, *, status: Literal["begun", "unknown"] = "begun") -> None:
        """Drop a call that was not made."""
        ...


class AccessControl:
    """Decides on accesses, and settles those that have a price or may change the world.

    The ledger keeps a hold alive as long as the process that made it. But who calls a tool is another
    process: so what has not been settled by its deadline is settled here, at its full price.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        ledger: Money,
        clock: Clock,
        effects: Effects | None = None,
        metrics: Metrics | None = None,
        longest: float = LONGEST_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._clock = clock
        self._effects = effects
        self._metrics = NoMetrics() if metrics is None else metrics
        self._longest = longest
        self._grace = grace
        self._open: dict[str, asyncio.TimerHandle] = {}
        self._late: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Watch over nothing any more: holds that are open run out by themselves, and are then charged."""
        for timer in self._open.values():
            timer.cancel()
        self._open.clear()
        if self._late:
            await asyncio.wait(self._late)

    async def authorize(self, access: Access) -> Grant:
        """Return the permission, the price set aside. Raises Denied, BudgetExceeded, RunLost.

        The policy is asked for what is to be done, not for what an earlier execution has done or begun:
        that is told as it is, and costs nothing more.
        """
        try:
            known = await self._recall(access)
            if known is not None:
                return _known(access, known, "")
            decision = await self._check(access)
            begun = (
                None if access.effect is None or self._effects is None else await self._effects.begin(access)
            )
            if begun is not None and begun.state != "begun":
                return _known(access, begun, decision.bundle)
            grant = Grant(access=access, policy=decision.bundle, effect=begun.state if begun else "")
            return await self._paid(grant) if access.price > 0 else grant
        except AdmiraltyError as error:
            self._metrics.add("refused", 1, {**_tags(access), "code": error.code})
            raise

    async def _recall(self, access: Access) -> Begun | None:
        effect = access.effect
        # A first execution has nothing to remember; what reconcile has said is not asked again.
        if self._effects is None or effect is None or effect.resolved or access.caller.fence <= 1:
            return None
        return await self._effects.recall(access)

    async def _check(self, access: Access) -> Decision:
        try:
            return await self._gate.check(access)
        except Denied:
            if self._effects is not None and access.effect is not None and access.effect.resolved:
                await self._effects.forget(access, status="unknown")  # it was not done, and will not be
            raise

    async def _paid(self, grant: Grant) -> Grant:
        access = grant.access
        try:
            hold = await self._ledger.reserve(_request(access, grant.policy, self._clock.now()))
        except BaseException:
            if self._effects is not None and grant.effect:
                await asyncio.shield(self._keep(self._effects.forget(access)))
            raise
        grant = replace(
            grant,
            priced=True,
            held=hold.amount,
            charges=tuple((charge.budget_id, charge.subject, charge.window) for charge in hold.charges),
        )
        self._watch(grant)
        return grant

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        """Charge the price, or give it back (``status`` error), and keep what came of it.

        An empty outcome says that it was never begun: its row goes.
        """
        # Side by side, so that both are in one commit.
        await asyncio.gather(self._keep_outcome(grant, outcome), self._pay(grant, status, seconds))

    async def _keep_outcome(self, grant: Grant, outcome: Mapping[str, Any] | None) -> None:
        if self._effects is None or grant.access.effect is None or grant.effect not in ("begun", "unknown"):
            return
        if outcome:
            by = "tool" if grant.effect == "begun" else "reconcile"
            await self._effects.finish(grant.access, outcome, by=by)
        elif grant.effect == "begun":
            await (self._effects.doubt if outcome is None else self._effects.forget)(grant.access)

    async def _pay(self, grant: Grant, status: CallStatus, seconds: float) -> None:
        if not grant.priced:
            return
        if timer := self._open.pop(grant.access.id, None):
            timer.cancel()
        entry = settled_entry(grant, status=status, seconds=seconds, at=self._clock.now())
        written = await self._ledger.settle(entry, _hold(grant))
        self._metrics.add("tool_cost_usd", (written.cost or 0) / 1e9, _tags(grant.access))
        self._metrics.observe("tool_seconds", seconds, {**_tags(grant.access), "status": status})

    def _watch(self, grant: Grant) -> None:
        deadline = grant.access.deadline
        left = self._longest if deadline is None else max(0.0, deadline - self._clock.now())
        loop = asyncio.get_running_loop()
        self._open[grant.access.id] = loop.call_later(left + self._grace, self._expire, grant)

    def _expire(self, grant: Grant) -> None:
        self._open.pop(grant.access.id, None)
        self._keep(self._settle_expired(grant))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin work that goes on when its caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task

    async def _settle_expired(self, grant: Grant) -> None:
        # Another process may have settled it long ago: then the ledger keeps what is there.
        try:
            entry = settled_entry(grant, status="expired", seconds=0.0, at=self._clock.now())
            await self._ledger.settle(entry, _hold(grant))
        except AdmiraltyError:
            logger.exception(
                "tool call %s, of which nothing was heard, could not be settled", grant.access.id
            )


def _known(access: Access, known: Begun, policy: str) -> Grant:
    """Return the grant of a call that is in the book already: nothing is paid for it."""
    effect = access.effect
    if effect is not None and effect.call_id != known.call_id:
        access = replace(access, effect=replace(effect, call_id=known.call_id))
    return Grant(
        access=access, policy=policy, effect=known.state, outcome=known.outcome, begun_at=known.begun_at
    )


def settled_entry(grant: Grant, *, status: CallStatus, seconds: float, at: float) -> Entry:
    """Return the ledger's entry of a tool call that has ended.

    One that failed costs nothing. One that was broken off may have done its work: it is charged, and
    marked as an estimate.
    """
    access = grant.access
    return Entry(
        id=access.id,
        call_id=access.id,
        kind="tool",
        caller=access.caller,
        tool=access.resource,
        status=status,
        cost=ZERO if status == "error" else access.price,
        held=grant.held,
        estimated=status in ("cancelled", "expired"),
        price_book=PRICE_BOOK,
        policy=grant.policy,
        charges=_charges(grant),
        seconds=seconds,
        at=at,
    )


def _request(access: Access, policy: str, at: float) -> HoldRequest:
    unheard = Grant(access=access, priced=True, policy=policy)
    return HoldRequest(
        id=access.id,
        quote=Quote(fixed=access.price),
        entry=settled_entry(unheard, status="expired", seconds=0.0, at=at),
        scopes=scopes_of(access.caller),
        priority=access.priority,
        deadline=access.deadline,
    )


def _hold(grant: Grant) -> Hold:
    """Return the hold as it was made: everything about it can be told from the grant."""
    return Hold(
        id=grant.access.id,
        amount=grant.held,
        output_tokens=0,
        charges=_charges(grant),
        request=_request(grant.access, grant.policy, 0.0),
    )


def _charges(grant: Grant) -> tuple[Charge, ...]:
    return tuple(Charge(*charge) for charge in grant.charges)


def _tags(access: Access) -> dict[str, str]:
    return {"agent": access.caller.agent, "action": access.action, "resource": access.resource}
