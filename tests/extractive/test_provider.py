"""The extractive provider behind the ModelProvider port: streaming, usage, honesty, structured output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from admiralty.core.clock import SystemClock
from admiralty.core.errors import DeadlineExceeded
from admiralty.core.ports import ModelProvider
from admiralty.core.values import Caller, Identity, ModelCall, ModelReply, TokenDelta
from admiralty.fleets.support import fleet
from admiralty.fleets.support.tools import TOOLS
from admiralty.memory import HashingEmbedder
from admiralty.runtime.providers.extractive import ExtractiveProvider

CALLER = Caller(
    identity=Identity(),
    fleet="support",
    agent="triage",
    agent_version="1",
    conversation_id="c",
    run_id="r",
)


def make() -> ExtractiveProvider:
    examples = {agent.name: agent.example_texts for agent in fleet.agents}
    return ExtractiveProvider(HashingEmbedder(), examples, SystemClock())


@pytest.fixture(scope="module")
def fitted() -> ExtractiveProvider:
    """One for several tests: the classifier is fitted at the first call."""
    return make()


async def ask(
    messages: Sequence[BaseMessage], *, provider: ExtractiveProvider | None = None, **more: Any
) -> tuple[list[str], ModelReply]:
    call = ModelCall(id="call-1", caller=CALLER, messages=tuple(messages), **more)
    pieces = [piece async for piece in (provider or make()).stream(call, "desk")]
    assert isinstance(pieces[-1], ModelReply)
    return [piece.text for piece in pieces[:-1] if isinstance(piece, TokenDelta)], pieces[-1]


async def triage(*messages: BaseMessage, provider: ExtractiveProvider | None = None) -> Mapping[str, Any]:
    schema = fleet.agent("triage").output_schema
    _, reply = await ask([SystemMessage("…"), *messages], provider=provider, output_schema=schema)
    value: Mapping[str, Any] = json.loads(str(reply.message.content))
    return value


def test_it_is_a_model_provider() -> None:
    assert isinstance(make(), ModelProvider)


@pytest.mark.requirement("extractive.stream")
async def test_an_answer_streams_in_pieces_that_are_the_whole_answer() -> None:
    pieces, reply = await ask([HumanMessage("Hello!")])
    assert len(pieces) > 3
    assert "".join(pieces) == reply.message.content


@pytest.mark.requirement("extractive.honest")
async def test_an_answer_is_not_priced_here_and_says_how_it_came_about() -> None:
    _, reply = await ask([HumanMessage("Hello!")])
    assert (reply.cost, reply.tier, reply.model) == (None, "none", "extractive:desk")
    assert reply.metadata["method"] == "extractive"
    assert "no language model was used" in reply.metadata["note"]
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens == pytest.approx(len(str(reply.message.content)) / 4, abs=1)


async def test_the_same_call_gets_the_same_answer() -> None:
    tools = tuple(tool.schema for tool in TOOLS)
    messages = [HumanMessage("Cancel order #W1001001, my email is maya.chen@example.com")]
    first = (await ask(messages, tools=tools))[1].message
    second = (await ask(messages, tools=tools))[1].message
    assert first.tool_calls == second.tool_calls
    assert first.tool_calls[0]["name"] == "find_user_id_by_email"
    assert first.tool_calls[0]["args"] == {"email": "maya.chen@example.com"}


async def test_an_answer_keeps_to_the_tokens_and_stops_allowed() -> None:
    _, reply = await ask([HumanMessage("Hello!")], max_output_tokens=2)
    assert len(str(reply.message.content)) <= 8
    assert reply.finish_reason == "length"
    _, reply = await ask([HumanMessage("Hello!")], stop=("!",))
    assert reply.message.content == "Hello"


async def test_a_call_whose_deadline_has_passed_is_not_answered() -> None:
    with pytest.raises(DeadlineExceeded):
        await ask([HumanMessage("Hello!")], deadline=1.0)


@pytest.mark.requirement("extractive.triage")
@pytest.mark.parametrize(
    ("message", "agent"),
    [
        ("Could you look up where parcel #W1001001 has got to?", "lookup"),
        ("What do I still have on the gift card in my account?", "lookup"),
        ("Which sizes of sleeping bag do you offer?", "lookup"),
        ("After how many days is money refunded?", "lookup"),
        ("Let me speak with a real human being", "lookup"),
        ("Hello there", "lookup"),
        ("Please cancel #W1001001, bought by mistake", "reasoning"),
        ("I would like to send back the blanket I received", "reasoning"),
        ("Exchange the tent in #W1002001 for an orange one", "reasoning"),
        ("My order should be shipped to another address", "reasoning"),
        ("Store a new default address in my profile", "reasoning"),
        ("I want to pay my pending order with PayPal instead", "reasoning"),
    ],
)
async def test_triage_finds_the_agent_for_new_wordings(
    fitted: ExtractiveProvider, message: str, agent: str
) -> None:
    assert (await triage(HumanMessage(message), provider=fitted))["handoff"] == agent


@pytest.mark.requirement("extractive.triage")
@pytest.mark.parametrize(
    "message", ["yes", "No", "#W1001001", "maya.chen@example.com", "the second one", "black please"]
)
async def test_a_short_follow_up_stays_with_the_agent_that_asked(
    fitted: ExtractiveProvider, message: str
) -> None:
    for agent, opening in (("reasoning", "I want to exchange my lamp"), ("lookup", "Where is my order?")):
        asked = AIMessage("Which order do you mean?", name=agent)
        value = await triage(HumanMessage(opening), asked, HumanMessage(message), provider=fitted)
        assert value["handoff"] == agent


async def test_structured_output_fits_its_schema() -> None:
    from admiralty.fleets.support import Triage

    value = await triage(HumanMessage("asdf qwer"))
    assert Triage.model_validate(value).intent
