"""The scheduler as a LangChain chat model: what LangChain builds on it works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.tools import tool as langchain_tool
from pydantic import BaseModel

from admiralty.core.errors import OutputInvalid, RateLimited
from admiralty.core.ids import new_id
from admiralty.core.values import Caller, Identity, ModelCall, ModelReply, Usage
from admiralty.runtime.agents.chat_model import Asked, ScheduledChatModel
from admiralty.runtime.testing import ScriptedScheduler, calls

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")


class Triage(BaseModel):
    """Who answers."""

    handoff: Literal["lookup", "reasoning"]


@langchain_tool
def order_status(order_id: str) -> str:
    """Tell the status of an order."""
    return order_id


@langchain_tool
def stock(item_id: str) -> str:
    """Tell what is in stock."""
    return item_id


def describe() -> ModelCall:
    return ModelCall(
        id=new_id("call"),
        caller=CALLER,
        messages=(),
        tier="mid",
        max_output_tokens=50,
        temperature=0.2,
        deadline=99.0,
    )


def model(scheduler: ScriptedScheduler, **options: Any) -> ScheduledChatModel:
    return ScheduledChatModel(scheduler=scheduler, describe=describe, **options)


@pytest.mark.requirement("chat_model.calls")
async def test_a_call_carries_who_asks_and_what_langchain_adds() -> None:
    scheduler = ScriptedScheduler(["Hello.", "Hello."])
    messages = [SystemMessage("Be brief."), HumanMessage("hi")]
    asked = model(scheduler)
    await asked.ainvoke(messages, stop=["\n"])
    await asked.bind(max_tokens=5, temperature=1.0).ainvoke(messages)
    first, second = scheduler.calls
    assert first.messages == tuple(messages)
    assert (first.caller, first.tier, first.deadline) == (CALLER, "mid", 99.0)
    assert (first.stop, first.max_output_tokens, first.temperature) == (("\n",), 50, 0.2)
    assert (second.max_output_tokens, second.temperature) == (5, 1.0)
    assert first.id != second.id
    assert not first.streaming


@pytest.mark.requirement("chat_model.usage")
async def test_answers_carry_usage_and_model_and_are_told_to_whoever_listens() -> None:
    replies: list[ModelReply] = []

    def on_reply(asked: Asked, reply: ModelReply) -> ModelReply:
        replies.append(reply)
        return reply

    asked = model(ScriptedScheduler(["Hello there."] * 2), on_reply=on_reply)
    whole = await asked.ainvoke("hi")
    pieces = [chunk async for chunk in asked.astream("hi")]
    streamed = pieces[0]
    for piece in pieces[1:]:
        streamed = streamed + piece
    assert [str(piece.text) for piece in pieces if piece.text] == ["Hello", " there."]
    for message in (whole, streamed):
        assert message.text == "Hello there."
        assert message.usage_metadata is not None
        assert message.usage_metadata["total_tokens"] == 15
        assert message.response_metadata["model_name"] == "scripted:model"
        assert message.response_metadata["finish_reason"] == "stop"
    assert len(replies) == 2


@pytest.mark.requirement("chat_model.usage")
async def test_usage_tells_cached_reasoning_and_audio_tokens_apart() -> None:
    usage = Usage(
        input_tokens=10,
        output_tokens=9,
        cached_tokens=1,
        cache_write_tokens=2,
        audio_input_tokens=3,
        reasoning_tokens=4,
        audio_output_tokens=5,
    )

    class Told(ScriptedScheduler):
        async def complete(self, call: ModelCall) -> ModelReply:
            return replace(await super().complete(call), usage=usage)

    message = await model(Told(["Hello."])).ainvoke("hi")
    assert message.usage_metadata == {
        "input_tokens": 10,
        "output_tokens": 9,
        "total_tokens": 19,
        "input_token_details": {"cache_read": 1, "cache_creation": 2, "audio": 3},
        "output_token_details": {"reasoning": 4, "audio": 5},
    }


@pytest.mark.requirement("chat_model.tools")
async def test_bound_tools_reach_the_scheduler_and_their_calls_come_back() -> None:
    scheduler = ScriptedScheduler(
        lambda call: calls(("order_status", {"order_id": "#W1"}), ("stock", {"item_id": "7"}))
    )
    bound = model(scheduler).bind_tools([order_status, stock])
    whole = await bound.ainvoke("Where is it?")
    streamed: AIMessageChunk | None = None
    async for chunk in bound.astream("Where is it?"):
        assert isinstance(chunk, AIMessageChunk)
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    for message in (whole, streamed):
        assert isinstance(message, AIMessage)
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [
            ("order_status", {"order_id": "#W1"}),
            ("stock", {"item_id": "7"}),
        ]
    assert [tool["function"]["name"] for tool in scheduler.calls[0].tools] == ["order_status", "stock"]
    assert scheduler.calls[0].output_schema is None


@pytest.mark.requirement("chat_model.structured")
async def test_structured_output_is_asked_for_as_a_schema_and_parsed() -> None:
    scheduler = ScriptedScheduler(lambda call: {"handoff": "lookup"})
    asked = model(scheduler)
    assert await asked.with_structured_output(Triage).ainvoke("hi") == Triage(handoff="lookup")
    schema = Triage.model_json_schema()
    assert await asked.with_structured_output(schema).ainvoke("hi") == {"handoff": "lookup"}
    raw = await asked.with_structured_output(Triage, include_raw=True).ainvoke("hi")
    assert isinstance(raw, dict)
    assert raw["parsed"] == Triage(handoff="lookup")
    seen = [item async for item in asked.with_structured_output(Triage).astream("hi")]
    assert seen[-1] == Triage(handoff="lookup")
    for call in scheduler.calls:
        assert call.tools == ()
        assert call.output_schema is not None
        assert call.output_schema["title"] == "Triage"
        assert call.output_schema["description"] == "Who answers."
        assert call.output_schema["properties"]["handoff"]["enum"] == ["lookup", "reasoning"]


@pytest.mark.requirement("chat_model.structured")
@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        (None, None),
        ("auto", None),
        ("none", None),
        ("any", None),  # which of the two is the model's choice
        ("stock", "stock"),
        ({"type": "function", "function": {"name": "stock"}}, "stock"),
    ],
)
async def test_a_forced_tool_is_asked_for_as_output(choice: Any, forced: str | None) -> None:
    scheduler = ScriptedScheduler(lambda call: {"item_id": "7"} if call.output_schema else "Hello.")
    message = await model(scheduler).bind_tools([order_status, stock], tool_choice=choice).ainvoke("hi")
    (call,) = scheduler.calls
    assert (call.output_schema or {}).get("title") == forced
    assert len(call.tools) == (2 if forced is None else 0)
    assert [made["name"] for made in message.tool_calls] == ([forced] if forced else [])


@pytest.mark.requirement("chat_model.structured")
async def test_an_answer_that_is_no_json_is_one_of_our_errors() -> None:
    with pytest.raises(OutputInvalid, match="no JSON"):
        await model(ScriptedScheduler(["Sure! Here it is."])).with_structured_output(Triage).ainvoke("hi")


async def test_our_errors_come_through_langchain_as_they_are() -> None:
    asked = model(ScriptedScheduler(lambda call: RateLimited("slow down", retry_after=3.0)))
    for work in (asked.ainvoke("hi"), anext(asked.astream("hi"))):
        with pytest.raises(RateLimited) as failed:
            await work
        assert failed.value.retry_after == 3.0


@pytest.mark.requirement("chat_model.sync")
def test_synchronous_code_may_call_it_with_and_without_a_loop() -> None:
    scheduler = ScriptedScheduler(lambda call: "Hello.")
    asked = model(scheduler)
    assert asked.invoke("hi").text == "Hello."

    async def inside() -> str:
        return str(asked.invoke("hi").text)

    assert asyncio.run(inside()) == "Hello."
    assert "".join(str(chunk.text) for chunk in asked.stream("hi")) == "Hello."


@pytest.mark.requirement("chat_model.sync")
async def test_a_synchronous_call_is_made_on_the_loop_that_it_is_told() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def script(call: ModelCall) -> str:
        loops.append(asyncio.get_running_loop())
        return "Hello."

    here = asyncio.get_running_loop()
    give: Callable[[], asyncio.AbstractEventLoop] = lambda: here  # noqa: E731
    asked = model(ScriptedScheduler(script), loop=give)
    assert (await asyncio.to_thread(asked.invoke, "hi")).text == "Hello."
    assert loops == [here]


def test_a_scripted_scheduler_keeps_the_text_whole() -> None:
    text = "  two  spaces\nand a line "

    async def pieces() -> list[str]:
        stream = model(ScriptedScheduler([text])).astream("hi")
        return [str(chunk.text) async for chunk in stream]

    said = asyncio.run(pieces())
    assert "".join(said) == text
    assert len([piece for piece in said if piece]) == 5
    assert json.dumps(said)
