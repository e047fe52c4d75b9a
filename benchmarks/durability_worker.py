"""One system of the durability benchmark, in a process of its own: Admiralty's runtime without Ray.

    python -m benchmarks.durability_worker SETTINGS_AS_JSON

The turn has three steps: a model call, a tool that writes, a model call. The model answers at once and the
tool only counts, so that what is measured is what keeping the turn costs. Takes orders as lines of JSON
(`benchmarks.durability_orders`), answers each with one.
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

from admiralty.agents import Agent, Fleet
from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, ModelCall, ModelReply, Usage
from admiralty.runtime.local import LocalFleet, open_local
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.tools import tool
from benchmarks.durability_orders import ANSWER, ARGUMENTS, MESSAGE, RESULT, TURNS, obey


@dataclass
class Till:
    """What the tool changes: nothing that costs anything."""

    booked: int = 0


till = Till()


@tool(effect="write")
def book(order_id: str, amount: int) -> str:  # noqa: ARG001 - as the model calls it
    """Book an amount on an order.

    Args:
        order_id: The order's number.
        amount: In dollars.
    """
    till.booked += amount
    return RESULT


clerk = Agent("clerk", prompt="Book what is asked.", tools=[book], tier="small", placement="inline")
fleet = Fleet("till", agents=[clerk], entry="clerk")


class Instant:
    """A provider that answers at once: first with a call of the tool, then with text."""

    name = "instant"

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        if isinstance(call.messages[-1], ToolMessage):
            message = AIMessage(ANSWER)
        else:
            asked = {"name": "book", "args": dict(ARGUMENTS), "id": f"of_{call.id}", "type": "tool_call"}
            message = AIMessage("", tool_calls=[asked])
        yield ModelReply(
            message=message,
            model=f"instant:{model}",
            tier="small",
            usage=Usage(input_tokens=100, output_tokens=20),
            cost=Nanos(0),
            seconds=0.0,
        )


class Caller:
    """Turns in conversations of ``TURNS`` turns each."""

    def __init__(self, local: LocalFleet) -> None:
        self._local = local
        self._conversation: str | None = None
        self._turns = 0

    async def prepare(self) -> None:
        if self._conversation is None or self._turns == TURNS:
            made = await self._local.conversations.create(self._local.identity)
            self._conversation, self._turns = made.id, 0

    async def turn(self) -> None:
        before = till.booked
        answer = await self._local.ask(MESSAGE, conversation=self._conversation)
        self._turns += 1
        if answer.text != ANSWER or till.booked == before:
            raise RuntimeError(f"a wrong answer: {answer.text!r}, booked {till.booked - before}")


async def serve(settings: dict[str, Any]) -> None:
    """Obey until the input ends."""
    given = Settings.load(
        models=dict.fromkeys(TIERS, "instant:one"),
        prices={"instant:one": {"input": "1", "output": "2"}},
        embedder="hashing",
        **settings,
    )
    async with open_local(fleet, settings=given, providers=by_account([Instant()])) as local:
        await obey(lambda: Caller(local))


def main() -> None:
    settings = json.loads(sys.argv[1])
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
