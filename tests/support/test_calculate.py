"""The calculator takes arithmetic and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from admiralty.fleets.support.tools import TOOLS
from admiralty.tools import ToolOutcome

Call = Callable[..., Awaitable[ToolOutcome]]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2", "3.0"),
        ("2 * (19.99 + 5) - 1", "48.98"),
        ("0.1 + 0.2", "0.3"),
        ("-7 // 2", "-4.0"),
        ("2 ** 10 / 3", "341.33"),
        (" 10/4 ", "2.5"),
        ("+".join(["1.25"] * 80), "100.0"),
    ],
)
async def test_arithmetic_is_calculated_and_rounded_to_two_digits(
    stranger: Call, expression: str, value: str
) -> None:
    assert (await stranger("calculate", {"expression": expression})).content == value


@pytest.mark.requirement("support.calculate")
@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("__import__('os').system('true')", "invalid characters"),
        ("1e400", "invalid characters"),
        ("[1]*9", "invalid characters"),
        ("1 if 1 else 2", "invalid characters"),
        ("9**9**9**9", "too large"),
        ("9" * 390 + "*9", "too large"),
        ("(" * 200 + "1" + ")" * 199, "not an arithmetic expression"),
        ("-" * 5000 + "1", "longer than"),
        ("(1)(2)", "not an arithmetic expression"),
        ("()", "not an arithmetic expression"),
        ("", "not an arithmetic expression"),
        ("1 +", "not an arithmetic expression"),
        ("007", "not an arithmetic expression"),
        ("(0-8) ** 0.5", "not an arithmetic expression"),
        ("1/0", "division by zero"),
        ("1//0", "division by zero"),
    ],
)
async def test_everything_else_is_refused_at_once_and_in_words(
    stranger: Call, expression: str, problem: str
) -> None:
    outcome = await stranger("calculate", {"expression": expression})
    assert outcome.status == "error"
    assert problem in outcome.content
    assert outcome.seconds < 1


async def test_the_deepest_expression_that_is_let_through_is_calculated(stranger: Call) -> None:
    assert (await stranger("calculate", {"expression": "-" * 398 + "1"})).content == "1.0"


def test_every_tool_tells_a_model_what_it_does_and_what_its_parameters_mean() -> None:
    for tool in TOOLS:
        parameters = tool.schema["function"]["parameters"]["properties"]
        assert len(tool.description) > 40, tool.name
        assert all(schema.get("description") for schema in parameters.values()), tool.name
