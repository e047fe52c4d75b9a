"""The model of the chaos runs: answers by the messages alone, with new ids of calls each time, as models do.

It tells the outside each time that it is asked, which is what a real provider would charge.
"""

import asyncio
import secrets
from dataclasses import dataclass

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from admiralty.core.ports import AnswerStream
from admiralty.core.values import ModelCall, ModelReply, TokenDelta, Usage
from benchmarks.chaos_fleet import ASKED
from benchmarks.chaos_world import World

NAME = "scripted"

CALL_PRICE = "0.001"
"""Of each answer, in dollars."""


@dataclass(frozen=True, kw_only=True)
class ScriptedProvider:
    """Hands over, calls the tool that the message names, and says what came of it."""

    world: World
    token_seconds: float = 0.0
    """Between two words of an answer."""
    name: str = NAME

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        caller = call.caller
        self.world.ask(
            run=caller.run_id, tenant=caller.identity.tenant, agent=caller.agent, seen=len(call.messages)
        )
        message = _answer(call)
        if not message.tool_calls:
            for word in str(message.text).split(" "):
                await asyncio.sleep(self.token_seconds)
                yield TokenDelta(text=f"{word} ")
        yield ModelReply(
            message=message,
            model=f"{NAME}:{model}",
            tier="small",
            usage=Usage(input_tokens=100, output_tokens=20),
            cost=None,
            seconds=0.001,
        )


def _answer(call: ModelCall) -> AIMessage:
    last = call.messages[-1]
    if isinstance(last, ToolMessage) and not str(last.name).startswith("handoff"):
        return AIMessage(f"I have looked after it. It came to this: {last.content}. Is there anything else?")
    said = next(str(m.text) for m in reversed(call.messages) if isinstance(m, HumanMessage))
    if call.caller.agent == "front":
        return _call("handoff_to_clerk", {"reason": "something is to be done"})
    found = ASKED.search(said)
    if found is None:
        return AIMessage(f"You said: {said}")
    return _call(found[1], {"mark": found[2]})


def _call(name: str, arguments: dict[str, str]) -> AIMessage:
    asked = {"name": name, "args": arguments, "id": f"call_{secrets.token_hex(6)}", "type": "tool_call"}
    return AIMessage("", tool_calls=[asked])
