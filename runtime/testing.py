"""A scheduler that answers from a script: for tests of fleets, without any model.

``fleet.local(scheduler=ScriptedScheduler(...))`` runs everything above the models as it is.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import ToolCall

from admiralty.core.errors import AdmiraltyError, ProviderUnavailable
from admiralty.core.ids import new_id
from admiralty.core.money import ZERO, Nanos
from admiralty.core.ports import AnswerStream
from admiralty.core.values import (
    Access,
    CallStatus,
    Decision,
    EffectState,
    Grant,
    ModelCall,
    ModelReply,
    TokenDelta,
    Usage,
    effect_key,
)

Answer = str | Mapping[str, Any] | AIMessage | Exception
"""Text, a structured output, a message with tool calls (see :func:`calls`), or an error to raise."""

Script = Callable[[ModelCall], Answer | Awaitable[Answer]]
"""Decides on an answer by the call: its agent, its messages, its tools."""


Deny = Callable[[Access], AdmiraltyError | None]
"""Decides on an access: the error that refuses it, or ``None`` to permit it."""


def calls(*wanted: tuple[str, Mapping[str, Any]], text: str = "") -> AIMessage:
    """Return an answer that asks for tools: ``calls(("order_status", {"order_id": "#W1"}))``."""
    return AIMessage(
        content=text,
        tool_calls=[ToolCall(name=name, args=dict(args), id=new_id("call")) for name, args in wanted],
    )


class ScriptedScheduler:
    """Answers model calls with ``answers`` in order, or each as a script decides.

    Text streams word by word. Each call counts 10 tokens in, 5 out, and costs 1000 nano-dollars.
    Tools may be called and corpora read, unless ``deny`` refuses it. What came of tools that change something
    is kept here, and in no database: a tool that completes its own effect wants ``providers=`` instead.
    """

    def __init__(self, answers: Iterable[Answer] | Script, *, deny: Deny | None = None) -> None:
        if callable(answers):
            self._script: Script = answers
        else:
            rest = iter(answers)
            self._script = lambda call: next(rest, _exhausted(call))
        self.calls: list[ModelCall] = []
        """Every call so far, in order."""
        self._deny = deny
        self.accesses: list[Access] = []
        """Everything that was asked for besides, in order."""
        self.settled: list[tuple[Grant, CallStatus]] = []
        """What was granted at a price, or would change something, with how it ended."""
        self.outcomes: dict[tuple[str, str], Mapping[str, Any] | None] = {}
        """What came of the calls that change something, by run and effect key; ``None``: nobody knows."""

    def stream(self, call: ModelCall) -> AnswerStream:
        return self._stream(call)

    async def _stream(self, call: ModelCall) -> AsyncGenerator[TokenDelta | ModelReply, None]:
        message = await self._answer(call)
        if call.output_schema is None:
            for piece in re.findall(r"\s*\S+\s*$|\s*\S+", str(message.text)):
                await asyncio.sleep(0)
                yield TokenDelta(text=piece)
        yield _reply(call, message)

    async def complete(self, call: ModelCall) -> ModelReply:
        return _reply(call, await self._answer(call))

    async def authorize(self, access: Access) -> Grant:
        self.accesses.append(access)
        if self._deny and (refusal := self._deny(access)):
            raise refusal
        state, outcome = self._begin(access)
        priced = access.price > 0 and state != "finished"
        return Grant(
            access=access,
            priced=priced,
            held=access.price if priced else ZERO,
            effect=state,
            outcome=outcome,
        )

    def _begin(self, access: Access) -> tuple[EffectState, Mapping[str, Any] | None]:
        if access.effect is None:
            return "", None
        key = (access.caller.run_id, effect_key(access.effect.call_id, access.effect.digest))
        if key not in self.outcomes or access.effect.resolved == "not_done":
            self.outcomes[key] = None
            return "begun", None
        outcome = self.outcomes[key]
        return ("unknown", None) if outcome is None else ("finished", outcome)

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,  # noqa: ARG002 - the port's signature
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        self.settled.append((grant, status))
        effect = grant.access.effect
        if effect is None or outcome is None:
            return
        key = (grant.access.caller.run_id, effect_key(effect.call_id, effect.digest))
        if outcome:
            self.outcomes[key] = outcome
        else:  # it was never begun
            self.outcomes.pop(key, None)

    async def _answer(self, call: ModelCall) -> AIMessage:
        self.calls.append(call)
        answer = self._script(call)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, AIMessage):
            return answer
        return AIMessage(answer if isinstance(answer, str) else json.dumps(answer))


def _exhausted(call: ModelCall) -> Exception:
    return ProviderUnavailable(f"The script has no answer for another call of {call.caller.agent}.")


def _reply(call: ModelCall, message: AIMessage) -> ModelReply:
    return ModelReply(
        message=message,
        model="scripted:model",
        tier=call.tier,
        usage=Usage(input_tokens=10, output_tokens=5),
        cost=Nanos(1000),
        seconds=0.0,
        metadata={"method": "script"},
    )


class OpenGate:
    """A gate that lets everything through."""

    async def check(self, access: Access) -> Decision:  # noqa: ARG002 - the port's signature
        """Permit it."""
        return Decision(allowed=True, reasons=("all",), bundle="open")
