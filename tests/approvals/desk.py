"""A desk whose calls wait for persons, and a model that does what the user says. Also a process of its own.

``python desk.py HOME URL WORLD MESSAGE`` says MESSAGE in a new conversation, prints its id and the run's when
the run waits, and then does nothing until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.errors import ApprovalRequired
from admiralty.core.ports import AnswerStream
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, Identity, ModelCall, ModelReply, Usage
from admiralty.runtime.local import LocalFleet, open_local
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.tools import ToolContext, ask_person, tool

US = Identity(tenant="us", user="ann")


def desk(world: Path) -> Fleet:
    """The fleet; what its tools do is written to ``world``, a line each."""

    def done(what: str) -> str:
        with world.open("a") as file:
            file.write(f"{what}\n")
        return what

    @tool(effect="irreversible", approval="Refunds are looked at.")
    def refund(amount: int) -> str:
        """Give money back."""
        return done(f"refunded {amount}")

    @tool(effect="write")
    def order(pieces: int, ctx: ToolContext) -> str:
        """Order something; much of it only with somebody's yes."""
        if pieces > 10 and not ctx.approved:
            raise ApprovalRequired(f"{pieces} are many.")
        return done(f"ordered {pieces}")

    @tool(effect="write")
    def note(text: str) -> str:
        """Write something down."""
        return done(f"noted {text}")

    @tool(effect="write", approval="Soon over.", approval_seconds=0.2, approval_default="approve")
    def tidy() -> str:
        """Clean up, unless somebody minds."""
        return done("tidied")

    tools = [refund, order, note, tidy, ask_person]
    clerk = Agent("clerk", prompt=inline_prompt("Do it."), description="Does it", tools=tools)
    return Fleet("desk", agents=[clerk], entry="clerk", description="A desk")


@dataclass
class Obedient:
    """Calls the tools that the user's message lists, a JSON list [[name, arguments], ...] for each step."""

    name: str = "scripted"
    asked: list[str] = field(default_factory=list)
    """What the last message was, of each question."""

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        self.asked.append(str(call.messages[-1].text))
        place = max(i for i, message in enumerate(call.messages) if isinstance(message, HumanMessage))
        steps: list[Any] = json.loads(str(call.messages[place].text))
        rest = call.messages[place + 1 :]
        number = sum(isinstance(message, AIMessage) for message in rest)
        if number < len(steps):
            wanted = [
                {"name": name, "args": arguments, "id": f"call-{i}", "type": "tool_call"}
                for i, (name, arguments) in enumerate(steps[number])
            ]
            message = AIMessage("", tool_calls=wanted)
        else:
            message = AIMessage(" | ".join(str(m.text) for m in rest if isinstance(m, ToolMessage)))
        usage = Usage(input_tokens=10, output_tokens=3)
        yield ModelReply(
            message=message, model=f"scripted:{model}", tier="small", usage=usage, cost=None, seconds=0.01
        )


def settings_of(home: Path, url: str, **more: Any) -> Settings:
    """The settings of all processes of a test."""
    return Settings.load(
        home=home,
        database_url=url,
        embedder="hashing",
        models=dict.fromkeys(TIERS, "scripted:one"),
        prices={"scripted:*": {"input": "0", "output": "0", "request": "0.001"}},
        run_lease_seconds=1,
        **more,
    )


@asynccontextmanager
async def process(
    home: Path, url: str, world: Path, *, model: Obedient | None = None, **more: Any
) -> AsyncIterator[LocalFleet]:
    """The desk as one process runs it."""
    settings = settings_of(home, url, **more)
    providers = by_account([model or Obedient()])
    async with open_local(desk(world), settings=settings, providers=providers, identity=US) as local:
        yield local


async def waits(local: LocalFleet, message: Any) -> tuple[str, str]:
    """Say something, and return conversation and run when the run waits."""
    conversation = await local.conversations.create(US)
    live = await local.conversations.say(US, conversation.id, json.dumps(message))
    async with asyncio.timeout(20):
        async for event in live.follow():
            if event.type == "run" and event.data["status"] == "waiting":
                return conversation.id, live.run.id
    raise AssertionError(f"the run ended: {live.happened[-1]}")


async def _main(home: str, url: str, world: str, message: str) -> None:
    async with process(Path(home), url, Path(world)) as local:
        print(*await waits(local, json.loads(message)), flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
