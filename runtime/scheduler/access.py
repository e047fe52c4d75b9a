"""Permissions for what is no model call: tools and corpora. Decided by the policy, paid from the budgets.

Knows nothing of pipelines: a tool call has no stages, only a beginning and an end.
"""

from __future__ import annotations

from typing import Protocol

from admiralty.core.errors import Denied
from admiralty.core.money import ZERO, Nanos
from admiralty.core.ports import Clock, Metrics, Policy
from admiralty.core.values import Access, CallStatus, Decision, Grant
from admiralty.runtime.ledger.scopes import scopes_of
from admiralty.runtime.ledger.values import Charge, Entry, Hold, HoldRequest, Quote
from admiralty.runtime.scheduler.metrics import NoMetrics

_VERBS = {
    "tool:call": "call",
    "memory:read": "read",
    "memory:write": "write to",
    "release:promote": "promote",
}


class Decisions(Protocol):
    """Keeps what was decided."""

    def add(self, access: Access, decision: Decision) -> None:
        """Take note of a decision; it is stored soon."""
        ...


class Money(Protocol):
    """The part of the ledger that is asked here."""

    async def reserve(self, request: HoldRequest) -> Hold:
        """Set money aside. Raises BudgetExceeded."""
        ...

    async def settle(self, entry: Entry, hold: Hold | None) -> Entry:
        """End the hold with an entry. Idempotent."""
        ...


class AccessControl:
    """Decides on accesses, and settles those that have a price."""

    def __init__(
        self,
        *,
        policy: Policy,
        decisions: Decisions,
        ledger: Money,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self._policy = policy
        self._decisions = decisions
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics or NoMetrics()

    async def authorize(self, access: Access) -> Grant:
        """Return the permission, the price set aside. Raises Denied, BudgetExceeded."""
        decision = self._policy.decide(access)
        self._decisions.add(access, decision)
        if decision.refused:
            self._metrics.add("refused", 1, {**_tags(access), "code": Denied.code})
            raise _denied(access, decision)
        if access.price <= 0:
            return Grant(access=access, policy=decision.bundle)
        try:
            hold = await self._ledger.reserve(_request(access, decision.bundle, self._clock.now()))
        except Exception as error:
            code = str(getattr(error, "code", "internal_error"))
            self._metrics.add("refused", 1, {**_tags(access), "code": code})
            raise
        return Grant(
            access=access,
            priced=True,
            policy=decision.bundle,
            held=hold.amount,
            charges=tuple((charge.budget_id, charge.subject, charge.window) for charge in hold.charges),
        )

    async def settle(self, grant: Grant, *, status: CallStatus, seconds: float) -> None:
        """Charge the price, or give it back (``status`` error)."""
        if not grant.priced:
            return
        entry = settled_entry(grant, status=status, seconds=seconds, at=self._clock.now())
        written = await self._ledger.settle(entry, _hold(grant))
        self._metrics.add("tool_cost_usd", (written.cost or 0) / 1e9, _tags(grant.access))
        self._metrics.observe("tool_seconds", seconds, {**_tags(grant.access), "status": status})


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
        price_book="tool",
        policy=grant.policy,
        charges=_charges(grant),
        seconds=seconds,
        at=at,
    )


def _request(access: Access, policy: str, now: float) -> HoldRequest:
    unheard = Grant(access=access, priced=True, policy=policy)
    return HoldRequest(
        id=access.id,
        quote=Quote(fixed=access.price),
        entry=settled_entry(unheard, status="expired", seconds=0.0, at=now),
        scopes=scopes_of(access.caller),
        priority=access.priority,
        deadline=access.deadline,
    )


def _hold(grant: Grant) -> Hold:
    """Return the hold as it was made: everything about it can be told from the grant."""
    return Hold(
        id=grant.access.id,
        amount=Nanos(grant.held),
        output_tokens=0,
        charges=_charges(grant),
        request=_request(grant.access, grant.policy, 0.0),
    )


def _charges(grant: Grant) -> tuple[Charge, ...]:
    return tuple(Charge(*charge) for charge in grant.charges)


def _denied(access: Access, decision: Decision) -> Denied:
    why = ", ".join(decision.reasons) or "nothing permits it"
    if decision.errors:
        why = "the policy could not be evaluated"
    agent, verb = access.caller.agent, _VERBS.get(access.action, access.action)
    return Denied(
        f"the policy does not permit {agent} to {verb} {access.resource} ({why})",
        action=access.action,
        resource=access.resource,
        reasons=list(decision.reasons),
        policy=decision.bundle,
    )


def _tags(access: Access) -> dict[str, str]:
    return {"agent": access.caller.agent, "action": access.action, "resource": access.resource}
