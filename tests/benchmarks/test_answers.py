"""Values for schemas: what the mock generates must fit what it was asked for."""

from typing import Any

import pytest

from benchmarks.answers import example

pytestmark = pytest.mark.requirement("benchmarks.mock")

OPTIONAL_ENUM: dict[str, Any] = {
    "type": "object",
    "properties": {"handoff": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}},
}
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "a reference": (
        {
            "$defs": {
                "Item": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
            },
            "type": "object",
            "properties": {"items": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/Item"}}},
            "required": ["items"],
        },
        {"items": [{"n": 1}, {"n": 1}]},
    ),
    "several types": ({"type": ["null", "number"], "minimum": 4}, 4),
    "a constant": ({"const": "yes"}, "yes"),
    "an example": ({"type": "string", "examples": ["#W1"]}, "#W1"),
    "optional fields left out": (
        {
            "type": "object",
            "properties": {
                "flag": {"type": "boolean"},
                "name": {"type": "string"},
                "note": {"type": "string"},
            },
            "required": ["flag", "name"],
        },
        {"flag": False, "name": "x"},
    ),
}


@pytest.mark.parametrize(("schema", "expected"), CASES.values(), ids=CASES)
def test_the_example_of_a_schema_fits_it(schema: dict[str, Any], expected: Any) -> None:
    assert example(schema) == expected


@pytest.mark.parametrize(("route", "chosen"), [("b", "b"), ("nobody", "a"), (None, "a")])
def test_a_routing_field_takes_the_directed_route_where_it_allows_it(route: str | None, chosen: str) -> None:
    assert example(OPTIONAL_ENUM, route=route) == {"handoff": chosen}
