"""One turn through a whole fleet in this process: handoffs, structured output, tools, limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel

from admiralty.agents import Agent, Fleet, Limits, inline_prompt
from admiralty.core.errors import AdmiraltyError, OutputInvalid
from admiralty.core.values import Event, ModelCall, ModelReply, Usage
from admiralty.runtime.local import LocalFleet
from admiralty.runtime.testing import Answer, ScriptedScheduler, calls
from admiralty.tools import ToolContext, ToolError, tool


class Triage(BaseModel):
    handoff: Literal["lookup", "reasoning"] | None
    reason: str = ""


class Route(Enum):
    LOOKUP = "lookup"


class ByEnum(BaseModel):
    handoff: Route


class ByText(BaseModel):
    handoff: str


class Desk:
    """What the tools of a test share."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.together = asyncio.Event()
        self.done: list[str] = []


@tool(effect="read")
async def order_status(order_id: str, ctx: ToolContext) -> dict[str, str]:
    """Tell the status of an order."""
    desk: Desk = ctx.resources
    desk.running += 1
    desk.most = max(desk.most, desk.running)
    if desk.running == 3:
        desk.together.set()
    if order_id == "#W0":
        raise ToolError("There is no order #W0.")
    if order_id == "wait":
        await desk.together.wait()
    desk.running -= 1
    return {"order_id": order_id, "status": "shipped"}


@tool(effect="write", confirm=True)
async def cancel_order(order_id: str, ctx: ToolContext) -> str:
    """Cancel an order."""
    ctx.resources.done.append(order_id)
    return "cancelled"


@tool(effect="write")
async def note(text: str, ctx: ToolContext) -> str:
    """Write a note."""
    desk: Desk = ctx.resources
    desk.running += 1
    desk.most = max(desk.most, desk.running)
    await asyncio.sleep(0)
    desk.running -= 1
    desk.done.append(text)
    ctx.session["notes"] = [*ctx.session.get("notes", []), text]
    return f"{len(ctx.session['notes'])} notes"


def agent(name: str, **values: Any) -> Agent:
    return Agent(name, prompt=inline_prompt(f"You are {name}."), **values)


LOOKUP = agent("lookup", tools=[order_status, note, cancel_order], description="Answers from the shop.")
REASONING = agent("reasoning", description="Decides by the policy.")


def desk(*agents: Agent, **values: Any) -> Fleet:
    shared = Desk()
    return Fleet("desk", agents=agents, entry=agents[0].name, setup=lambda context: shared, **values)


Open = Callable[..., Any]


@asynccontextmanager
async def opened(
    fleet: Fleet, answers: Any, **options: Any
) -> AsyncIterator[tuple[LocalFleet, ScriptedScheduler]]:
    scheduler = ScriptedScheduler(answers)
    async with fleet.local(scheduler=scheduler, **options) as local:
        yield local, scheduler


def types(events: Any) -> list[str]:
    return [event.type for event in events]


def only(events: Any, kind: str) -> list[Any]:
    return [event.data for event in events if event.type == kind]


def by_agent(script: dict[str, list[Answer]]) -> Callable[[ModelCall], Answer]:
    rest = {name: iter(answers) for name, answers in script.items()}
    return lambda call: next(rest[call.caller.agent])


TRIAGED = desk(agent("triage", output=Triage, handoffs=["lookup", "reasoning"]), LOOKUP, REASONING)
TOOLED = desk(agent("triage", handoffs=["lookup", "reasoning"]), LOOKUP, REASONING)


# -- handoffs --------------------------------------------------------------------------------------


