"""Tool calls under the scheduler's eyes: asked for before they run, paid for after, and made once.

Shared by the standard loop and user-written graphs, so that neither has a way to a tool around it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.messages.tool import ToolCall

from admiralty.agents import Agent
from admiralty.core import frozen
from admiralty.core.errors import AdmiraltyError, ApprovalRequired, BudgetExceeded, Denied
from admiralty.core.ids import new_id
from admiralty.core.money import ZERO
from admiralty.core.ports import Memory, Scheduler, StateStore, Vectors
from admiralty.core.values import (
    Access,
    ApprovalKind,
    ApprovalRequest,
    ApprovalVerdict,
    EffectCall,
    Passage,
    effect_key,
)
from admiralty.runtime.agents.granted import GrantedCalls
from admiralty.runtime.agents.pause import Pause
from admiralty.runtime.agents.progress import Progress, last_user_text
from admiralty.runtime.effects.outcomes import record, restore, snapshot
from admiralty.tools import SharedState, Tool, ToolContext, ToolExecutor, ToolOutcome
from admiralty.tools.confirmation import fingerprint
from admiralty.tools.executor import PreparedCall, Status

logger = logging.getLogger(__name__)

CONFIRMED = "user"
"""The approval of a call that the user has said yes to."""

APPROVED = "person"
"""The approval of a call that a person of the team has allowed."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every agent of a process shares."""

    scheduler: Scheduler
    memory: Memory | None
    resources: Any
    state: StateStore | None = None


class GovernedTools:
    """The tools of one agent."""

    def __init__(self, agent: Agent, surroundings: Surroundings) -> None:
        self._agent = agent
        self._around = surroundings
        self._executor = ToolExecutor(tool for tool in agent.tools if isinstance(tool, Tool))
        self._granted = GrantedCalls(surroundings.scheduler, self._executor)

    @property
    def by_name(self) -> Mapping[str, Tool]:
        """The tools."""
        return self._executor.tools

    async def call(self, progress: Progress, call: ToolCall) -> ToolOutcome:
        """Make a tool call: checked, permitted, allowed by a person, its price set aside, run, paid; or tell
        what came of it in an earlier execution of the run.

        A refusal is an outcome that the model reads. Raises Pause where a person must be asked first,
        EffectUnknown where nobody knows whether it was done before, and what else goes wrong at the
        scheduler.
        """
        prepared = self._executor.prepare(call["name"], call["args"], self._context(progress, call))
        if isinstance(prepared, ToolOutcome):
            return prepared
        wish = _Wish(prepared)
        told = progress.outcome_of(wish.key) if prepared.tool.effect == "read" else None
        if told is not None:
            progress.note_outcome(wish.key, told)
            return restore(told, progress.session)
        before = snapshot(progress.session)
        outcome = await self._governed(progress, prepared, wish)
        progress.note_outcome(wish.key, record(outcome, before, progress.session))
        return outcome

    async def _governed(self, progress: Progress, call: PreparedCall, wish: _Wish) -> ToolOutcome:
        verdict = progress.visit.recorded.verdicts.get(wish.key)
        if verdict is not None and verdict.verdict != "approved":
            return _not_allowed(call, verdict)
        try:
            if call.asks:
                await self._rehearse(progress, call)
                return await self._executor.run(call)
            if verdict is not None:
                checked = self._allowed(call, verdict)
                if isinstance(checked, ToolOutcome):
                    return checked
                call = checked
            elif call.tool.approval:
                await self._rehearse(progress, call, approved=True)
                raise Pause(wish.request(call.tool.approval, "tool"))
            return await self._make(progress, call, wish)
        except Denied as error:
            if verdict is None and (why := error.details.get("approval")):
                raise Pause(wish.request(str(why), "policy")) from None
            return _refused("denied", error)
        except BudgetExceeded as error:
            return _refused("budget_exceeded", error)
        except ApprovalRequired as error:
            if verdict is None:
                raise Pause(wish.request_of(error)) from None
            logger.error("tool %s asks for a person who has allowed it: see ctx.approved", call.tool.name)
            return _refused("denied", error)

    async def _make(self, progress: Progress, call: PreparedCall, wish: _Wish) -> ToolOutcome:
        access = self._access(progress, call)
        if call.tool.effect != "read":
            arguments = call.plain()
            effect = EffectCall(
                call_id=wish.call_id,
                digest=fingerprint(call.tool.name, arguments),
                arguments=arguments,
                journal=progress.take_unwritten(),
            )
            access = frozen.replace(access, effect=effect)
        grant = await self._granted.authorize(access)
        if grant.effect and access.effect is not None:
            progress.note_written(access.effect.journal)
        return await self._granted.make(call, grant, progress.session)

    async def _rehearse(self, progress: Progress, call: PreparedCall, *, approved: bool = False) -> None:
        """Ask the policy about a call that somebody has yet to allow: nobody is asked in vain."""
        access = self._access(progress, call, rehearsal=True, approved=approved)
        try:
            await self._granted.authorize(access)
        except Denied as error:
            if approved or not error.details.get("approval"):
                raise

    def _allowed(self, call: PreparedCall, verdict: ApprovalVerdict) -> PreparedCall | ToolOutcome:
        """Return the call as a person has allowed it; an outcome where their arguments do not fit."""
        ctx = replace(call.ctx, approval=verdict)
        if verdict.arguments is None:
            return replace(call, ctx=ctx)
        # The user's yes was to the call, and holds: who may allow it may also change it.
        changed = self._executor.prepare(call.tool.name, verdict.arguments, ctx)
        if isinstance(changed, ToolOutcome):
            wrong = changed.content.removeprefix("Error: ")
            text = f"Error: the arguments that {verdict.by or 'a person'} gave do not fit: {wrong}"
            return replace(changed, content=text)
        return changed

    def _context(self, progress: Progress, call: ToolCall) -> ToolContext:
        visit, memory = progress.visit, self._around.memory
        if memory is not None:
            memory = GovernedMemory(memory, self._around.scheduler, progress, self._agent.priority)
        return ToolContext(
            caller=visit.caller,
            call_id=call["id"] or new_id("call"),
            turn=visit.turn,
            user_message=last_user_text(visit.messages),
            session=progress.session,
            resources=self._around.resources,
            memory=memory,
            state=SharedState(self._around.state, lambda: visit.caller),
        )

    def _access(
        self, progress: Progress, call: PreparedCall, *, rehearsal: bool = False, approved: bool = False
    ) -> Access:
        """Return what the scheduler is asked.

        The user's yes to this very call is among the ``approvals``, and a person's. A call that must be
        confirmed or allowed first is asked for as if it had been: nobody is to be asked in vain. But money
        is only set aside for the call itself.
        """
        tool, visit = call.tool, progress.visit
        facts = progress.facts()
        given = facts.get("approvals", [])
        approvals = [*(given if isinstance(given, list | tuple) else [given])]
        if call.ctx.confirmed or call.asks:
            approvals.append(CONFIRMED)
        if call.ctx.approved or approved:
            approvals.append(APPROVED)
        if approvals:
            facts["approvals"] = approvals
        return Access(
            id=new_id("call"),  # the model's own id need not be unique
            caller=visit.caller,
            action="tool:call",
            resource=tool.name,
            attributes={"effect": tool.effect, "price": int(tool.price), "rehearsal": rehearsal},
            context=facts,
            price=ZERO if rehearsal else tool.price,
            deadline=visit.deadline,
            priority=self._agent.priority,
        )


