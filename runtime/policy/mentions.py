"""What of a request's context a bundle's policies read: only that is looked up and handed to Cedar.

Building the context is most of what a decision costs, and some of it (what a conversation has spent)
is a question to the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_CONTEXT = {"Var": "context"}
_SESSION = {".": {"left": _CONTEXT, "attr": "session"}}

CONVERSATION = frozenset({"calls", "spent_nanos"})
"""Attributes of the context that somebody must be asked for."""


@dataclass(frozen=True, slots=True)
class Mentions:
    """Names of the context's attributes, and of the session's facts, that policies read."""

    attributes: frozenset[str] = field(default_factory=frozenset)
    facts: frozenset[str] = field(default_factory=frozenset)
    everything: bool = False
    """A policy handles the context, or the session, as a whole."""

    def __or__(self, other: Mentions) -> Mentions:
        return Mentions(
            self.attributes | other.attributes,
            self.facts | other.facts,
            self.everything or other.everything,
        )

    def __contains__(self, attribute: str) -> bool:
        return self.everything or attribute in self.attributes

    @property
    def conversation(self) -> bool:
        """Whether what the conversation has spent or asked so far is read."""
        return self.everything or bool(CONVERSATION & self.attributes)


def mentions_of(policies: Iterable[Mapping[str, Any]]) -> Mentions:
    """Return what policies, in Cedar's JSON form, read."""
    found = Mentions()
    for policy in policies:
        for condition in policy.get("conditions", ()):
            found = found | _walk(condition["body"])
    return found


def _walk(node: Any) -> Mentions:
    if isinstance(node, list):
        found = Mentions()
        for item in node:
            found = found | _walk(item)
        return found
    if not isinstance(node, dict):
        return Mentions()
    if node in (_CONTEXT, _SESSION):
        return Mentions(frozenset({"session"}), everything=True)
    for operator in (".", "has"):
        if operator in node and isinstance(node[operator], dict):
            left, name = node[operator].get("left"), node[operator].get("attr")
            if left == _CONTEXT:
                return Mentions(frozenset({name}))
            if left == _SESSION:
                return Mentions(frozenset({"session"}), frozenset({name}))
    return _walk(list(node.values()))