@pytest.mark.requirement("visits.handoff", "visits.events")
async def test_structured_output_hands_off_and_the_next_agent_answers() -> None:
    answers: list[Answer] = [{"handoff": "lookup", "reason": "an order"}, "It is on its way."]
    async with opened(TRIAGED, answers) as (local, scheduler):
        answer = await local.ask("Where is #W1?")
    assert (answer.text, answer.agent) == ("It is on its way.", "lookup")
    assert types(answer.events) == [
        *("run", "step", "cost", "handoff", "step"),
        *["token"] * 5,
        *("cost", "message", "done"),
    ]
    assert only(answer.events, "handoff") == [{"source": "triage", "target": "lookup", "reason": "an order"}]
    assert "".join(token["text"] for token in only(answer.events, "token")) == "It is on its way."
    assert only(answer.events, "done")[0]["usage"] == {
        "input_tokens": 20,
        "output_tokens": 10,
        "total_tokens": 30,
    }
    assert answer.cost_usd == "0.000002"
    triaged, looked_up = scheduler.calls
    assert triaged.output_schema is not None
    assert not triaged.streaming
    assert [type(message) for message in looked_up.messages] == [SystemMessage, HumanMessage]
    assert looked_up.messages[0].text.startswith("You are lookup.")
    assert "- lookup: Answers from the shop." in triaged.messages[0].text
    assert looked_up.caller.agent_version == LOOKUP.version


@pytest.mark.requirement("visits.handoff")
async def test_an_agent_without_output_hands_off_by_a_tool_and_may_say_why() -> None:
    script: dict[str, list[Answer]] = {
        "triage": [
            calls(
                ("nothing", {"reason": "of no use"}),
                ("handoff_to_reasoning", {"reason": "a decision"}),
                text="One moment.",
            )
        ],
        "reasoning": ["You may return it."],
    }
    async with opened(TOOLED, by_agent(script)) as (local, scheduler):
        answer = await local.ask("May I return it?")
    assert (answer.text, answer.agent) == ("You may return it.", "reasoning")
    assert only(answer.events, "handoff") == [
        {"source": "triage", "target": "reasoning", "reason": "a decision"}
    ]
    offered = [tool["function"]["name"] for tool in scheduler.calls[0].tools]
    assert offered == ["handoff_to_lookup", "handoff_to_reasoning"]
    # Every tool call has its result, or providers would refuse the history.
    _, _, asked, *results = scheduler.calls[1].messages
    assert isinstance(asked, AIMessage)
    assert [call["id"] for call in asked.tool_calls] == [
        message.tool_call_id for message in results if isinstance(message, ToolMessage)
    ]


async def test_an_entry_may_answer_by_itself_and_any_agent_may_be_asked_directly() -> None:
    async with opened(TRIAGED, lambda call: {"handoff": None, "reason": "small talk"}) as (local, _):
        answer = await local.ask("Hello!")
        assert json.loads(answer.text) == {"handoff": None, "reason": "small talk"}
        assert answer.agent == "triage"
    async with opened(TRIAGED, ["Yes."]) as (local, _):
        assert (await local.ask("Hello!", agent="reasoning")).agent == "reasoning"
        with pytest.raises(AdmiraltyError, match="no agent 'nobody'"):
            await local.ask("Hello!", agent="nobody")


@pytest.mark.requirement("visits.handoff")
async def test_a_handoff_may_be_an_enumeration() -> None:
    fleet = desk(agent("triage", output=ByEnum, handoffs=["lookup"]), LOOKUP)
    async with opened(fleet, by_agent({"triage": [{"handoff": "lookup"}], "lookup": ["Here."]})) as (
        local,
        _,
    ):
        assert (await local.ask("hi")).agent == "lookup"


# -- structured output -----------------------------------------------------------------------------


@pytest.mark.requirement("visits.output")
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("Sure, I will.", "Invalid JSON"),
        ({"handoff": "nobody"}, "handoff: Input should be 'lookup' or 'reasoning'"),
        (OutputInvalid("broken off"), "broken off"),
    ],
)
async def test_output_that_does_not_fit_is_asked_for_once_more_saying_what_was_wrong(
    bad: Answer, told: str
) -> None:
    script: dict[str, list[Answer]] = {"triage": [bad, {"handoff": "lookup"}], "lookup": ["Here."]}
    async with opened(TRIAGED, by_agent(script)) as (local, scheduler):
        answer = await local.ask("Where is it?")
    assert answer.text == "Here."
    first, second, third = scheduler.calls
    assert second.messages[:-1] == first.messages
    assert told in second.messages[-1].text
    # What passed between us and the model is no part of the conversation.
    assert [message.text for message in third.messages[1:]] == ["Where is it?"]


