"""``@tool``: a typed function becomes a tool, with its JSON schema from signature and docstring."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, create_model

from admiralty.core.errors import AdmiraltyError, DefinitionError
from admiralty.core.money import NANOS_PER_DOLLAR, ZERO, Nanos
from admiralty.core.values import Effect
from admiralty.tools.context import ToolContext
from admiralty.tools.docstring import parse_docstring
from admiralty.tools.reconcile import OUTBOX, Reconcile

NAME = re.compile(r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")
EFFECTS: tuple[Effect, ...] = typing.get_args(Effect)

MAX_PRICE = Decimal(1_000_000)
"""Dollars for one call above which a price is taken for a mistake."""


class ToolError(AdmiraltyError):
    """Raised by a tool to tell the model, in plain words, why it could not do what was asked."""

    status = 422
    code = "tool_error"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that agents may call. Made by :func:`tool`; still callable as the function it was."""

    name: str
    description: str
    function: Callable[..., Any]
    arguments: type[BaseModel]
    """Pydantic model of the arguments, without the context."""
    effect: Effect
    timeout: float
    """Seconds after which a call is given up."""
    confirm: bool
    """Whether the user must have confirmed the very arguments in the turn before."""
    price: Nanos = ZERO
    """What a call costs that ran."""
    rehearse: bool = False
    """Whether the function, called with ``ctx.rehearsal``, checks everything and changes nothing."""
    reconcile: Callable[..., Any] | None = None
    """Says whether a call was carried out that an execution which is gone had begun."""
    reconcile_parameters: frozenset[str] = frozenset()
    """Which of the arguments, and of the context's parameter, it takes."""
    outbox: bool = False
    """Whether the function completes its effect in the transaction of its own write."""
    approval: str = ""
    """Why a person must allow each call; empty: none need be asked."""
    approval_seconds: float | None = None
    """How long that person is waited for; ``None``: as the settings say."""
    approval_default: Literal["reject", "approve"] = "reject"
    """What holds when nobody has answered by then."""
    context_parameter: str | None = None
    schema: Mapping[str, Any] = field(repr=False)
    """OpenAI function schema: ``{"type": "function", "function": {...}}``."""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    effect: Effect = ...,
    name: str | None = ...,
    description: str | None = ...,
    timeout: float = ...,
    confirm: bool = ...,
    rehearse: bool = ...,
    price: str | int | Decimal = ...,
    reconcile: Reconcile | None = ...,
    approval: str = ...,
    approval_seconds: float | None = ...,
    approval_default: Literal["reject", "approve"] = ...,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = "write",
    name: str | None = None,
    description: str | None = None,
    timeout: float = 30.0,
    confirm: bool = False,
    rehearse: bool = False,
    price: str | int | Decimal = 0,
    reconcile: Reconcile | None = None,
    approval: str = "",
    approval_seconds: float | None = None,
    approval_default: Literal["reject", "approve"] = "reject",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a typed sync or async function.

    The name is the function's, the description its docstring's first paragraphs, the arguments'
    schema comes from the annotations (``Annotated[str, Field(...)]`` works) and their descriptions
    from the docstring's ``Args:`` section. A parameter annotated :class:`ToolContext` is filled in
    by the runtime and never shown to a model. Without ``effect`` a tool counts as a ``write``.

    ``confirm`` lets a call through only when the user has said yes to exactly its arguments. With
    ``rehearse`` the function is first called with ``ctx.rehearsal`` set, in which it must check
    everything and change nothing: what its rules refuse is then refused before anybody is asked.

    ``price`` is what a call costs, in dollars as text (``"0.002"``): it is reserved before the call
    and charged when the tool has run.

    ``reconcile`` is asked with the arguments of a call that began in an execution which broke off, and of
    which nobody knows whether it was carried out. It takes those of the tool's arguments that it names,
    and a :class:`ToolContext`, and returns a ``Reconciled``. Without one, a person is asked. ``"outbox"``
    says that the function calls ``ctx.effect.complete`` in the transaction of its own write.

    ``approval`` says why a person must allow every call; ``approval_seconds`` and ``approval_default``
    hold for whatever asks for a person: this, a policy, or ``ApprovalRequired`` raised in the function
    before it has done anything.

    Raises DefinitionError for a missing description, an unannotated or variadic parameter, a ``reconcile``
    that does not fit the function, or a bad name, effect, timeout, price or approval.
    """

    def make(function: Callable[..., Any]) -> Tool:
        if not inspect.isroutine(function):
            raise DefinitionError("tool", function, "is no function", "Decorate a `def` or `async def`.")
        made = _make_tool(function, effect, name, description, timeout, confirm, rehearse)
        where = f"tool {function.__module__}.{function.__qualname__}: price"
        return replace(
            made,
            price=_price(price, where),
            **_reconciling(made, reconcile),
            **_approving(made.name, approval, approval_seconds, approval_default),
        )

    return make if function is None else make(function)


def _price(value: object, where: str) -> Nanos:
    """Return a price in nano-dollars, exactly as it was written."""
    remedy = 'Give dollars as text, as in price="0.002".'
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        # A float of 0.1 is no tenth: what is charged must be what was written.
        raise DefinitionError(where, value, "not an exact amount", remedy)
    try:
        dollars = Decimal(value)
    except InvalidOperation:
        raise DefinitionError(where, value, "not a number", remedy) from None
    if not dollars.is_finite() or not 0 <= dollars <= MAX_PRICE:
        raise DefinitionError(where, value, f"not between 0 and {MAX_PRICE:,}", remedy)
    nanos = dollars * NANOS_PER_DOLLAR
    if nanos != nanos.to_integral_value():
        raise DefinitionError(where, value, "finer than a nano-dollar", "Give at most nine decimals.")
    return Nanos(int(nanos))


def _reconciling(made: Tool, reconcile: Reconcile | None) -> dict[str, Any]:
    """Return the fields that say how it is found out whether a call was carried out."""
    if reconcile is None:
        return {}
    where = f"tool {made.name}: reconcile"
    if made.effect == "read":
        raise DefinitionError(where, reconcile, "of a tool that changes nothing", "Drop it.")
    if reconcile == OUTBOX:
        if made.context_parameter is None:
            raise DefinitionError(
                where, reconcile, "needs a ToolContext", "Add one, and call ctx.effect.complete."
            )
        return {"outbox": True}
    if not callable(reconcile):
        raise DefinitionError(where, reconcile, "is no function", 'Give a function, or "outbox".')
    known = set(made.arguments.model_fields)
    fields, context = _argument_fields(reconcile, where, {})
    if unknown := set(fields) - known:
        raise DefinitionError(
            where, sorted(unknown)[0], "is no argument of the tool", f"Arguments: {', '.join(sorted(known))}."
        )
    return {"reconcile": reconcile, "reconcile_parameters": frozenset(fields) | ({context} - {None})}


def _approving(name: str, why: str, seconds: float | None, default: str) -> dict[str, Any]:
    """Return the fields that say when and how a person is asked."""
    where = f"tool {name}: approval"
    if not isinstance(why, str) or (why and not why.strip()):
        raise DefinitionError(where, why, "no reason", "Say in words why a person must allow it.")
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise DefinitionError(f"{where}_seconds", seconds, "not a time", "Give seconds above 0.")
    if default not in ("reject", "approve"):
        raise DefinitionError(f"{where}_default", default, "unknown", "Use reject or approve.")
    return {"approval": why, "approval_seconds": seconds, "approval_default": default}


def _make_tool(
    function: Callable[..., Any],
    effect: Effect,
    name: str | None,
    description: str | None,
    timeout: float,
    confirm: bool,
    rehearse: bool,
) -> Tool:
    where = f"tool {function.__module__}.{function.__qualname__}"
    tool_name = name or function.__name__
    if not NAME.match(tool_name):
        raise DefinitionError(
            f"{where}: name", tool_name, "not a tool name", "Use letters, digits, _ and -, at most 64."
        )
    if effect not in EFFECTS:
        raise DefinitionError(
            f"{where}: effect", effect, "unknown effect", f"Use one of {', '.join(EFFECTS)}."
        )
    if not isinstance(timeout, int | float) or not timeout > 0:
        raise DefinitionError(f"{where}: timeout", timeout, "not a time", "Give seconds above 0.")
    doc = parse_docstring(function.__doc__)
    text = description or doc.description
    if not text:
        raise DefinitionError(
            f"{where}: description", text, "missing", "Write a docstring: the model chooses by it."
        )
    fields, context_parameter = _argument_fields(function, where, doc.parameters)
    if rehearse and not (confirm and context_parameter):
        raise DefinitionError(
            f"{where}: rehearse", True, "needs confirm=True and a ToolContext", "Add both, or drop it."
        )
    try:
        arguments = create_model(f"{tool_name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
        parameters = arguments.model_json_schema()
    except (PydanticUserError, NameError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(
            f"{where}: parameters", sorted(fields), f"no JSON schema comes of them: {reason}",
            "Use JSON types, dataclasses or pydantic models, and names that pydantic allows.",
        ) from error  # fmt: skip
    _drop_titles(parameters)
    parameters.setdefault("properties", {})
    schema = {
        "type": "function",
        "function": {"name": tool_name, "description": text, "parameters": parameters},
    }
    return Tool(
        name=tool_name,
        description=text,
        function=function,
        arguments=arguments,
        effect=effect,
        timeout=timeout,
        confirm=confirm,
        rehearse=rehearse,
        context_parameter=context_parameter,
        schema=schema,
    )


def _argument_fields(
    function: Callable[..., Any], where: str, described: Mapping[str, str]
) -> tuple[dict[str, Any], str | None]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise DefinitionError(
            f"{where}: annotations", str(error), "cannot be resolved", "Import the named type."
        ) from error
    fields: dict[str, Any] = {}
    context_parameter: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        key = f"{where}: parameter"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                key, parameter.name, "a model cannot fill it", "Use plain named parameters."
            )
        hint = hints.get(parameter.name)
        if hint is ToolContext:
            context_parameter = parameter.name
            continue
        if hint is None:
            raise DefinitionError(
                key, parameter.name, "has no annotation", "Annotate it: the schema comes from there."
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        described_as = described.get(parameter.name)
        options: dict[str, Any] = {"description": described_as} if described_as else {}
        fields[parameter.name] = (hint, Field(default=default, **options))
    unknown = set(described) - set(fields) - {context_parameter}
    if unknown:
        raise DefinitionError(
            f"{where}: docstring", sorted(unknown)[0], "describes no parameter", "Rename or drop it."
        )
    return fields, context_parameter


def _drop_titles(schema: Any) -> None:
    """Remove pydantic's generated titles: tokens that tell a model nothing."""
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for value in schema.values():
            _drop_titles(value)
    elif isinstance(schema, list):
        for value in schema:
            _drop_titles(value)
