"""Plain lookups: fleets whose tools are no desk of records."""

from __future__ import annotations

from typing import Literal

import pytest

from admiralty.agents import Agent, Fleet
from admiralty.tools import ToolContext, tool

BERTHS = {"7": "free", "12": "taken by the Aurora"}


@tool(effect="read")
async def berth_status(berth: Literal["7", "12"], ctx: ToolContext) -> dict[str, str]:
    """Say whether a berth of the harbour is free."""
    return {"berth": berth, "status": BERTHS[berth]}


@tool(effect="read")
async def ship_position(ship_id: str) -> str:
    """Say where a ship is."""
    return f"{ship_id} lies off the lighthouse"


@tool(effect="write")
async def berth_clearing(berth: Literal["7", "12"]) -> str:
    """Clear a berth of whatever lies there."""
    raise AssertionError("nobody asked for it")


harbour = Fleet(
    "harbour",
    agents=[Agent("pilot", prompt="Answer.", tools=[berth_status, ship_position, berth_clearing])],
    entry="pilot",
)


@pytest.mark.requirement("extractive.lookup")
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is berth 12 free?", "taken by the Aurora"),
        ("What about berth 7?", "free"),
        ("Which berths are there?", "Which berth: 7 or 12?"),
        ("Where is ship #A17?", "#A17 lies off the lighthouse"),
    ],
)
async def test_a_reading_tool_is_called_when_the_question_names_its_arguments(
    question: str, answer: str
) -> None:
    async with harbour.local() as local:
        assert answer in (await local.ask(question)).text