@pytest.mark.requirement("visits.output")
async def test_output_that_does_not_fit_twice_ends_the_turn_with_a_clear_error() -> None:
    async with opened(TRIAGED, lambda call: "Sure!") as (local, scheduler):
        with pytest.raises(AdmiraltyError, match="triage gave no answer of the form it declares") as failed:
            await local.ask("Where is it?")
    assert (failed.value.details["code"], failed.value.details["status"]) == ("output_invalid", 502)
    assert len(scheduler.calls) == 2


@pytest.mark.requirement("visits.output")
async def test_a_handoff_to_nobody_is_output_that_does_not_fit() -> None:
    fleet = desk(agent("triage", output=ByText, handoffs=["lookup"]), LOOKUP)
    script: dict[str, list[Answer]] = {
        "triage": [{"handoff": "nobody"}, {"handoff": "lookup"}],
        "lookup": ["Here."],
    }
    async with opened(fleet, by_agent(script)) as (local, scheduler):
        assert (await local.ask("hi")).text == "Here."
    assert "'nobody' is none of lookup" in scheduler.calls[1].messages[-1].text


async def test_what_useless_output_cost_is_told_too() -> None:
    reply = ModelReply(
        message=AIMessage("{"), model="x:y", tier="small", usage=Usage(input_tokens=7), cost=None, seconds=0.1
    )
    script: dict[str, list[Answer]] = {
        "triage": [OutputInvalid("broken off", reply=reply), {"handoff": "lookup"}],
        "lookup": ["Here."],
    }
    async with opened(TRIAGED, by_agent(script)) as (local, _):
        answer = await local.ask("hi")
    done = only(answer.events, "done")[0]
    assert done["usage"]["input_tokens"] == 27
    assert done["unpriced_calls"] == 1


# -- tools -----------------------------------------------------------------------------------------


@pytest.mark.requirement("visits.tools", "visits.events")
async def test_the_model_reads_what_its_tools_say_and_clients_see_them_run() -> None:
    answers: list[Answer] = [
        calls(("order_status", {"order_id": "#W0"})),
        calls(("order_status", {"order_id": "#W1"}), text="Let me look again."),
        "It is shipped.",
    ]
    async with opened(desk(LOOKUP), answers) as (local, scheduler):
        answer = await local.ask("Where is #W1?")
    started, failed, _, ended = only(answer.events, "tool")
    assert (started["status"], failed["status"], ended["status"]) == ("started", "error", "ok")
    assert failed["result"] == "Error: There is no order #W0."
    assert json.loads(ended["result"]) == {"order_id": "#W1", "status": "shipped"}
    assert ended["arguments"] == {"order_id": "#W1"}
    results = [message for message in scheduler.calls[-1].messages if isinstance(message, ToolMessage)]
    assert [(message.status, message.name) for message in results] == [
        ("error", "order_status"),
        ("success", "order_status"),
    ]
    assert scheduler.calls[0].tools[0] == order_status.schema


@pytest.mark.requirement("visits.parallel")
async def test_reads_run_side_by_side_and_writes_one_after_the_other() -> None:
    reads = [("order_status", {"order_id": "wait"})] * 3
    fleet = desk(LOOKUP)
    async with opened(fleet, [calls(*reads), "Done."]) as (local, _):
        await asyncio.wait_for(local.ask("Where are they?"), 10)  # each waits until all three run
        assert local.resources.most == 3
    fleet = desk(LOOKUP)
    writes = [("note", {"text": f"{number}"}) for number in range(3)]
    async with opened(fleet, [calls(*writes, ("order_status", {"order_id": "#W1"})), "Done."]) as (local, _):
        answer = await local.ask("Note this.")
        assert local.resources.most == 1
        assert local.resources.done == ["0", "1", "2"]
    assert [data["result"] for data in only(answer.events, "tool")[4:7]] == ["1 notes", "2 notes", "3 notes"]


@pytest.mark.requirement("visits.tools")
async def test_a_call_of_a_tool_that_is_not_there_is_told_to_the_model() -> None:
    async with opened(desk(LOOKUP), [calls(("fly", {})), "Sorry."]) as (local, scheduler):
        await local.ask("Fly!")
    assert "there is no tool 'fly'" in scheduler.calls[1].messages[-1].text


