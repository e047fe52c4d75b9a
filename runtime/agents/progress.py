"""What a visit has produced so far, and what of it policies may know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from admiralty.core.values import Visit, VisitResult
from admiralty.tools.confirmation import PENDING

MAX_FACT = 500
"""Characters of a text in the session above which policies are not told of it."""


@dataclass(kw_only=True)
class Progress:
    """What a visit has produced so far."""

    visit: Visit
    session: dict[str, Any]
    messages: list[BaseMessage] = field(default_factory=list)
    steps: int = 0

    def result(self, *, handoff: str | None = None, output: Mapping[str, Any] | None = None) -> VisitResult:
        return VisitResult(
            messages=tuple(self.messages),
            session=self.session,
            handoff=handoff,
            output=output,
            steps=self.steps,
        )

    def facts(self) -> dict[str, Any]:
        """Return the facts that policies may ask for: of what tools keep with the conversation, the
        texts, whole numbers, truths and lists of texts.
        """
        return {key: value for key, value in self.session.items() if _is_fact(key, value)}


def _is_fact(key: str, value: object) -> bool:
    if key == PENDING:
        return False
    if isinstance(value, list | tuple):
        return len(value) <= MAX_FACT and all(isinstance(item, str) for item in value)
    return isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= MAX_FACT)


def last_user_text(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the newest user message."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return str(message.text)
    return ""
