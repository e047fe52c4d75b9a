"""``ExtractiveProvider``: answers without any language model, account or key, and says so.

It composes answers by rules from tool results and retrieved passages, and classifies by a small
embedding classifier. This module knows the port; the rules stand in the modules beside it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

from admiralty.core.errors import DeadlineExceeded
from admiralty.core.ports import AnswerStream, Clock, Embedder, Memory
from admiralty.core.values import ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.providers.extractive.classify import StructuredAnswers
from admiralty.runtime.providers.extractive.planner import plan
from admiralty.runtime.providers.extractive.schema import read_tools
from admiralty.runtime.providers.extractive.transcript import text_of
from admiralty.runtime.providers.extractive.world import Do

CHARACTERS_PER_TOKEN = 4
"""Usual for English; real tokenizers differ, and nothing is charged by this estimate."""
NOTE = "composed by rules from tool results and retrieved passages; no language model was used"
_PIECE = re.compile(r"\s*\S+\s*")

Examples = Mapping[str, Mapping[str, Sequence[str]]]
"""By agent name, by label: things that users say."""


class ExtractiveProvider:
    """The keyless provider: tier ``none``, price 0, the same answer to the same call."""

    def __init__(self, embedder: Embedder | Memory, examples: Examples, clock: Clock) -> None:
        self._clock = clock
        self._structured = StructuredAnswers(embedder, examples)

    @property
    def name(self) -> str:
        return "extractive"

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        started = self._clock.monotonic()
        if call.deadline is not None and self._clock.now() > call.deadline:
            raise DeadlineExceeded("the deadline passed before the answer was composed")
        message, about = await self._compose(call)
        text, finish = _bounded(str(message.content), call)
        message.content = text
        for piece in _PIECE.findall(text) if call.output_schema is None else [text]:
            yield TokenDelta(text=piece)
            await asyncio.sleep(0)  # lets the reader have it, and others their turn
        yield ModelReply(
            message=message,
            model=f"{self.name}:{model}",
            tier="none",
            usage=_usage(call, message),
            cost=None,
            seconds=self._clock.monotonic() - started,
            finish_reason="tool_calls" if message.tool_calls else finish,
            metadata={"method": self.name, "note": NOTE, **about},
        )

    async def _compose(self, call: ModelCall) -> tuple[AIMessage, dict[str, Any]]:
        if call.output_schema is not None:
            value, confidence = await self._structured.answer(call)
            content = json.dumps(value, ensure_ascii=False)
            return AIMessage(content=content), {"confidence": confidence, "citations": []}
        step = plan(call.messages, read_tools(call.tools, call.effects))
        if isinstance(step, Do):
            tool_call = {
                "name": step.name,
                "args": dict(step.arguments),
                "id": f"call_{call.id}",
                "type": "tool_call",
            }
            return AIMessage(content="", tool_calls=[tool_call]), {"confidence": 0.9, "citations": []}
        return AIMessage(content=step.text), {
            "confidence": round(step.confidence, 3),
            "citations": list(dict.fromkeys(step.citations)),
        }


def _bounded(text: str, call: ModelCall) -> tuple[str, str]:
    """Return ``text`` within the call's stop texts and length, and why it ends."""
    if call.output_schema is not None:  # half a JSON text helps nobody
        return text, "stop"
    for stop in call.stop:
        if stop and stop in text:
            text = text[: text.index(stop)]
    longest = (call.max_output_tokens or 0) * CHARACTERS_PER_TOKEN
    if longest and len(text) > longest:
        return text[:longest], "length"
    return text, "stop"


def _usage(call: ModelCall, message: AIMessage) -> Usage:
    read = sum(len(text_of(item)) for item in call.messages) + sum(
        len(json.dumps(tool)) for tool in call.tools
    )
    written = len(text_of(message)) + sum(len(json.dumps(item["args"])) for item in message.tool_calls)
    return Usage(input_tokens=_tokens(read), output_tokens=_tokens(written))


def _tokens(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
