"""A user-written LangGraph graph as an agent: its models and tools are ours, its shape is theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from admiralty.agents import Agent, Fleet, Limits, inline_prompt
from admiralty.core.errors import DefinitionError, RateLimited
from admiralty.core.values import ModelCall
from admiralty.runtime.agents.graph import GraphContext
from admiralty.runtime.testing import Answer, ScriptedScheduler, calls
from admiralty.tools import ToolContext, tool


class Line(BaseModel):
    item_id: str
    quantity: int = 1


@tool(effect="write")
async def order(lines: list[Line], ctx: ToolContext) -> dict[str, Any]:
    """Place an order."""
    ctx.session["call_id"] = ctx.call_id
    return {"ordered": lines, "by": ctx.caller.identity.user, "conversation": ctx.caller.conversation_id}


@tool(effect="write", confirm=True)
def cancel(order_id: str) -> str:
    """Cancel an order."""
    return f"cancelled {order_id}"


def prebuilt(context: GraphContext) -> Any:
    """The agent of LangChain itself."""
    return create_agent(context.model, context.tools)


def fleet(build: Callable[[GraphContext], Any], *others: Agent, **values: Any) -> Fleet:
    limits = values.pop("limits", Limits())
    clerk = Agent(
        "clerk", prompt=inline_prompt("You are a clerk."), tools=[order, cancel], graph=build, **values
    )
    return Fleet("desk", agents=[clerk, *others], entry="clerk", limits=limits)


def only(events: Any, kind: str) -> list[Any]:
    return [event.data for event in events if event.type == kind]


@pytest.mark.requirement("graphs.run", "visits.events")
async def test_langchains_own_agent_runs_as_an_agent_of_ours() -> None:
    wish = calls(("order", {"lines": [{"item_id": "7"}]}), text="One moment.")
    scheduler = ScriptedScheduler([wish, "It is ordered.", "You are welcome."])
    async with fleet(prebuilt).local(scheduler=scheduler) as local:
        answer = await local.ask("I want a lamp.")
        again = await local.ask("Thanks.", conversation=answer.conversation_id)
    assert (answer.text, answer.agent) == ("It is ordered.", "clerk")
    tokens = [token["text"] for token in only(answer.events, "token")]
    assert "".join(tokens) == "One moment.It is ordered."
    assert len(tokens) == 5
    assert len(only(answer.events, "step")) == len(only(answer.events, "cost")) == 2
    started, ended = only(answer.events, "tool")
    assert (started["status"], ended["status"]) == ("started", "ok")
    assert started["call_id"] == ended["call_id"]
    assert json.loads(ended["result"])["ordered"] == [{"item_id": "7", "quantity": 1}]
    assert json.loads(ended["result"])["conversation"] == answer.conversation_id
    first, second, third = scheduler.calls
    assert first.caller.agent == "clerk"
    assert [tool["function"]["name"] for tool in first.tools] == ["order", "cancel"]
    assert [type(message) for message in second.messages] == [
        SystemMessage,
        HumanMessage,
        AIMessage,
        ToolMessage,
    ]
    # Each message once, also in the next turn.
    assert [message.text for message in third.messages if not isinstance(message, ToolMessage)] == [
        "You are a clerk.", "I want a lamp.", "One moment.", "It is ordered.", "Thanks."
    ]  # fmt: skip
    assert again.text == "You are welcome."


@pytest.mark.requirement("graphs.tools")
async def test_a_graphs_tools_are_checked_and_confirmed_like_any_other() -> None:
    wish = calls(("cancel", {"order_id": "#W1"}))
    answers: list[Answer] = [
        calls(("order", {"lines": "all"})), wish, "Shall I?",
        wish, "Done.",
    ]  # fmt: skip
    scheduler = ScriptedScheduler(answers)
    async with fleet(prebuilt).local(scheduler=scheduler) as local:
        first = await local.ask("Cancel #W1")
        assert [data["status"] for data in only(first.events, "tool")] == [
            "started", "error", "started", "confirmation_required"
        ]  # fmt: skip
        second = await local.ask("Yes", conversation=first.conversation_id)
    assert only(second.events, "tool")[-1]["result"] == "cancelled #W1"
    refused = scheduler.calls[1].messages[-1]
    assert isinstance(refused, ToolMessage)
    assert refused.status == "error"
    assert refused.text == "Error: lines: Input should be a valid list"


class Handing(MessagesState, total=False):
    handoff: str


def handing_to(target: str) -> Callable[[GraphContext], Any]:
    def build(context: GraphContext) -> Any:
        async def decide(state: Handing) -> dict[str, Any]:
            return {"messages": [await context.model.ainvoke(state["messages"])], "handoff": target}

        builder = StateGraph(Handing)
        builder.add_node("decide", decide)
        builder.add_edge(START, "decide")
        builder.add_edge("decide", END)
        return builder.compile()

    return build


@pytest.mark.requirement("graphs.handoff")
async def test_a_graph_hands_off_by_what_it_returns() -> None:
    boss = Agent("boss", prompt=inline_prompt("You are the boss."))
    scheduler = ScriptedScheduler(["I will ask.", "Granted."])
    async with fleet(handing_to("boss"), boss, handoffs=["boss"]).local(scheduler=scheduler) as local:
        answer = await local.ask("May I?")
    assert (answer.text, answer.agent) == ("Granted.", "boss")
    assert only(answer.events, "handoff") == [{"source": "clerk", "target": "boss", "reason": ""}]
    assert [message.text for message in scheduler.calls[1].messages[1:]] == ["May I?", "I will ask."]


async def failing(made: Fleet, answers: Any) -> dict[str, Any]:
    async with made.local(scheduler=ScriptedScheduler(answers)) as local:
        events = [event async for event in local.stream("hi")]
    assert events[-1].type == "error"
    return dict(events[-1].data)


@pytest.mark.requirement("graphs.handoff")
async def test_a_graphs_handoff_to_nobody_is_named() -> None:
    error = await failing(fleet(handing_to("nobody")), ["x"])
    assert "Agent('clerk').graph = 'nobody'" in error["detail"]


@pytest.mark.requirement("graphs.run")
async def test_two_visits_at_once_through_one_graph_do_not_mix() -> None:
    arrived = asyncio.Barrier(2)

    async def script(call: ModelCall) -> Answer:
        (said,) = [message.text for message in call.messages if isinstance(message, HumanMessage)]
        if isinstance(call.messages[-1], HumanMessage):
            await arrived.wait()  # both are under way
            return calls(("order", {"lines": [{"item_id": said}]}))
        result = json.loads(call.messages[-1].text)
        assert result["conversation"] == call.caller.conversation_id
        return f"{said} is {result['ordered'][0]['item_id']}"

    async with fleet(prebuilt).local(scheduler=ScriptedScheduler(script)) as local:
        answers = await asyncio.wait_for(asyncio.gather(local.ask("one"), local.ask("two")), 10)
    assert [answer.text for answer in answers] == ["one is one", "two is two"]
    for answer, said in zip(answers, ("one", "two"), strict=True):
        assert [data["arguments"] for data in only(answer.events, "tool")] == [
            {"lines": [{"item_id": said}]}
        ] * 2
        assert len(only(answer.events, "step")) == 2


@pytest.mark.requirement("graphs.sync")
async def test_synchronous_nodes_may_call_models_and_tools() -> None:
    def build(context: GraphContext) -> Any:
        by_name = {tool.name: tool for tool in context.tools}

        def work(state: MessagesState) -> dict[str, Any]:
            told = by_name["cancel"].invoke({"order_id": "#W1"})
            return {"messages": [AIMessage(f"{context.model.invoke(state['messages']).text} {told[:12]}")]}

        return simple(work)

    async with fleet(build).local(scheduler=ScriptedScheduler(["Hello."])) as local:
        answer = await asyncio.wait_for(local.ask("hi"), 10)
    assert answer.text == "Hello. CONFIRMATION"
    assert len(only(answer.events, "step")) == len(only(answer.events, "cost")) == 1


@pytest.mark.requirement("graphs.sync")
async def test_a_synchronous_call_in_an_async_node_is_refused_and_not_waited_for_for_ever() -> None:
    def build(context: GraphContext) -> Any:
        async def work(state: MessagesState) -> dict[str, Any]:
            return {"messages": [context.model.invoke(state["messages"])]}

        return simple(work)

    error = await asyncio.wait_for(failing(fleet(build), ["Hello."]), 10)
    assert error["code"] == "configuration_error"
    assert "ainvoke" in error["detail"]


def simple(work: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    return builder.compile()


class Copied(TypedDict):
    messages: list[Any]


async def test_a_graph_that_copies_messages_adds_only_what_is_new() -> None:
    def build(context: GraphContext) -> Any:
        async def work(state: Copied) -> dict[str, Any]:
            copies = [message.model_copy() for message in state["messages"]]
            return {"messages": [*copies, await context.model.ainvoke(copies)]}

        builder = StateGraph(Copied)
        builder.add_node("work", work)
        builder.add_edge(START, "work")
        builder.add_edge("work", END)
        return builder.compile()

    scheduler = ScriptedScheduler(lambda call: "Hello.")
    async with fleet(build).local(scheduler=scheduler) as local:
        answer = await local.ask("one")
        await local.ask("two", conversation=answer.conversation_id)
    assert [message.text for message in scheduler.calls[1].messages[1:]] == ["one", "Hello.", "two"]


@pytest.mark.requirement("graphs.limits", "visits.limits")
async def test_a_graph_is_held_to_the_turns_limits() -> None:
    async def round_and_round(state: MessagesState) -> dict[str, Any]:
        return {"messages": []}

    def idle(context: GraphContext) -> Any:
        builder = StateGraph(MessagesState)
        builder.add_node("work", round_and_round)
        builder.add_edge(START, "work")
        builder.add_edge("work", "work")
        return builder.compile()

    def forever(call: ModelCall) -> Answer:
        return calls(("order", {"lines": []}))

    assert (await failing(fleet(idle), []))["code"] == "limit_exceeded"
    assert (await failing(fleet(prebuilt, limits=Limits(steps=2)), forever))["code"] == "limit_exceeded"
    assert (await failing(fleet(prebuilt, max_steps=2), forever))["code"] == "limit_exceeded"


@pytest.mark.requirement("graphs.run")
async def test_what_a_graph_raises_or_cancels_ends_the_turn() -> None:
    async def cancelled(state: MessagesState) -> dict[str, Any]:
        raise asyncio.CancelledError

    async def broken(state: MessagesState) -> dict[str, Any]:
        raise KeyError("a secret")

    error = await failing(fleet(prebuilt), lambda call: RateLimited("slow down", retry_after=3.0))
    assert (error["code"], error["retry_after"]) == ("rate_limited", 3.0)
    error = await asyncio.wait_for(failing(fleet(lambda context: simple(cancelled)), []), 10)
    assert error["code"] == "internal_error"  # LangGraph makes an error of it
    error = await failing(fleet(lambda context: simple(broken)), [])
    assert error["status"] == 500
    assert "secret" not in str(error)


@pytest.mark.requirement("graphs.run", "scheduler.leave")
async def test_cancelling_a_turn_cancels_its_graph() -> None:
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def never(call: ModelCall) -> Answer:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    async with fleet(prebuilt).local(scheduler=ScriptedScheduler(never)) as local:
        conversation = await local.conversations.create(local.identity)
        live = await local.conversations.say(local.identity, conversation.id, "hi")
        await asyncio.wait_for(waiting.wait(), 5)
        live.cancel()
        events = [event async for event in live.follow()]
        assert ended.is_set()
    assert events[-1].data["code"] == "cancelled"


@pytest.mark.requirement("definitions.errors")
async def test_a_graph_function_that_builds_no_graph_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Agent\('clerk'\)\.graph = None: is no graph"):
        async with fleet(lambda context: None).local(scheduler=ScriptedScheduler([])):
            pass
