"""A synchronous tool cannot be ended: what it does after its visit was broken off is known all the same."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.values import Identity, ModelCall
from admiralty.runtime.durable.values import OPEN
from admiralty.runtime.testing import ScriptedScheduler, calls
from admiralty.tools import Reconciled, Tool, ToolContext, tool

from .test_turns import Caller, opened

US = Identity()


class World:
    """What the tool does, and when it may."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.begun, self.may = threading.Event(), threading.Event()

    def tool(self) -> Tool:
        def look(order: str, ctx: ToolContext) -> Reconciled:
            return Reconciled.done("paid") if order in self.paid else Reconciled.not_done()

        @tool(effect="irreversible", reconcile=look, timeout=20)
        def pay(order: str, ctx: ToolContext) -> str:
            """Pay.

            Args:
                order: Which.
            """
            self.begun.set()
            assert self.may.wait(20)
            self.paid.append(order)
            return f"paid under {ctx.call_id}"

        return pay


@pytest.mark.requirement("effects.threads")
@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_what_a_thread_still_does_when_its_turn_is_broken_off_is_not_done_again(
    tmp_path: Path, how: str
) -> None:
    world = World()
    async with (
        opened(tmp_path, Caller("pay", order="W1"), world.tool()) as second,
        opened(tmp_path, Caller("pay", order="W1"), world.tool()) as first,
    ):
        conversation = (await first.conversations.create(US)).id
        live = await first.conversations.say(US, conversation, "Pay W1.")
        assert await asyncio.to_thread(world.begun.wait, 10)
        if how == "drain":
            await first.conversations.drain(0.01)
        else:
            await first.conversations.cancel(US, conversation, live.run.id)
            while (await first.conversations.runs.find(live.run.id)).status in OPEN:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await second.conversations.retry(US, conversation, live.run.id)
        while (await second.conversations.runs.find(live.run.id)).fence < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        world.may.set()
        followed = await second.conversations.follow(US, conversation, live.run.id, after=live.last_seq)
        async with asyncio.timeout(20):
            *_, last = [event async for event in followed.follow()]
        assert last.type == "done"
        assert last.data["message"].startswith("It says: paid")
    assert world.paid == ["W1"]


@pytest.mark.requirement("effects.session")
async def test_what_is_no_json_in_a_session_is_kept_as_json_and_the_call_is_finished() -> None:
    seen: list[Any] = []

    @tool(effect="write")
    async def note(ctx: ToolContext) -> str:
        """Note an amount."""
        seen.append(dict(ctx.session))
        ctx.session["amount"] = Decimal("1.50")
        ctx.session["by number"] = {1: "one"}
        return "noted"

    clerk = Agent("clerk", prompt=inline_prompt("Note."), tools=[note])
    fleet = Fleet("desk", agents=[clerk], entry="clerk")

    def script(call: ModelCall) -> Any:
        return calls(("note", {})) if call.messages[-1].type == "human" else "Noted."

    async with fleet.local(scheduler=ScriptedScheduler(script)) as local:
        answer = await local.ask("Note it.")
        await local.ask("Once more.", conversation=answer.conversation_id)
    assert seen == [{}, {"amount": "1.50", "by number": {"1": "one"}}]
