"""Effects from a conversation's side: through a whole fleet with its own scheduler and stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, ToolMessage

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.clock import SystemClock
from admiralty.core.ports import AnswerStream
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, ModelCall, ModelReply, Usage
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.local import LocalFleet, open_local
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.tools import Tool, ToolContext, tool


class Caller:
    """A provider whose model calls one tool, then tells what it has read."""

    name = "scripted"

    def __init__(self, tool: str, **arguments: Any) -> None:
        self.asked = 0
        self._call = {"name": tool, "args": arguments, "id": "call_1", "type": "tool_call"}

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        self.asked += 1
        last = call.messages[-1]
        told = isinstance(last, ToolMessage)
        message = AIMessage(f"It says: {last.text}") if told else AIMessage("", tool_calls=[self._call])
        yield ModelReply(message=message, model=model, tier="small", usage=Usage(), cost=None, seconds=0.0)


@asynccontextmanager
async def opened(
    home: Path, provider: Caller, *tools: Tool, setup: Callable[..., Any] | None = None
) -> AsyncIterator[LocalFleet]:
    clerk = Agent("clerk", prompt=inline_prompt("You are a clerk."), tools=list(tools))
    fleet = Fleet("desk", agents=[clerk], entry="clerk", setup=setup)
    settings = Settings.load(
        home=home,
        embedder="hashing",
        models=dict.fromkeys(TIERS, "scripted:one"),
        prices={"scripted:*": {"input": "0", "output": "0"}},
    )
    async with open_local(fleet, settings=settings, providers=by_account([provider])) as local:
        yield local


@pytest.mark.requirement("effects.outbox")
async def test_the_guides_tool_that_writes_to_a_database_does_so_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROOMS_DATABASE_URL", raising=False)
    text = (root / "docs/agents.md").read_text()
    found = re.search(r"<!-- outbox -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    guide: dict[str, Any] = {"__name__": "guide"}
    exec(compile(found[1], "docs/agents.md", "exec"), guide)
    provider = Caller("book_room", room="Elm")
    async with opened(tmp_path, provider, guide["book_room"], setup=guide["open_rooms"]) as local:
        answer = await local.ask("A room, please.")
        assert answer.text == "It says: Elm is booked."
        with local.resources.connect() as connection:
            [(room, run)] = connection.execute(sa.text("SELECT room, run FROM bookings")).all()
        [row] = await EffectBook(local.database, SystemClock()).of_run(run)
        local.resources.dispose()
    assert room == "Elm"
    assert (row.status, row.resolved_by, row.tool) == ("finished", "outbox", "book_room")


@pytest.mark.requirement("effects.resolve", "effects.timeout")
async def test_a_turn_waits_for_a_person_who_knows_what_became_of_its_write(tmp_path: Path) -> None:
    began: list[str] = []

    @tool(effect="write", timeout=0.05)
    async def send(to: str, ctx: ToolContext) -> str:
        """Send a letter."""
        began.append(ctx.call_id)
        await asyncio.Event().wait()
        return to

    provider = Caller("send", to="ann")
    async with opened(tmp_path, provider, send) as local:
        conversation = (await local.conversations.create(local.identity)).id
        events = [event async for event in local.stream("Write to Ann.", conversation=conversation)]
        assert (events[-1].type, events[-1].data["code"]) == ("error", "effect_unknown")
        run = str(events[-1].data["run_id"])
        assert (await local.conversations.runs.find(run)).status == "parked"
        book = EffectBook(local.database, SystemClock())
        [unknown] = await book.unknown(tenant=local.identity.tenant)
        await book.resolve(run, unknown.call_id, done=True, result="Sent on Monday.", by="ann")
        live = await local.conversations.retry(local.identity, conversation, run)
        async with asyncio.timeout(20):
            after = [event async for event in live.follow()]
    assert (after[-1].type, after[-1].data["message"]) == ("done", "It says: Sent on Monday.")
    assert len(began) == 1
    assert provider.asked == 2, "the reply that wanted the letter was kept"
