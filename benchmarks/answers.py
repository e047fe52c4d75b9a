"""What the mock provider answers: a pure function from a chat completion request to an answer.

The rules are few and fixed, so that a request always gets the same answer:

1. A request for structured output (`response_format`, a forced `tool_choice`, or a tool with a routing field
   such as `handoff`) gets JSON that fits the schema. Enums take the directed route where they contain it,
   else their first value.
2. With tools and a user's message last: a call of the tool that was directed, else of the first one named
   `get_*` or `order_*`.
3. Anything else, above all a tool's result: a short text.

This module knows nothing of HTTP, time or counters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = Mapping[str, Any]

ROUTING_FIELDS = frozenset({"handoff", "route", "next", "next_agent", "agent", "destination"})
TOOL_PREFIXES = ("get_", "order_")
WORDS = tuple("Your order is on its way and should arrive on Friday as planned.".split())  # noqa: SIM905

_ROUTE_MARKER = re.compile(rb"ROUTE:([A-Za-z0-9_-]+)")
_MAX_DEPTH = 12


@dataclass(frozen=True, kw_only=True)
class Directives:
    """What a single request asks of the mock, over its settings."""

    route: str | None = None
    """The enum value to choose in structured output."""
    tool: str | None = None
    """The tool to call, if it is among those offered."""
    tokens: int = len(WORDS)
    """Length of a text answer, one token a word."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One assistant message."""

    kind: Literal["text", "structured", "tool_call"]
    content: str | None
    """Text or structured JSON; None for a tool call."""
    tool: str | None = None
    arguments: str | None = None
    """The tool call's arguments as JSON text."""
    finish_reason: Literal["stop", "length", "tool_calls"]
    completion_tokens: int
    """Words of a text; a quarter of the characters of JSON, rounded up."""


def route_marker(body: bytes) -> str | None:
    """The last `ROUTE:name` in a raw request body: the latest message wins over the system prompt."""
    if b"ROUTE:" not in body:
        return None
    found = _ROUTE_MARKER.findall(body)
    return found[-1].decode() if found else None


def answer(request: Json, directives: Directives) -> Answer:
    """Answer a chat completion request by the rules of this module.

    Raises:
        ValueError: there is no message, or a forced tool is not among the tools.
    """
    messages = request.get("messages")
    if not isinstance(messages, Sequence) or not messages:
        raise ValueError("messages: expected a list with at least one message")
    functions = [tool["function"] for tool in request.get("tools") or ()]
    schema = _response_schema(request)
    if schema is not None:
        return _structured(schema, directives)
    forced = _forced_tool(request, functions)
    if forced is not None:
        return _tool_call(forced, directives)
    if functions and messages[-1].get("role") == "user" and request.get("tool_choice") != "none":
        chosen = _choose_tool(functions, directives)
        if chosen is not None:
            return _tool_call(chosen, directives)
    return _text(request, directives)


def example(schema: Json, *, route: str | None = None) -> Any:
    """A smallest value that fits a JSON schema (`$ref`, enums, unions, objects, arrays and scalars)."""
    return _example(schema, schema, route, 0)


def _response_schema(request: Json) -> Json | None:
    wanted = request.get("response_format")
    if not wanted or wanted.get("type") == "text":
        return None
    schema: Json = wanted.get("json_schema", {}).get("schema", {"type": "object"})
    return schema


def _forced_tool(request: Json, functions: Sequence[Json]) -> Json | None:
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        for function in functions:
            if function["name"] == name:
                return function
        raise ValueError(f"tool_choice: {name!r} is not among the tools")
    return functions[0] if choice in ("required", "any") and functions else None


def _choose_tool(functions: Sequence[Json], directives: Directives) -> Json | None:
    for function in functions:
        if function["name"] == directives.tool:
            return function
    parameters = functions[0].get("parameters", {})
    if not ROUTING_FIELDS.isdisjoint(parameters.get("properties", {})):
        return functions[0]
    return next((f for f in functions if f["name"].startswith(TOOL_PREFIXES)), None)


def _structured(schema: Json, directives: Directives) -> Answer:
    content = json.dumps(example(schema, route=directives.route))
    return Answer(
        kind="structured", content=content, finish_reason="stop", completion_tokens=-(-len(content) // 4)
    )


def _tool_call(function: Json, directives: Directives) -> Answer:
    arguments = json.dumps(example(function.get("parameters") or {"type": "object"}, route=directives.route))
    return Answer(
        kind="tool_call",
        content=None,
        tool=function["name"],
        arguments=arguments,
        finish_reason="tool_calls",
        completion_tokens=-(-(len(arguments) + len(function["name"])) // 4),
    )


def _text(request: Json, directives: Directives) -> Answer:
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or directives.tokens
    length = min(directives.tokens, limit)
    repeats = -(-length // len(WORDS))
    return Answer(
        kind="text",
        content=" ".join((WORDS * repeats)[:length]),
        finish_reason="length" if limit < directives.tokens else "stop",
        completion_tokens=length,
    )


def _example(schema: Json, root: Json, route: str | None, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return None
    if "$ref" in schema:
        return _example(_resolve(schema["$ref"], root), root, route, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        values = schema["enum"]
        return route if route in values else next((value for value in values if value is not None), None)
    union = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if union:
        return _example_of_union(union, root, route, depth)
    return _example_of_type(schema, root, route, depth)


def _example_of_union(union: Sequence[Json], root: Json, route: str | None, depth: int) -> Any:
    options = [option for option in union if option.get("type") != "null"]
    examples = [_example(option, root, route, depth + 1) for option in options]
    return route if route in examples else next(iter(examples), None)


def _example_of_type(schema: Json, root: Json, route: str | None, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object":
        # Strict structured output lists every property as required; a tool's optional arguments stay out.
        wanted = ROUTING_FIELDS.union(schema.get("required", ()))
        fields = schema.get("properties", {}).items()
        return {name: _example(field, root, route, depth + 1) for name, field in fields if name in wanted}
    if kind == "array":
        item = schema.get("items", {})
        return [_example(item, root, route, depth + 1) for _ in range(schema.get("minItems", 0))]
    given = schema.get("examples") or ([schema["default"]] if schema.get("default") is not None else [])
    if given:
        return given[0]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": False, "null": None}.get(kind, "x")


def _resolve(reference: str, root: Json) -> Json:
    found: Json = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found
