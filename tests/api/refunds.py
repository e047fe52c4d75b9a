"""A clerk whose tools change something: one asks a person first, one does not know what it has done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.errors import EffectUnknown
from admiralty.core.ports import AnswerStream
from admiralty.core.values import ModelCall
from admiralty.tools import tool

from .conftest import ScriptedProvider, _call_of


@dataclass
class Shop:
    """What the clerk's tools act on."""

    refunded: list[str] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    lost: bool = True
    """Whether the next post is lost on its way: nobody knows whether it arrived."""
    slow: bool = False
    """Whether posting takes for ever."""


def refund_fleet(shop: Shop) -> Fleet:
    """One clerk of the shop."""

    @tool(effect="write", approval="Money leaves the house.")
    async def refund(order_id: str) -> str:
        """Pay an order back.

        Args:
            order_id: The order's number.
        """
        shop.refunded.append(order_id)
        return f"Refunded {order_id}."

    @tool(effect="write", timeout=60.0)
    async def post(order_id: str) -> str:
        """Send an order.

        Args:
            order_id: The order's number.
        """
        if shop.slow:
            await asyncio.Event().wait()
        shop.posted.append(order_id)
        if shop.lost:
            shop.lost = False
            raise EffectUnknown("The connection was lost.")
        return f"Posted {order_id}."

    clerk = Agent("clerk", prompt=inline_prompt("You are a clerk."), tools=[refund, post])
    return Fleet("desk", agents=[clerk], entry="clerk")


@dataclass
class Clerk(ScriptedProvider):
    """Does what is asked, ``refund W1`` or ``post W1``, and repeats what came of it."""

    mended: bool = False
    """Whether ``fail`` is answered by now."""

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        said = [str(message.text) for message in call.messages if isinstance(message, HumanMessage)][-1]
        verb, _, order = said.partition(" ")
        last = call.messages[-1]
        if isinstance(last, ToolMessage):
            self.asked.append(call)
            yield self._reply(model, AIMessage(f"Done: {last.text}"))
        elif verb in ("refund", "post"):
            self.asked.append(call)
            yield self._reply(model, _call_of(verb, {"order_id": order}))
        elif said == "fail" and self.mended:
            yield self._reply(model, AIMessage("Mended."))
        else:
            async for item in super().stream(call, model):
                yield item
