"""docs/approvals.md: its fleet works as it says, and its commands are those that are tested."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.values import Event
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.local import LocalFleet, open_local
from admiralty.runtime.testing import ScriptedScheduler, calls

COMMANDS = {
    "admiralty approvals list",
    "admiralty approvals show APPROVAL_ID",
    'admiralty approvals approve APPROVAL_ID --reason "It is their second one."',
    'admiralty approvals approve APPROVAL_ID --arguments \'{"order_id": "W100", "amount": 20}\'',
    'admiralty approvals reject APPROVAL_ID --reason "Not without a photo."',
}
"""All of these are run, with ids, in tests/cli/test_approvals.py."""


def blocks(root: Path, language: str) -> list[str]:
    text = (root / "docs" / "approvals.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


async def answered(local: LocalFleet, message: str, **decision: Any) -> tuple[str, list[Event]]:
    """Say something, decide what it asks, and return the answer."""
    conversation = await local.conversations.create(local.identity)
    live = await local.conversations.say(local.identity, conversation.id, message)
    events: list[Event] = []
    store = ApprovalStore(local.database)
    async with asyncio.timeout(20):
        async for event in live.follow():
            events.append(event)
            if event.type == "run" and event.data["status"] == "waiting":
                (waiting,) = await store.find(status="pending")
                await store.decide(waiting.id, **decision)
                local.conversations.wake()
    assert events[-1].type == "done", events[-1]
    return events[-1].data["message"], [event for event in events if event.type == "approval"]


@pytest.mark.requirement("approvals.docs")
async def test_the_fleet_of_the_documentation_asks_as_it_says(root: Path) -> None:
    (code,) = blocks(root, "python")
    module: dict[str, Any] = {"__name__": "workshop", "__file__": str(root / "workshop.py")}
    exec(compile(code, "docs/approvals.md", "exec", dont_inherit=True), module)

    def model(call: Any) -> Any:
        last = call.messages[-1]
        if last.type == "tool":
            return f"Done: {last.text}"
        return {
            "refund": calls(("refund", {"order_id": "W100", "amount": 30})),
            "few": calls(("order_parts", {"pieces": 10})),
            "many": calls(("order_parts", {"pieces": 11})),
            "ask": calls(("ask_person", {"question": "May I?"})),
        }[str(last.text)]

    async with open_local(module["workshop"], scheduler=ScriptedScheduler(model)) as local:
        edited = {"order_id": "W100", "amount": 20}
        text, asked = await answered(local, "refund", verdict="approve", arguments=edited)
        assert text == "Done: 20 dollars of W100 are paid back."
        assert asked[0].data["reason"] == "Money leaves the house."
        assert set(asked[0].data) >= {"approval_id", "agent", "kind", "tool", "arguments", "expires_at"}
        assert [event.data["status"] for event in asked] == ["pending", "approved"]
        text, asked = await answered(local, "refund", verdict="reject", reason="Not without a photo.")
        assert "Not without a photo." in text
        assert await answered(local, "few") == ("Done: 10 pieces are ordered.", [])
        text, asked = await answered(local, "many", verdict="approve")
        assert text == "Done: 11 pieces are ordered."
        assert asked[0].data["reason"] == "11 pieces are unusually many."
        text, asked = await answered(local, "ask", verdict="approve")
        assert (text, asked[0].data["kind"]) == ("Done: Yes.", "agent")
        text, asked = await answered(local, "ask", verdict="approve", reason="You may.")
        assert text == "Done: You may."


@pytest.mark.requirement("approvals.docs")
def test_the_commands_of_the_documentation_are_those_that_are_tested(root: Path) -> None:
    (block,) = blocks(root, "bash")
    assert set(block.splitlines()) == COMMANDS
