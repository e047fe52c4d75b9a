"""``Agent``: a frozen definition of one agent, checked when it is constructed.

Knows nothing of where it will run. What it says about placement, replicas and resources is a wish
that the runtime honours.
"""

from __future__ import annotations

import hashlib
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel

from admiralty.agents.prompt import Prompt, definition_directory, inline_prompt, load_prompt
from admiralty.core.errors import DefinitionError
from admiralty.core.values import TIERS, Tier
from admiralty.tools import Tool

NAME = re.compile(r"^[a-z][a-z0-9_-]{0,47}$")

Placement = Literal["deployment", "inline"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Autoscale:
    """Bounds of an agent's replicas. ``minimum=0`` lets it scale to zero while nobody asks."""

    minimum: int = 1
    maximum: int = 4
    target_ongoing_requests: float = 16.0
    """Visits at once that one replica should hold before another is started."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise DefinitionError(
                "Autoscale(minimum, maximum)",
                (self.minimum, self.maximum),
                "not a range",
                "Give 0 <= minimum <= maximum and maximum >= 1.",
            )
        if not self.target_ongoing_requests > 0:
            raise DefinitionError(
                "Autoscale.target_ongoing_requests",
                self.target_ongoing_requests,
                "not above 0",
                "Give the visits at once that one replica should hold.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one replica reserves on its node (Ray's logical resources)."""

    cpus: float = 0.1
    gpus: float = 0.0
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "memory_mb"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise DefinitionError(f"Resources.{name}", value, "is negative", "Give 0 or more.")


@dataclass(frozen=True)
class Agent:
    """One agent: a prompt, a tier, its tools, whom it may hand off to.

    ``prompt`` is the path of a Markdown file, relative to the file that defines the agent, or a
    :class:`Prompt`. ``output`` is a pydantic model that the answer must fit; together with
    ``handoffs`` it needs a field ``handoff`` that names the next agent (or ``None`` to answer
    itself). Without ``output``, an agent with handoffs is given one tool for each of them.

    Raises DefinitionError, naming key, value and remedy.
    """

    name: str
    _: KW_ONLY
    prompt: str | Path | Prompt = ""
    description: str = ""
    """What the agent is for: other agents choose it by this."""
    tier: Tier = "small"
    lowest_tier: Tier | None = None
    """Down to which tier its calls may be lowered when money is short: its own tier for never. By
    default ``small``, for an agent above that."""
    priority: int = 0
    """Who goes first where calls wait for money or for a rate: the higher, -100 to 100."""
    tools: Sequence[Tool | str] = ()
    """Tools, or names of tools that the fleet provides."""
    handoffs: Sequence[str] = ()
    output: type[BaseModel] | None = None
    examples: Mapping[str, Sequence[str]] | str | Path | None = None
    """Things users say, for each value of ``output``'s first enumerated field: what the
    keyless provider classifies by. A mapping, or the path of a YAML file with one."""
    graph: Callable[..., Any] | None = None
    """Builds a LangGraph graph to run instead of the standard loop: see ``docs/agents.md``."""
    placement: Placement = "deployment"
    """``inline`` runs it inside the coordinator: no hop, but no scaling of its own."""
    replicas: int | Autoscale = 1
    resources: Resources = field(default_factory=Resources)
    max_output_tokens: int | None = None
    temperature: float | None = None
    max_steps: int = 12
    """Model calls in one visit, after which the turn is ended by rule."""

    def __post_init__(self) -> None:
        key = f"Agent({self.name!r})"
        if not isinstance(self.name, str) or not NAME.match(self.name):
            raise DefinitionError(
                "Agent.name", self.name, "not a name", "Use a-z, 0-9, _ and -, beginning with a letter."
            )
        base = definition_directory(skip=__name__)
        object.__setattr__(self, "prompt", _resolve_prompt(self.prompt, base, f"{key}.prompt"))
        if self.tier not in TIERS:
            raise DefinitionError(f"{key}.tier", self.tier, "unknown tier", f"Use one of {', '.join(TIERS)}.")
        self._check_lowest_tier(key)
        if self.placement not in typing.get_args(Placement):
            raise DefinitionError(
                f"{key}.placement", self.placement, "unknown", "Use 'deployment' or 'inline'."
            )
        self._check_numbers(key)
        object.__setattr__(self, "tools", _check_tools(self.tools, key))
        object.__setattr__(self, "handoffs", self._check_handoffs(key))
        self._check_output(key)
        object.__setattr__(self, "examples", _load_examples(self.examples, base, f"{key}.examples"))

    def _check_lowest_tier(self, key: str) -> None:
        lowest = self.lowest_tier
        if lowest is not None and (lowest not in TIERS or TIERS.index(lowest) > TIERS.index(self.tier)):
            below = ", ".join(TIERS[: TIERS.index(self.tier) + 1])
            raise DefinitionError(
                f"{key}.lowest_tier", lowest, f"not a tier up to {self.tier!r}", f"Use one of {below}."
            )

    def _check_numbers(self, key: str) -> None:
        if type(self.priority) is not int or not -100 <= self.priority <= 100:
            raise DefinitionError(
                f"{key}.priority", self.priority, "no whole number in range", "Give -100 to 100."
            )
        for name, needed in (("max_steps", True), ("max_output_tokens", False)):
            value = getattr(self, name)
            if (needed or value is not None) and not (isinstance(value, int) and value >= 1):
                raise DefinitionError(f"{key}.{name}", value, "no number above 0", "Give 1 or more.")
        heat = self.temperature
        if heat is not None and not (isinstance(heat, int | float) and 0 <= heat <= 2):
            raise DefinitionError(f"{key}.temperature", heat, "out of range", "Give 0 to 2, or None.")
        if not isinstance(self.replicas, Autoscale) and not (
            type(self.replicas) is int and self.replicas >= 1
        ):
            raise DefinitionError(
                f"{key}.replicas",
                self.replicas,
                "no number above 0",
                "Give 1 or more, or Autoscale(minimum=0).",
            )
        if not isinstance(self.resources, Resources):
            raise DefinitionError(
                f"{key}.resources", self.resources, "no Resources", "Give Resources(cpus=1)."
            )
        if self.graph is not None and not callable(self.graph):
            raise DefinitionError(
                f"{key}.graph", self.graph, "cannot be called", "Give a function that builds the graph."
            )

    def _check_handoffs(self, key: str) -> tuple[str, ...]:
        if isinstance(self.handoffs, str):
            raise DefinitionError(
                f"{key}.handoffs", self.handoffs, "is a text", f"Write [{self.handoffs!r}]."
            )
        names = tuple(self.handoffs)
        if self.name in names:
            raise DefinitionError(
                f"{key}.handoffs", self.name, "an agent cannot hand off to itself", "Remove it."
            )
        if len(set(names)) != len(names):
            raise DefinitionError(f"{key}.handoffs", names, "names an agent twice", "Remove one.")
        return names

    def _check_output(self, key: str) -> None:
        if self.output is None:
            return
        if not (isinstance(self.output, type) and issubclass(self.output, BaseModel)):
            raise DefinitionError(f"{key}.output", self.output, "no pydantic model", "Give a BaseModel.")
        if self.tools and self.graph is None:
            raise DefinitionError(
                f"{key}.tools",
                [item if isinstance(item, str) else item.name for item in self.tools],
                "an agent with an output answers at once and calls no tools",
                "Remove tools or output, or hand off to an agent with the tools.",
            )
        if self.handoffs and "handoff" not in self.output.model_fields:
            raise DefinitionError(
                f"{key}.output",
                self.output.__name__,
                "has no field 'handoff'",
                f"Add: handoff: Literal[{', '.join(repr(name) for name in self.handoffs)}].",
            )
        named = _literal_values(self.output, "handoff") if self.handoffs else set()
        if stray := sorted(named - set(self.handoffs)):
            raise DefinitionError(
                f"{key}.output.handoff", stray[0], "is not among the handoffs", "Add it to them."
            )

    @property
    def floor(self) -> Tier:
        """The lowest tier that its calls may be lowered to."""
        if self.lowest_tier is not None:
            return self.lowest_tier
        return "small" if TIERS.index(self.tier) > TIERS.index("small") else self.tier

    @property
    def instructions(self) -> Prompt:
        """The prompt, loaded."""
        return cast("Prompt", self.prompt)

    @property
    def example_texts(self) -> Mapping[str, Sequence[str]]:
        """The examples, loaded; empty where there are none."""
        return self.examples if isinstance(self.examples, Mapping) else {}

    @property
    def output_schema(self) -> dict[str, Any] | None:
        """JSON schema of the structured output."""
        return None if self.output is None else self.output.model_json_schema()

    @property
    def version(self) -> str:
        """First 12 digits of the SHA-256 over prompt, tool schemas, model configuration and code."""
        content = {
            "prompt": self.instructions.digest,
            "tools": [tool if isinstance(tool, str) else _configuration(tool) for tool in self.tools],
            "handoffs": list(self.handoffs),
            "output": self.output_schema,
            "examples": {label: list(texts) for label, texts in self.example_texts.items()},
            "model": [self.tier, self.max_output_tokens, self.temperature, self.floor, self.priority],
            "graph": _code_reference(self.graph),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _configuration(tool: Tool) -> list[Any]:
    """Return what a tool's calls depend on besides its code."""
    asked = [tool.approval, tool.approval_default] if tool.approval else []
    return [tool.schema, tool.effect, tool.confirm, tool.price, *asked]


def _code_reference(function: Callable[..., Any] | None) -> str | None:
    """Return ``module.name`` of what builds a graph: a function, or an instance of a class."""
    if function is None:
        return None
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _resolve_prompt(prompt: str | Path | Prompt, base: Path, key: str) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, str | Path) or not str(prompt).strip():
        raise DefinitionError(key, prompt, "missing", "Give the path of a Markdown file.")
    text = str(prompt)
    if isinstance(prompt, str) and ("\n" in text or not text.endswith((".md", ".txt"))):
        return inline_prompt(text)
    return load_prompt(base / text, key=key)


def _check_tools(tools: Sequence[Tool | str], key: str) -> tuple[Tool | str, ...]:
    if isinstance(tools, Tool | str):
        name = tools if isinstance(tools, str) else tools.name
        raise DefinitionError(f"{key}.tools", name, "is no list", f"Write [{name}].")
    for item in tools:
        if not isinstance(item, Tool | str):
            name = getattr(item, "__name__", item)
            raise DefinitionError(
                f"{key}.tools", name, "is not a tool", "Decorate the function with @tool(effect=...)."
            )
    names = [item if isinstance(item, str) else item.name for item in tools]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"{key}.tools", name, "given twice", "Rename or remove one.")
    return tuple(tools)


