"""The conversation as the planner sees it: turns, and in each the tool calls with their outcomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from admiralty.runtime.providers.extractive.spelling import corrected

Status = Literal["ok", "error", "asked", "open"]

_ERROR = "Error:"
_ASKED = "CONFIRMATION REQUIRED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A tool call and, once it came, its result."""

    name: str
    arguments: Mapping[str, Any]
    content: str | None
    turn: int
    """Index of its turn."""
    seq: int
    """Its place among all calls of the conversation."""

    @property
    def status(self) -> Status:
        """``asked`` where the user's confirmation is wanted first, ``open`` without a result."""
        if self.content is None:
            return "open"
        if self.content.startswith(_ERROR):
            return "error"
        return "asked" if self.content.startswith(_ASKED) else "ok"

    @property
    def error(self) -> str:
        return (self.content or "").removeprefix(_ERROR).strip()

    @property
    def key(self) -> str:
        return call_key(self.name, self.arguments)


def call_key(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal calls."""
    return json.dumps([name, arguments], sort_keys=True, default=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A user message and what followed it."""

    text: str
    calls: tuple[Call, ...] = ()
    answers: tuple[tuple[str, str], ...] = ()
    """(agent, text) of each answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """All turns, oldest first; the last is the present one."""

    turns: tuple[Turn, ...] = field(default_factory=tuple)

    @property
    def current(self) -> Turn:
        return self.turns[-1] if self.turns else Turn(text="")

    @property
    def calls(self) -> list[Call]:
        return [call for turn in self.turns for call in turn.calls]

    @property
    def user_texts(self) -> list[str]:
        return [turn.text for turn in self.turns]


def text_of(message: BaseMessage) -> str:
    """Return a message's text, whether it is plain or in blocks."""
    content = message.content
    if isinstance(content, str):
        return content
    parts = [block if isinstance(block, str) else str(block.get("text", "")) for block in content]
    return "\n".join(part for part in parts if part)


def read_transcript(messages: Sequence[BaseMessage]) -> Transcript:
    """Read LangChain messages, oldest first. Calls without a result stay open."""
    results = {
        message.tool_call_id: text_of(message) for message in messages if isinstance(message, ToolMessage)
    }
    turns: list[Turn] = []
    calls: list[Call] = []
    answers: list[tuple[str, str]] = []
    asked: str | None = None
    seq = 0

    def close() -> None:
        if asked is not None:
            turns.append(Turn(text=asked, calls=tuple(calls), answers=tuple(answers)))

    for message in messages:
        if isinstance(message, HumanMessage):
            close()
            asked, calls, answers = corrected(text_of(message)), [], []
        elif isinstance(message, AIMessage):
            if text := text_of(message).strip():
                answers.append((message.name or "", text))
            for call in message.tool_calls:
                content = results.get(call["id"] or "")
                calls.append(
                    Call(name=call["name"], arguments=call["args"], content=content, turn=len(turns), seq=seq)
                )
                seq += 1
    close()
    return Transcript(turns=tuple(turns))
