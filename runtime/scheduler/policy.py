"""Stage: ask the policy about the concrete model, before any money is held for it."""

from __future__ import annotations

from contextlib import aclosing

from admiralty.core.errors import ConfigurationError
from admiralty.core.frozen import replace
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Access
from admiralty.runtime.policy.gate import PolicyGate
from admiralty.runtime.scheduler.pipeline import Attempt, Next


class PolicyStage:
    """Raises Denied, or notes the bundle that permitted the attempt."""

    def __init__(self, gate: PolicyGate) -> None:
        self._gate = gate

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        decision = await self._gate.check(_access(attempt))
        permitted = replace(attempt, policy=decision.bundle)
        async with aclosing(following(permitted)) as stream:
            async for chunk in stream:
                yield chunk


def _access(attempt: Attempt) -> Access:
    call, model = attempt.call, attempt.model
    if model is None:
        raise ConfigurationError("The policy stage has no model to ask about: route must come before it.")
    return Access(
        id=attempt.id or call.id,
        caller=call.caller,
        action="model:call",
        resource=model.id,
        attributes={"tier": model.tier},
        context=call.session,
        deadline=attempt.deadline or call.deadline,
        priority=call.priority,
    )
