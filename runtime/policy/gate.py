"""The one place where a decision turns into a refusal: asks the policy, records, lets through or raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

from admiralty.core.errors import ConfigurationError, Denied
from admiralty.core.ports import Policy
from admiralty.core.values import Access, Caller, Decision
from admiralty.runtime.policy.context import CONVERSATION_FACTS

Facts = Callable[[Caller], Awaitable[Mapping[str, int]]]
"""Returns ``calls`` and ``spent_nanos`` of the caller's conversation."""


class GovernedPolicy(Policy, Protocol):
    """A policy that says what it must be told."""

    @property
    def needs_conversation(self) -> bool:
        """Whether it ever reads what conversations have asked and spent."""
        ...

    def reads_conversation(self, access: Access) -> bool:
        """Return whether it reads that to decide on ``access``."""
        ...


class Recorder(Protocol):
    """Where decisions are kept."""

    def add(self, access: Access, decision: Decision) -> None:
        """Keep a decision, soon."""
        ...

    async def write(self, access: Access, decision: Decision) -> None:
        """Keep a decision; return once that is done, or known to have failed."""
        ...


class PolicyGate:
    """Lets through what the policy permits. Asked by the stage for model calls, and for everything else."""

    def __init__(self, policy: GovernedPolicy, log: Recorder | None, *, facts: Facts | None = None) -> None:
        """Raise ConfigurationError if the policy reads what nobody here can tell it."""
        if policy.needs_conversation and facts is None:
            raise ConfigurationError(
                "policies: they read context.calls or context.spent_nanos, which nobody tells them here. "
                "Pass facts=ConversationFacts(database)."
            )
        self._policy = policy
        self._log = log
        self._facts = facts

    async def check(self, access: Access) -> Decision:
        """Return the decision that lets ``access`` through.

        Raises Denied where it is refused; that has been recorded by then.
        """
        if self._facts is not None and self._policy.reads_conversation(access):
            told = {CONVERSATION_FACTS: await self._facts(access.caller)}
            access = replace(access, context={**access.context, **told})
        decision = self._policy.decide(access)
        if not decision.refused:
            if self._log is not None:
                self._log.add(access, decision)
            return decision
        if self._log is not None:
            await self._log.write(access, decision)
        raise refusal(access, decision)


def refusal(access: Access, decision: Decision) -> Denied:
    """Return the error that tells why: its details hold policies, reasons and bundle.

    Where a person may allow it all the same, ``approval`` tells why they are asked.
    """
    who = access.caller.agent or access.caller.identity.user or "this key"
    if decision.errors:
        why = "The policy could not be evaluated, and is taken as a no."
    elif decision.reasons:
        why = "; ".join(decision.reasons)
    else:
        why = "No policy permits it."
    return Denied(
        f"Policy denies {access.action} on {access.resource} to {who}: {why}",
        action=access.action,
        resource=access.resource,
        policies=[reason.partition(" ")[0] for reason in decision.reasons],
        reasons=list(decision.reasons),
        errors=list(decision.errors),
        bundle=decision.bundle,
        **({"approval": decision.approval} if decision.approval else {}),
    )