@pytest.mark.requirement("tools.confirm", "visits.session")
async def test_a_write_waits_for_the_users_yes_in_the_next_turn() -> None:
    wish = calls(("cancel_order", {"order_id": "#W1"}))
    answers: list[Answer] = [
        wish,
        "Shall I cancel #W1?",
        wish,
        "Then I will not.",
        wish,
        "Done.",
        wish,
        "No.",
    ]
    async with opened(desk(LOOKUP), answers) as (local, _):
        first = await local.ask("Cancel #W1")
        conversation = first.conversation_id
        assert only(first.events, "tool")[-1]["status"] == "confirmation_required"
        await local.ask("yes, but not that one", conversation=conversation)
        assert local.resources.done == []
        await local.ask("Yes, please", conversation=conversation)
        assert local.resources.done == ["#W1"]
        await local.ask("Yes", conversation=conversation)
        assert local.resources.done == ["#W1"]


@pytest.mark.requirement("visits.session")
async def test_what_tools_remember_survives_to_the_next_turn_and_a_restart(tmp_path: Path) -> None:
    def script(call: ModelCall) -> Answer:
        last = call.messages[-1]
        return calls(("note", {"text": last.text})) if isinstance(last, HumanMessage) else last.text

    fleet = desk(LOOKUP)
    async with opened(fleet, script, home=tmp_path) as (local, _):
        first = await local.ask("one")
        second = await local.ask("two", conversation=first.conversation_id)
        elsewhere = await local.ask("three")
    async with opened(fleet, script, home=tmp_path) as (local, scheduler):
        third = await local.ask("three", conversation=first.conversation_id)
        said = [message.text for message in scheduler.calls[-1].messages if isinstance(message, HumanMessage)]
    assert [answer.text for answer in (first, second, elsewhere, third)] == [
        "1 notes", "2 notes", "1 notes", "3 notes"
    ]  # fmt: skip
    assert said == ["one", "two", "three"]


# -- limits ----------------------------------------------------------------------------------------


async def failing(fleet: Fleet, answers: Any) -> tuple[list[Event], ScriptedScheduler]:
    async with opened(fleet, answers) as (local, scheduler):
        events = [event async for event in local.stream("hi")]
    assert events[-1].type == "error"
    return events, scheduler


@pytest.mark.requirement("visits.limits")
async def test_a_turn_ends_at_its_model_calls_of_the_agent_and_of_the_turn() -> None:
    def forever(call: ModelCall) -> Answer:
        return calls(("order_status", {"order_id": "#W1"}))

    few = agent("lookup", tools=[order_status], max_steps=2)
    events, scheduler = await failing(desk(few), forever)
    assert (events[-1].data["code"], len(scheduler.calls)) == ("limit_exceeded", 2)
    events, scheduler = await failing(desk(LOOKUP, limits=Limits(steps=3)), forever)
    assert (events[-1].data["code"], events[-1].data["status"], len(scheduler.calls)) == (
        "limit_exceeded",
        422,
        3,
    )


@pytest.mark.requirement("visits.limits")
async def test_a_turn_ends_at_its_handoffs() -> None:
    fleet = desk(
        agent("triage", handoffs=["a"]), agent("a", handoffs=["b"]), agent("b", handoffs=["a"]),
        limits=Limits(handoffs=3),
    )  # fmt: skip

    def pass_on(call: ModelCall) -> Answer:
        return calls((call.tools[0]["function"]["name"], {"reason": ""}))

    events, _ = await failing(fleet, pass_on)
    assert events[-1].data["code"] == "limit_exceeded"
    assert "more than 3 times" in events[-1].data["detail"]
    assert len(only(events, "handoff")) == 4


@pytest.mark.requirement("visits.limits")
async def test_a_turn_ends_at_its_time() -> None:
    async def never(call: ModelCall) -> Answer:
        await asyncio.Event().wait()
        return ""

    events, _ = await failing(desk(LOOKUP, limits=Limits(seconds=0.1)), never)
    assert (events[-1].data["code"], events[-1].data["status"]) == ("deadline_exceeded", 504)
    assert "0.1 s" in events[-1].data["detail"]


async def test_an_answer_without_any_text_is_an_error() -> None:
    events, _ = await failing(desk(LOOKUP), [""])
    assert events[-1].data["code"] == "output_invalid"
