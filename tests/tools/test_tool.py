"""``@tool``: what comes of a function, and which functions are refused."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from admiralty.core.errors import DefinitionError
from admiralty.tools import OUTBOX, Reconciled, Tool, ToolContext, tool


class Line(BaseModel):
    item_id: str
    title: str = Field(description="As printed.")


@tool(effect="read")
async def order_status(
    order_id: Annotated[str, Field(pattern="^#W[0-9]+$", examples=["#W1"])],
    ctx: ToolContext,
    detail: Literal["short", "long"] = "short",
    lines: list[Line] | None = None,
) -> str:
    """Tell the status of an order.

    Only of orders that the customer may see.

    Args:
        order_id: The order's number, with its
            leading '#W'.
        detail (str): How much to tell.

    Returns:
        The status: in one word.
    """
    return f"{order_id} {detail} {ctx.turn} {lines}"


@pytest.mark.requirement("tools.schema")
def test_the_schema_comes_from_signature_and_docstring_and_hides_the_context() -> None:
    function = order_status.schema["function"]
    assert order_status.schema["type"] == "function"
    assert function["name"] == "order_status"
    assert function["description"] == (
        "Tell the status of an order.\n\nOnly of orders that the customer may see."
    )
    parameters = function["parameters"]
    assert parameters["required"] == ["order_id"]
    assert parameters["additionalProperties"] is False
    assert set(parameters["properties"]) == {"order_id", "detail", "lines"}
    assert parameters["properties"]["order_id"] == {
        "type": "string",
        "description": "The order's number, with its leading '#W'.",
        "pattern": "^#W[0-9]+$",
        "examples": ["#W1"],
    }
    assert parameters["properties"]["detail"]["enum"] == ["short", "long"]
    assert parameters["properties"]["detail"]["default"] == "short"


@pytest.mark.requirement("tools.schema")
def test_generated_titles_go_and_a_field_named_title_stays() -> None:
    line = order_status.schema["function"]["parameters"]["$defs"]["Line"]
    assert line["properties"] == {
        "item_id": {"type": "string"},
        "title": {"type": "string", "description": "As printed."},
    }
    assert "title" not in line


@pytest.mark.requirement("tools.schema")
def test_prose_after_the_sections_describes_no_parameter() -> None:
    @tool
    def search(query: str) -> str:
        """Search.

        Args:
            query: What for.

        Prices: in dollars, always.
        """
        return query

    assert search.schema["function"]["parameters"]["properties"]["query"]["description"] == "What for."


def test_a_bare_decorator_makes_a_write_with_the_functions_name() -> None:
    @tool
    def cancel(order_id: str) -> str:
        """Cancel an order."""
        return order_id

    assert (cancel.name, cancel.effect, cancel.confirm, cancel.timeout) == ("cancel", "write", False, 30.0)
    assert cancel.context_parameter is None


def test_name_and_description_can_be_given() -> None:
    @tool(effect="read", name="look-up", description="Looks it up.")
    def f() -> str:
        return ""

    assert f.name == "look-up"
    assert f.schema["function"] == {
        "name": "look-up",
        "description": "Looks it up.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    }


def test_a_tool_can_still_be_called_as_its_function(context: Callable[..., ToolContext]) -> None:
    ctx = context(turn=3)
    assert asyncio.run(order_status("#W1", ctx, detail="long")) == "#W1 long 3 None"


@pytest.mark.requirement("definitions.frozen")
def test_tools_and_contexts_are_frozen_except_for_the_session(context: Callable[..., ToolContext]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        order_status.effect = "write"  # type: ignore[misc]
    ctx = context()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ctx.turn = 2  # type: ignore[misc]
    ctx.session["user_id"] = "maya"
    assert ctx.session == {"user_id": "maya"}


def test_an_idempotency_key_names_run_and_call(context: Callable[..., ToolContext]) -> None:
    assert context(call_id="call_7").idempotency_key == "run_1:call_7"


def undescribed(order_id: str) -> str:
    return order_id


def unannotated(order_id) -> str:  # type: ignore[no-untyped-def]
    """Look up."""
    return str(order_id)


def variadic(*order_ids: str) -> str:
    """Look up."""
    return ""


def positional(order_id: str, /) -> str:
    """Look up."""
    return order_id


def misdescribed(order_id: str) -> str:
    """Look up.

    Args:
        oder_id: The order.
    """
    return order_id


def unresolvable(order: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """Look up."""
    return str(order)


def opaque(order: asyncio.Lock) -> str:
    """Look up."""
    return ""


def optional_context(ctx: ToolContext | None = None) -> str:
    """Look up."""
    return ""


def underscored(_order_id: str) -> str:
    """Look up."""
    return ""


def fine(order_id: str) -> str:
    """Look up."""
    return order_id


@pytest.mark.requirement("definitions.errors", "tools.definition_errors")
@pytest.mark.parametrize(
    ("function", "options", "key", "value", "remedy"),
    [
        (undescribed, {}, "description", "", "Write a docstring"),
        (unannotated, {}, "parameter", "order_id", "Annotate it"),
        (variadic, {}, "parameter", "order_ids", "plain named parameters"),
        (positional, {}, "parameter", "order_id", "plain named parameters"),
        (misdescribed, {}, "docstring", "oder_id", "Rename or drop it"),
        (unresolvable, {}, "annotations", "name 'Nowhere' is not defined", "Import the named type"),
        (opaque, {}, "parameters", ["order"], "Use JSON types"),
        (optional_context, {}, "parameters", ["ctx"], "Use JSON types"),
        (underscored, {}, "parameters", ["_order_id"], "names that pydantic allows"),
        (fine, {"name": "look up"}, "name", "look up", "Use letters"),
        (fine, {"name": "x" * 65}, "name", "x" * 65, "at most 64"),
        (fine, {"effect": "delete"}, "effect", "delete", "read, write, irreversible"),
        (fine, {"timeout": 0}, "timeout", 0, "above 0"),
        (fine, {"timeout": float("nan")}, "timeout", pytest.approx(float("nan"), nan_ok=True), "above 0"),
        (fine, {"timeout": "1s"}, "timeout", "1s", "above 0"),
    ],
)
def test_a_wrong_function_is_refused_with_key_value_and_remedy(
    function: Callable[..., Any], options: dict[str, Any], key: str, value: object, remedy: str
) -> None:
    with pytest.raises(DefinitionError) as refused:
        tool(**options)(function)
    error = refused.value
    assert error.key == f"tool {function.__module__}.{function.__qualname__}: {key}"
    assert error.value == value
    assert remedy in error.remedy
    assert repr(error.value) in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.requirement("tools.definition_errors")
@pytest.mark.parametrize("thing", ["look_up", functools.partial(fine, order_id="#W1"), Line])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(DefinitionError, match="Decorate a `def`"):
        tool(thing)


@pytest.mark.requirement("tools.price")
@pytest.mark.parametrize(
    ("price", "nanos"),
    [("0.002", 2_000_000), (Decimal("0.000000001"), 1), (1, 1_000_000_000), ("1e-3", 1_000_000), (0, 0)],
)
def test_a_price_is_kept_exactly_in_nano_dollars(price: Any, nanos: int) -> None:
    made = tool(effect="read", price=price)(fine)
    assert made.price == nanos
    assert type(made.price) is int


@pytest.mark.requirement("tools.price", "tools.definition_errors")
@pytest.mark.parametrize(
    "price", [0.1, True, None, "free", "", "-0.1", "NaN", "Infinity", "1e400", "0.0000000001", "1000001"]
)
def test_a_price_that_is_no_exact_amount_is_refused(price: Any) -> None:
    with pytest.raises(DefinitionError, match="price") as refused:
        tool(effect="read", price=price)(fine)
    assert refused.value.value is price
    assert refused.value.remedy


def test_a_tool_knows_whether_it_is_asynchronous() -> None:
    assert order_status.is_async
    made = tool(fine)
    assert isinstance(made, Tool)
    assert not made.is_async


@pytest.mark.requirement("effects.reconcile")
def test_what_looks_for_a_call_takes_arguments_of_the_tool_and_a_context() -> None:
    def by_context(anything: ToolContext) -> Reconciled:
        return Reconciled.not_done()

    def by_name(text: str) -> Reconciled:
        return Reconciled.done(text)

    @tool(effect="write", reconcile=by_context)
    def first(text: str) -> str:
        """Write something."""
        return text

    @tool(effect="write", reconcile=by_name)
    def second(text: str, title: str = "") -> str:
        """Write something."""
        return text + title

    assert first.reconcile_parameters == {"anything"}
    assert second.reconcile_parameters == {"text"}


def _no_argument(other: str) -> Reconciled:
    return Reconciled.done(other)


def _untyped(text) -> Reconciled:  # type: ignore[no-untyped-def]
    return Reconciled.done(text)


@pytest.mark.requirement("effects.reconcile", "definitions.errors")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"reconcile": _no_argument}, r"reconcile = 'other': is no argument of the tool\. Arguments: text"),
        ({"reconcile": _untyped}, "reconcile: parameter = 'text': has no annotation"),
        ({"reconcile": "inbox"}, "reconcile = 'inbox': is no function"),
        ({"reconcile": OUTBOX}, "reconcile = 'outbox': needs a ToolContext"),
        ({"reconcile": _no_argument, "effect": "read"}, "of a tool that changes nothing"),
        ({"approval": " "}, "approval = ' ': no reason"),
        ({"approval": True}, "approval = True: no reason"),
        ({"approval": "x", "approval_seconds": 0}, "approval_seconds = 0: not a time"),
        ({"approval": "x", "approval_default": "maybe"}, "approval_default = 'maybe': unknown"),
    ],
)
def test_what_looks_for_a_call_and_who_allows_it_are_checked(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem):

        @tool(**options)
        def write(text: str) -> str:
            """Write something."""
            return text