class _Wish:
    """A call as the model wished it: that is what a person is shown, and what their verdict is kept by."""

    def __init__(self, call: PreparedCall) -> None:
        self._call = call
        self.call_id = call.ctx.call_id
        self._arguments = call.plain()
        self._digest = fingerprint(call.tool.name, self._arguments)
        self.key = effect_key(self.call_id, self._digest)

    def request(
        self,
        why: str,
        kind: ApprovalKind,
        *,
        seconds: float | None = None,
        default: Literal["reject", "approve"] | None = None,
    ) -> ApprovalRequest:
        """Return the question to a person."""
        tool, caller = self._call.tool, self._call.ctx.caller
        return ApprovalRequest(
            call_id=self.call_id,
            digest=self._digest,
            kind=kind,
            agent=caller.agent,
            agent_version=caller.agent_version,
            tool=tool.name,
            arguments=self._arguments,
            reason=why,
            expires_seconds=tool.approval_seconds if seconds is None else seconds,
            default=default or tool.approval_default,
        )

    def request_of(self, error: ApprovalRequired) -> ApprovalRequest:
        """Return the question that the tool itself asks."""
        details = error.details
        return self.request(
            error.message,
            details.get("kind", "tool"),
            seconds=details.get("expires_seconds"),
            default=details.get("default"),
        )


class GovernedMemory:
    """The Memory port as tools see it: each look into a corpus is asked for first."""

    def __init__(self, inner: Memory, scheduler: Scheduler, progress: Progress, priority: int) -> None:
        self._inner = inner
        self._scheduler = scheduler
        self._progress = progress
        self._priority = priority

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        visit = self._progress.visit
        await self._scheduler.authorize(
            Access(
                id=new_id("call"),
                caller=visit.caller,
                action="memory:read",
                resource=corpus,
                context=self._progress.facts(),
                deadline=visit.deadline,
                priority=self._priority,
            )
        )
        return await self._inner.search(corpus, query, limit=limit)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._inner.embed(texts)


def _not_allowed(call: PreparedCall, verdict: ApprovalVerdict) -> ToolOutcome:
    """Return the outcome of a call that a person was asked about, and did not allow."""
    if verdict.verdict == "expired":
        why = f"Nobody has allowed {call.tool.name} in time."
    else:
        why = f"A person has not allowed {call.tool.name}: {verdict.reason or 'no reason was given'}"
    return _refused("denied", Denied(why, approval_id=verdict.id, by=verdict.by, reason=verdict.reason))


def _refused(status: Status, error: AdmiraltyError) -> ToolOutcome:
    return ToolOutcome(status=status, content=f"Error: {error.message}", seconds=0.0, refusal=error)
