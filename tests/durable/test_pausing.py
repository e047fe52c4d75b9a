"""A visit that waits for a person ends there, whatever surrounds the call, and goes on with the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

from admiralty.agents import Agent, inline_prompt
from admiralty.core.errors import EffectUnknown, LimitExceeded, OutputInvalid, RunLost
from admiralty.core.values import ApprovalVerdict, ModelCall, effect_key
from admiralty.runtime.testing import Answer
from admiralty.tools import ToolContext, tool

from .conftest import TOOLS, VISIT, Durability, World, execute
from .test_resuming import clerk, scripted


def looping(node: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a build of the usual loop of model and tools, the tools run by ``node``."""

    def build(context: Any) -> Any:
        model = context.model.bind_tools(context.tools)

        async def ask(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        builder = StateGraph(MessagesState)
        builder.add_node("ask", ask)
        builder.add_node("tools", node(context))
        builder.add_edge(START, "ask")
        builder.add_conditional_edges("ask", tools_condition)
        builder.add_edge("tools", "ask")
        return builder.compile()

    return build


def swallowing(context: Any) -> Any:
    """A node that makes a message of whatever its tools raise."""
    return ToolNode(context.tools, handle_tool_errors=True)


def blocking(context: Any) -> Any:
    """The same in plain synchronous code, in a thread."""
    by_name = {tool.name: tool for tool in context.tools}

    def run(state: MessagesState) -> dict[str, Any]:
        results: list[ToolMessage] = []
        last = state["messages"][-1]
        assert isinstance(last, AIMessage)
        for call in last.tool_calls:
            try:
                results.append(by_name[call["name"]].invoke({**call, "type": "tool_call"}))
            except Exception as error:
                results.append(ToolMessage(f"Swallowed: {error}", tool_call_id=call["id"]))
        return {"messages": results}

    return run


AGENTS = {
    "loop": clerk("loop"),
    "prebuilt": clerk("graph"),
    "swallowing": Agent("clerk", prompt=inline_prompt("You."), tools=TOOLS, graph=looping(swallowing)),
    "blocking": Agent("clerk", prompt=inline_prompt("You."), tools=TOOLS, graph=looping(blocking)),
}
every_agent = pytest.mark.parametrize("kind", sorted(AGENTS))

WISH = [
    ("look", {"what": "a"}, "call_1"),
    ("send", {"text": "hello"}, "call_1"),
    ("look", {"what": "b"}, None),
]


@pytest.mark.requirement("durable.pause")
@pytest.mark.parametrize("durability", ["sync", "exit"])
@every_agent
async def test_a_visit_pauses_for_a_person_and_goes_on_with_the_verdict(
    kind: str, durability: Durability
) -> None:
    world, script = World(), scripted([WISH])
    visit = replace(VISIT, durability=durability)
    paused = await execute(world, AGENTS[kind], script, visit=visit)
    assert paused.result is not None
    request = paused.result.pause
    assert request is not None
    assert (request.tool, request.arguments, request.kind) == ("send", {"text": "hello"}, "tool")
    assert request.reason == "It cannot be unsent."
    assert (paused.result.messages, paused.result.session) == ((), VISIT.session)
    assert world.written == []
    assert world.asked == 1
    world.keep(paused.result.journal)
    reads = list(world.read)

    key = effect_key(request.call_id, request.digest)
    world.verdicts[key] = ApprovalVerdict(id="a1", verdict="approved", by="bob")
    resumed = await execute(world, AGENTS[kind], script, visit=visit)
    assert resumed.result is not None
    assert resumed.result.pause is None
    assert [said[1] for said in resumed.said if said[0] == "tool"] == ["seen a", "sent", "seen b"]
    assert resumed.said[-1][:2] == ("ai", "Done.")
    assert world.written == [request.call_id]
    assert world.asked == 2, "the reply that wished for it is recorded"
    assert sorted(world.read) == ["a", "b"], "what was read before the pause is not read again"
    assert world.read[: len(reads)] == reads
    ended = [event.data for event in (*paused.events, *resumed.events) if event.data.get("result")]
    assert len([data for data in ended if not data.get("replayed")]) == 3, "each is told once"


@pytest.mark.requirement("durable.pause")
@every_agent
async def test_a_call_that_a_person_rejects_is_told_to_the_model(kind: str) -> None:
    world, script = World(), scripted([WISH])
    paused = await execute(world, AGENTS[kind], script)
    assert paused.result is not None
    request = paused.result.pause
    assert request is not None
    key = effect_key(request.call_id, request.digest)
    world.verdicts[key] = ApprovalVerdict(id="a1", verdict="rejected", by="bob", reason="Too rude.")
    resumed = await execute(world, AGENTS[kind], script)
    [_, told, _] = [said[1] for said in resumed.said if said[0] == "tool"]
    assert "Too rude." in told
    assert world.written == []


@pytest.mark.requirement("durable.pause")
@every_agent
async def test_two_calls_that_need_a_person_are_asked_about_one_after_the_other(kind: str) -> None:
    wish = [("send", {"text": "one"}, "call_1"), ("send", {"text": "two"}, "call_1")]
    world, script = World(), scripted([wish])
    asked: list[str] = []
    for _ in range(3):
        ended = await execute(world, AGENTS[kind], script)
        assert ended.result is not None
        if (request := ended.result.pause) is None:
            break
        asked.append(request.call_id)
        world.keep(ended.result.journal)
        key = effect_key(request.call_id, request.digest)
        world.verdicts[key] = ApprovalVerdict(id=f"a{len(asked)}", verdict="approved")
    assert ended.said[-1][:2] == ("ai", "Done.")
    assert sorted(world.written) == sorted(asked)
    assert len(set(asked)) == 2
    assert world.asked == 2


# -- what ends a visit in any case -------------------------------------------------------------------


@tool(effect="write")
async def stumble(how: str, ctx: ToolContext) -> str:
    """Fail in a way that is not for the model."""
    if how == "lost":
        raise RunLost("Taken over.")
    await asyncio.sleep(0.01)
    raise EffectUnknown("Nobody knows.", tool="stumble")


@tool(effect="read")
async def slow(ctx: ToolContext) -> str:
    """Take a moment."""
    await asyncio.sleep(0.01)
    ctx.resources.world.read.append("slow")
    return "slow"


def stumbling(kind: str) -> Agent:
    return replace_tools(AGENTS[kind], [stumble, slow, *TOOLS])


def replace_tools(agent: Agent, tools: list[Any]) -> Agent:
    return Agent("clerk", prompt=inline_prompt("You."), tools=tools, graph=agent.graph)


@pytest.mark.requirement("durable.endings")
@every_agent
@pytest.mark.parametrize(("how", "error"), [("lost", RunLost), ("unknown", EffectUnknown)])
async def test_what_is_not_for_the_model_ends_the_visit_whatever_the_graph_makes_of_errors(
    kind: str, how: str, error: type[Exception]
) -> None:
    world = World()
    with pytest.raises(error):
        await execute(world, stumbling(kind), scripted([[("stumble", {"how": how}, None)]]))
    assert world.asked == 1, "the model is not told"


@pytest.mark.requirement("durable.endings")
async def test_what_went_wrong_beside_a_pause_counts_more() -> None:
    wish = [("stumble", {"how": "unknown"}, None), ("send", {"text": "a"}, None)]
    with pytest.raises(EffectUnknown):
        await execute(World(), stumbling("prebuilt"), scripted([wish]))


@pytest.mark.requirement("durable.pause")
@pytest.mark.parametrize("kind", ["prebuilt", "swallowing"])
async def test_calls_beside_a_pause_come_to_their_end(kind: str) -> None:
    world = World()
    wish = [("slow", {}, None), ("send", {"text": "a"}, None)]
    paused = await execute(world, stumbling(kind), scripted([wish]))
    assert paused.result is not None
    assert paused.result.pause is not None
    assert world.read == ["slow"]
    [entry] = paused.result.journal
    assert entry.reply is None
    assert [outcome["content"] for outcome in entry.outcomes.values()] == ["slow"]


@pytest.mark.requirement("durable.endings")
@every_agent
async def test_a_turn_makes_no_more_tool_calls_than_are_left_to_it(kind: str) -> None:
    world = World()
    script = scripted([[("look", {"what": "a"}, None)]] * 5)
    with pytest.raises(LimitExceeded) as stopped:
        await execute(world, AGENTS[kind], script, visit=replace(VISIT, calls_left=2))
    assert stopped.value.details["limit"] == "calls"
    assert world.read == ["a", "a"]
    # What is told again counts like what is made: the limit is the same after a crash.
    with pytest.raises(LimitExceeded):
        await execute(world, AGENTS[kind], script, visit=replace(VISIT, calls_left=2))
    assert (world.read, world.asked) == (["a", "a"], 3)
    ended = await execute(world, AGENTS[kind], script, visit=replace(VISIT, calls_left=5))
    assert ended.result is not None
    assert (ended.result.calls, ended.result.steps) == (5, 6)


@pytest.mark.requirement("durable.endings")
async def test_a_graph_that_swallows_errors_is_ended_by_the_limit_on_steps_too() -> None:
    def build(context: Any) -> Any:
        async def ask(state: MessagesState) -> dict[str, Any]:
            for _ in range(50):
                try:
                    await context.model.ainvoke(state["messages"])
                except Exception:
                    continue
            return {"messages": [AIMessage("I never stop.")]}

        builder = StateGraph(MessagesState)
        builder.add_node("ask", ask)
        builder.add_edge(START, "ask")
        builder.add_edge("ask", END)
        return builder.compile()

    stubborn = Agent("clerk", prompt=inline_prompt("You."), graph=build)
    world = World()
    with pytest.raises(LimitExceeded) as stopped:
        await execute(world, stubborn, lambda call: "Hm.", visit=replace(VISIT, steps_left=3))
    assert stopped.value.details["limit"] == "steps"
    assert world.asked == 3


class Verdict(BaseModel):
    good: bool


FORM = {
    "title": "form",
    "description": "A form.",
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
}


# -- structured output -------------------------------------------------------------------------------


@pytest.mark.requirement("durable.resume")
@pytest.mark.parametrize("unusable", ["text", "error"])
async def test_an_answer_that_did_not_fit_does_not_fit_again_and_is_not_asked_for_again(
    unusable: str,
) -> None:
    judge = Agent("clerk", prompt=inline_prompt("You."), output=Verdict)

    def script(call: ModelCall) -> Answer:
        if "no use" in str(call.messages[-1].text):
            return {"good": True}
        return OutputInvalid("broken off") if unusable == "error" else "Sure!"

    world = World()
    first = await execute(world, judge, script)
    again = await execute(world, judge, script)
    assert first.result is not None
    assert again.result is not None
    assert first.result.output == again.result.output == {"good": True}
    assert again.result.steps == 2
    assert world.asked == (2 if unusable == "text" else 1)


# -- graphs of all kinds -------------------------------------------------------------------------------


@pytest.mark.requirement("durable.resume")
async def test_a_graph_that_asks_many_things_at_once_and_calls_tools_by_itself_resumes_too() -> None:
    def build(context: Any) -> Any:
        tools = {tool.name: tool for tool in context.tools}

        async def work(state: MessagesState) -> dict[str, Any]:
            same = [context.model.ainvoke("The same.") for _ in range(2)]
            said = await asyncio.gather(*same, context.model.ainvoke("Another."))
            await tools["note"].ainvoke({"text": "x"})
            await tools["note"].ainvoke({"text": "x"})
            text = "/".join(str(message.text) for message in said)
            forced = context.model.with_structured_output(FORM)
            return {"messages": [AIMessage(f"{text}/{(await forced.ainvoke('Form.'))['good']}")]}

        builder = StateGraph(MessagesState)
        builder.add_node("work", work)
        builder.add_edge(START, "work")
        builder.add_edge("work", END)
        return builder.compile()

    answers = iter(["1", "2", "3"])

    def script(call: ModelCall) -> Answer:
        return {"good": True} if call.output_schema else next(answers)

    agent = Agent("clerk", prompt=inline_prompt("You."), tools=TOOLS, graph=build)
    world = World()
    for moment in (4, 5, 6, 7, None):  # after the answers, then within and after each write
        ended = await execute(world, agent, script, dies_at=moment)
    assert ended.said == [("ai", "1/2/3/True", [])]
    assert world.asked == 4
    assert len(world.written) == len(set(world.written)) == 2
