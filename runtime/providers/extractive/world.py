"""What a decision stands on, and what it comes to: a call, or something to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from admiralty.runtime.providers.extractive.entities import find_argument
from admiralty.runtime.providers.extractive.facts import Facts, Record
from admiralty.runtime.providers.extractive.schema import Toolbox, ToolSpec
from admiralty.runtime.providers.extractive.text import clean, humanize, listed
from admiralty.runtime.providers.extractive.transcript import Transcript, call_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Do:
    """Call a tool next."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Say:
    """Answer the user."""

    text: str
    confidence: float = 0.8
    """How sure the rules are that this is what was wanted, 0 to 1."""
    citations: tuple[str, ...] = ()


Step = Do | Say


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Tools, conversation, and what its results tell."""

    tools: Toolbox
    transcript: Transcript
    facts: Facts

    def can_call(self, step: Do) -> bool:
        """Return whether this call was not yet made in the present turn, or only before a change."""
        return call_key(step.name, step.arguments) not in self.facts.made

    def read(self, kind: str, key: str, *, fresh: bool = False) -> Record | Step:
        """Return the record, or the call that reads it, or what to say if that failed.

        With ``fresh``, a record that was read in an earlier turn, or before the last change, is read again.
        """
        record = self.facts.get(kind, key)
        if record and not (fresh and self._is_stale(record)):
            return record
        spec = self.tools.detail_of(kind)
        if spec is None:
            return record or Say(
                text=f"I cannot look up the {humanize(kind)} {clean(key)} here.", confidence=0.5
            )
        step = Do(name=spec.name, arguments={spec.required[0].name: key})
        if self.can_call(step):
            return step
        return record or Say(text=self._why_not(kind, key, step), confidence=0.9)

    def _is_stale(self, record: Record) -> bool:
        return record.turn < len(self.transcript.turns) - 1 or record.seq < self.facts.last_write

    def _why_not(self, kind: str, key: str, step: Do) -> str:
        wanted = call_key(step.name, step.arguments)
        errors = [call.error for call in self.transcript.current.calls if call.key == wanted]
        reason = errors[-1].rstrip(".") if errors else "it could not be read"
        return (
            f"I could not get the {humanize(kind)} {clean(key)}: {clean(reason, 200)}. Please check it; "
            "I can only work on your own records."
        )

    # -- who is speaking ----------------------------------------------------------------------------

    def me(self) -> Record | Step | None:
        """Return the record of who is speaking, or how to come to it; ``None`` where nobody need be known."""
        finders = self.tools.finders
        if not finders:
            return None
        for kind, key in self.facts.identified.items():
            return self.read(kind, key)
        refused: list[str] = []
        for spec in sorted(finders, key=lambda spec: len(spec.required)):
            step = self._finder_call(spec)
            if step and self.can_call(step):
                return step
            if step:
                wanted = call_key(step.name, step.arguments)
                refused += [call.error for call in self.transcript.current.calls if call.key == wanted]
        return Say(text=_ask_who(finders, refused), confidence=0.9)

    def _finder_call(self, spec: ToolSpec) -> Do | None:
        texts = self.transcript.user_texts
        arguments = {param.name: find_argument(param, texts) for param in spec.required}
        return None if None in arguments.values() else Do(name=spec.name, arguments=arguments)


def _ask_who(finders: tuple[ToolSpec, ...], refused: list[str]) -> str:
    ways = [
        listed([humanize(param.name) if param.name != "zip" else "zip code" for param in spec.required])
        for spec in sorted(finders, key=lambda spec: len(spec.required))
    ]
    asked = f"Please give me your {', or your '.join(ways)}."
    if refused:
        reason = clean(refused[-1].rstrip("."), 200)
        return f"I could not find you with what you gave me: {reason}. {asked}"
    return f"To help with that, I first need to know who you are. {asked}"
