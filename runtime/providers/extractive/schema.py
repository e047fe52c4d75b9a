"""What a tool is, read off its function schema: its verb, its parameters, whether it only reads.

A tool counts as reading where its effect says so or its name begins with a verb of looking. Everything
else is taken for a change, which is only made when the user asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from admiralty.core.values import Effect
from admiralty.runtime.providers.extractive.lexicon import ACTIONS, READ_VERBS
from admiralty.runtime.providers.extractive.text import singular, words

HANDOFF = "handoff_to_"
ADDRESS_PARTS = ("address1", "address2", "street", "city", "state", "country", "zip", "postal_code")
_QUERY_NAMES = frozenset({"query", "question", "q", "text", "search"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Param:
    """One parameter of a tool."""

    name: str
    kind: str
    """What it identifies, singular: ``order`` for ``order_id``, ``item`` for ``new_item_ids``."""
    pattern: re.Pattern[str] | None
    """How its values look in text (``x-entity``)."""
    array: bool
    enum: tuple[str, ...]
    required: bool
    description: str

    @property
    def is_entity(self) -> bool:
        """Whether its values name a record."""
        return self.name.endswith(("_id", "_ids")) or (self.name in ("id", "ids"))

    @property
    def is_new(self) -> bool:
        """Whether it names what shall take the place of another parameter's value."""
        return self.name.startswith(("new_", "replacement_", "target_"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """A tool as the planner sees it."""

    name: str
    description: str
    params: tuple[Param, ...]
    verb: str
    """The action's name in the lexicon, else the first word of the tool's name."""
    words: tuple[str, ...]
    """The words of the tool's name after the verb."""
    effect: Effect | None = None
    """As the caller tells it; a schema alone says nothing of effects."""

    def param(self, name: str) -> Param | None:
        return next((param for param in self.params if param.name == name), None)

    @property
    def required(self) -> tuple[Param, ...]:
        return tuple(param for param in self.params if param.required)

    @property
    def is_handoff(self) -> bool:
        return self.name.startswith(HANDOFF)

    @property
    def is_human(self) -> bool:
        """Whether it brings a human in."""
        return self.verb in ("transfer", "escalate") and "human" in words(f"{self.name} {self.description}")

    @property
    def is_read(self) -> bool:
        return self.verb in READ_VERBS or (self.effect == "read" and self.verb not in ("think", "calculate"))

    @property
    def is_knowledge(self) -> bool:
        """Whether it searches documents: a read with one free text to search by."""
        needed = self.required
        return self.is_read and len(needed) == 1 and needed[0].name in _QUERY_NAMES

    @property
    def is_finder(self) -> bool:
        """Whether it finds out who someone is: an id, from what they know of themselves."""
        return (
            self.is_read
            and not self.is_knowledge
            and bool(self.required)
            and "id" in self.words
            and not any(param.is_entity for param in self.params)
        )

    @property
    def is_listing(self) -> bool:
        return self.is_read and not self.required

    @property
    def is_write(self) -> bool:
        return not (self.is_read or self.is_handoff or self.is_human or self.verb in ("think", "calculate"))

    @property
    def finds(self) -> str:
        """Kind of the id that a finder returns: the word before ``id`` in its name."""
        at = self.words.index("id") if "id" in self.words else 0
        return singular(self.words[at - 1]) if at else ""

    @property
    def address(self) -> tuple[Param, ...]:
        """The parameters that together are a postal address."""
        parts = tuple(param for param in self.params if param.name in ADDRESS_PARTS)
        return parts if len(parts) >= 3 else ()

    @property
    def primary(self) -> Param | None:
        """The parameter that names the record acted on: the first single id."""
        return next((param for param in self.params if param.is_entity and not param.array), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolbox:
    """All tools of a call."""

    specs: tuple[ToolSpec, ...]

    @property
    def reads(self) -> tuple[ToolSpec, ...]:
        return tuple(spec for spec in self.specs if spec.is_read and not spec.is_knowledge)

    @property
    def writes(self) -> tuple[ToolSpec, ...]:
        return tuple(spec for spec in self.specs if spec.is_write)

    @property
    def own_verbs(self) -> tuple[str, ...]:
        """Verbs of changing tools that the lexicon does not know: people say them as they are."""
        return tuple(sorted({spec.verb for spec in self.writes} - set(ACTIONS)))

    @property
    def finders(self) -> tuple[ToolSpec, ...]:
        return tuple(spec for spec in self.specs if spec.is_finder)

    @property
    def handoffs(self) -> tuple[ToolSpec, ...]:
        return tuple(spec for spec in self.specs if spec.is_handoff)

    @property
    def knowledge(self) -> ToolSpec | None:
        return next((spec for spec in self.specs if spec.is_knowledge), None)

    @property
    def human(self) -> ToolSpec | None:
        return next((spec for spec in self.specs if spec.is_human), None)

    @property
    def listing(self) -> ToolSpec | None:
        return next((spec for spec in self.specs if spec.is_listing), None)

    def get(self, name: str) -> ToolSpec | None:
        return next((spec for spec in self.specs if spec.name == name), None)

    def detail_of(self, kind: str) -> ToolSpec | None:
        """Return the tool that reads one record of ``kind`` by its id alone."""
        for spec in self.reads:
            needed = spec.required
            if len(needed) == 1 and needed[0].is_entity and needed[0].kind == kind and not needed[0].array:
                return spec
        return None

    @property
    def patterns(self) -> dict[str, re.Pattern[str]]:
        """By kind, how ids look in text."""
        return {
            param.kind: param.pattern
            for spec in self.specs
            for param in spec.params
            if param.is_entity and param.pattern
        }


def read_tools(schemas: Sequence[Mapping[str, Any]], effects: Mapping[str, Effect] | None = None) -> Toolbox:
    """Read OpenAI function schemas; what is not a function is left out."""
    known = effects or {}
    functions = [schema["function"] for schema in schemas if "function" in schema]
    return Toolbox(specs=tuple(_read(function, known.get(str(function["name"]))) for function in functions))


def _read(function: Mapping[str, Any], effect: Effect | None) -> ToolSpec:
    name = str(function["name"])
    parts = words(name.replace("_", " "))
    parameters = function.get("parameters") or {}
    required = set(parameters.get("required", ()))
    definitions = parameters.get("$defs", {})
    params = tuple(
        _param(key, value, key in required, definitions)
        for key, value in (parameters.get("properties") or {}).items()
    )
    return ToolSpec(
        name=name,
        description=str(function.get("description", "")),
        params=params,
        verb=_verb(parts),
        # "order_status" that only reads has no verb in its name: all of it says what it is about.
        words=tuple(parts if effect == "read" and _verb(parts) not in READ_VERBS else parts[1:]),
        effect=effect,
    )


def _verb(parts: Sequence[str]) -> str:
    first = parts[0] if parts else ""
    return next((action for action, said in ACTIONS.items() if first in said), first)


def _param(name: str, schema: Mapping[str, Any], required: bool, definitions: Mapping[str, Any]) -> Param:
    array = schema.get("type") == "array"
    inner = schema.get("items", {}) if array else schema
    if "$ref" in inner:
        inner = definitions.get(str(inner["$ref"]).rsplit("/", 1)[-1], inner)
    hint = schema.get("x-entity") or inner.get("x-entity") or {}
    pattern = hint.get("pattern") or inner.get("pattern")
    kind = name
    for prefix in ("new_", "replacement_", "target_"):
        kind = kind.removeprefix(prefix)
    kind = kind.removesuffix("_ids").removesuffix("_id")
    return Param(
        name=name,
        kind=kind,
        pattern=_compile(pattern),
        array=array,
        enum=tuple(str(value) for value in inner.get("enum", ())),
        required=required,
        description=str(schema.get("description", "")),
    )


def _compile(pattern: object) -> re.Pattern[str] | None:
    """Return the pattern to search text with: anchors are dropped, since the value stands in a sentence."""
    if not isinstance(pattern, str) or not pattern:
        return None
    try:
        return re.compile(rf"(?<![\w#])(?:{pattern.removeprefix('^').removesuffix('$')})(?![\w])")
    except re.error:
        return None