def _literal_values(model: type[BaseModel], name: str) -> set[str]:
    """Return the texts that a field's annotation allows, where it is an enumeration."""
    schema = model.model_json_schema()
    field_schema = schema["properties"].get(name, {})
    options = [field_schema, *field_schema.get("anyOf", [])]
    references = [option["$ref"] for option in options if "$ref" in option]
    options += [schema["$defs"][reference.rsplit("/", 1)[-1]] for reference in references]
    values = {value for option in options for value in option.get("enum", [])}
    values |= {option["const"] for option in options if "const" in option}
    return {value for value in values if isinstance(value, str)}


def _load_examples(
    examples: Mapping[str, Sequence[str]] | str | Path | None, base: Path, key: str
) -> Mapping[str, tuple[str, ...]] | None:
    if examples is None:
        return None
    value: Any = examples
    if isinstance(examples, str | Path):
        try:
            value = yaml.safe_load((base / examples).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise DefinitionError(
                key, str(examples), f"cannot be read: {error}", "Give a YAML file: label, then texts."
            ) from error
    if not isinstance(value, Mapping) or not all(
        isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts)
        for texts in value.values()
    ):
        raise DefinitionError(key, str(examples)[:80], "not label -> texts", "Give texts for each label.")
    return {str(label): tuple(texts) for label, texts in value.items()}
