"""The examples of docs/state.md work."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from admiralty.tools import ToolContext, ToolExecutor

from .conftest import CLERK, World


def block(root: Path, mark: str) -> str:
    text = (root / "docs" / "state.md").read_text()
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"no block marked {mark!r}"
    return found[1]


@pytest.mark.requirement("state.docs")
async def test_the_guides_tools_do_what_it_says(root: Path, world: World) -> None:
    guide: dict[str, Any] = {"__name__": "guide"}
    exec(compile(block(root, "tool"), "docs/state.md", "exec", dont_inherit=True), guide)
    state = world.state(CLERK)
    await state.put("lamp", 1, namespace="stock")
    context = ToolContext(caller=CLERK, call_id="c", turn=1, user_message="", state=state)
    tools = ToolExecutor([guide["put_into_basket"], guide["reserve"]])
    for item in ("lamp", "tea"):
        outcome = await tools.execute("put_into_basket", {"item": item}, context)
    assert outcome.content == '["lamp", "tea"]'
    told = [(await tools.execute("reserve", {"item": "lamp"}, context)).content for _ in range(2)]
    assert told == ["The lamp is reserved, 0 are left.", "No lamp is left."]
    assert await state.value("lamp:conv_1", namespace="reservations") == 1

    lines = textwrap.indent(block(root, "lock"), "    ")
    exec(compile(f"async def guarded(ctx):\n{lines}", "docs/state.md", "exec", dont_inherit=True), guide)
    async with asyncio.timeout(10):
        await guide["guarded"](context)
    assert await state.value("robot:position") == [3, 4]


@pytest.mark.requirement("state.docs")
def test_the_guide_names_the_routes_that_there_are(root: Path) -> None:
    text = (root / "docs" / "state.md").read_text()
    named = {
        (method, path.partition("?")[0])
        for method, path in re.findall(r"`(GET|PUT|DELETE|POST) (/v1/state\S*?)`", text)
    }
    source = (root / "runtime" / "api" / "state_routes.py").read_text()
    routes = {
        (method.upper(), path)
        for method, path in re.findall(r"@router\.(\w+)\(\s*\"(/v1/state[^\"]*)\"", source)
    }
    assert named == routes
