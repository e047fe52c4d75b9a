"""A pipeline of a test's own, with a provider that answers from a script, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Caller, Identity, Model, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.scheduler.pipeline import Attempt, Next

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")
CALL = ModelCall(id="call_1", caller=CALLER, messages=(HumanMessage("hi"),), tier="mid")
MODEL = Model(provider="fake", name="m", tier="mid")


def reply(text: str = "Hello there.", *, cost: int | None = 7, **changes: Any) -> ModelReply:
    made = ModelReply(
        message=AIMessage(text),
        model="fake:m",
        tier="mid",
        usage=Usage(input_tokens=3, output_tokens=2),
        cost=None if cost is None else Nanos(cost),
        seconds=0.1,
    )
    return replace(made, **changes)


class FakeProvider:
    """Streams what a test gives it: chunks, errors, or (None) waiting for ever. A float: so many seconds."""

    def __init__(
        self, *chunks: TokenDelta | ModelReply | Exception | float | None, name: str = "fake"
    ) -> None:
        self.name = name
        self.chunks = chunks
        self.asked: list[tuple[ModelCall, str]] = []
        self.closed = False

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        self.asked.append((call, model))
        try:
            for chunk in self.chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk is None:
                    await asyncio.Event().wait()
                elif isinstance(chunk, float):
                    await asyncio.sleep(chunk)
                else:
                    yield chunk
        finally:
            self.closed = True


Outcome = TokenDelta | ModelReply | Exception


class Script:
    """A last stage that plays one list of outcomes for each attempt, and keeps the attempts."""

    def __init__(self, *attempts: Iterable[Outcome]) -> None:
        self._attempts = iter(attempts)
        self.attempts: list[Attempt] = []

    async def __call__(self, attempt: Attempt, _: Next) -> AnswerStream:
        self.attempts.append(attempt)
        for outcome in next(self._attempts):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome

    @property
    def models(self) -> list[str]:
        return [attempt.model.id for attempt in self.attempts if attempt.model]


async def read(stream: AnswerStream) -> list[Any]:
    async with aclosing(stream):
        return [chunk async for chunk in stream]
