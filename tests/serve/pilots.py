"""The fleet of these tests: `triage` runs in the gateway, `tides` can be held up, `greeter` just answers.

Loaded by `admiralty up pilots` as a person's own module; not imported by tests.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from admiralty.agents import Agent, Autoscale, Fleet, FleetContext, Resources
from admiralty.tools import ToolContext, tool


@tool(effect="read", timeout=90)
async def get_tide(harbour: Literal["north", "south"], ctx: ToolContext) -> dict[str, str]:
    """Say how high the tide is; waits while the fleet's folder has a file named `closed`.

    Args:
        harbour: Which of the two.
    """
    folder: Path = ctx.resources
    (folder / "asked").touch()
    while await asyncio.to_thread((folder / "closed").exists):  # noqa: ASYNC110 - no event reaches it here
        await asyncio.sleep(0.05)
    await ctx.state.update("told", lambda number: number + 1, default=0, namespace="tides")
    return {"harbour": harbour, "tide": "3.2 m"}


class Triage(BaseModel):
    """Who answers."""

    handoff: Literal["greeter", "tides"]


def folder(context: FleetContext) -> Path:
    """Give the tools the fleet's folder, where tests hold them up."""
    return context.home


triage = Agent(
    "triage",
    prompt="Decide who answers.",
    output=Triage,
    handoffs=["greeter", "tides"],
    placement="inline",
)
tides = Agent(
    "tides",
    description="Knows the tides.",
    prompt="Answer from the tool.",
    tools=[get_tide],
    replicas=Autoscale(minimum=1, maximum=3, target_ongoing_requests=7),
    resources=Resources(cpus=0.03, memory_mb=300),
)
greeter = Agent("greeter", description="Greets.", prompt="Greet.")

fleet = Fleet("pilots", agents=[triage, tides, greeter], entry="triage", setup=folder)
