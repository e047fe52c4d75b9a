"""A visit that broke off anywhere and is made again ends as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import ToolCall

from admiralty.agents import Agent, inline_prompt
from admiralty.core.values import ModelCall
from admiralty.runtime.testing import Answer

from .conftest import TOOLS, VISIT, Durability, World, execute


def prebuilt(context: Any) -> Any:
    return create_agent(context.model, context.tools)


def clerk(kind: str, **values: Any) -> Agent:
    graph = prebuilt if kind == "graph" else None
    return Agent("clerk", prompt=inline_prompt("You are a clerk."), tools=TOOLS, graph=graph, **values)


CLERKS = {kind: clerk(kind) for kind in ("loop", "graph")}

Step = Sequence[tuple[str, dict[str, Any], str | None]]

wishes = st.one_of(
    st.tuples(st.just("look"), st.sampled_from(["a", "b", "nothing"]).map(lambda text: {"what": text})),
    st.tuples(st.just("note"), st.sampled_from(["x", "y"]).map(lambda text: {"text": text})),
    st.just(("look", {"where": "here"})),
)
ids = st.none() | st.sampled_from(["call_1", "call_2"])
steps = st.lists(st.tuples(wishes, ids).map(lambda pair: (*pair[0], pair[1])), min_size=1, max_size=3)
dialogues = st.lists(steps, max_size=3)


def answered(messages: Sequence[BaseMessage]) -> int:
    """How many answers of the model the call shows."""
    return sum(isinstance(message, AIMessage) for message in messages)


def scripted(dialogue: Sequence[Step]) -> Callable[[ModelCall], Answer]:
    """A model that goes through the dialogue, by what it is shown of it: it gives ids that are no use."""

    def script(call: ModelCall) -> Answer:
        number = answered(call.messages)
        if number == len(dialogue):
            return "Done."
        wished = [ToolCall(name=name, args=args, id=id_) for name, args, id_ in dialogue[number]]
        return AIMessage(f"Step {number}.", tool_calls=wished)

    return script


async def undisturbed(kind: str, dialogue: Sequence[Step], durability: Durability) -> tuple[Any, World]:
    world = World()
    visit = replace(VISIT, durability=durability)
    return await execute(world, CLERKS[kind], scripted(dialogue), visit=visit), world


async def broken_off_everywhere(kind: str, dialogue: Sequence[Step], durability: Durability) -> None:
    """Break the visit off at each moment, make it again, and compare."""
    calm, whole = await undisturbed(kind, dialogue, durability)
    assert calm.result is not None
    visit = replace(VISIT, durability=durability, streaming=False)
    for moment in range(1, calm.moments + 1):
        world = World()
        broken = await execute(world, CLERKS[kind], scripted(dialogue), visit=visit, dies_at=moment)
        assert broken.result is None
        kept, asked = len(world.kept), world.asked
        if durability == "sync":
            assert kept == asked, "each reply is kept"
        again = await execute(world, CLERKS[kind], scripted(dialogue), visit=visit)
        assert again.said == calm.said
        assert again.result is not None
        assert again.result.session == calm.result.session
        assert (again.result.steps, again.result.calls) == (calm.result.steps, calm.result.calls)
        assert sorted(world.written) == sorted(whole.written), "each write once"
        assert world.asked - asked == whole.asked - kept, "no recorded reply is asked for"


@pytest.mark.requirement("durable.resume")
@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("kind", ["loop", "graph"])
def test_a_visit_that_broke_off_anywhere_and_is_made_again_ends_as_if_nothing_had_happened(
    kind: str, durability: Durability
) -> None:
    @settings(
        max_examples=20 if kind == "loop" else 6,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(dialogue=dialogues)
    def check(dialogue: Sequence[Step]) -> None:
        asyncio.run(broken_off_everywhere(kind, dialogue, durability))

    check()


LONG: list[Step] = [
    [("look", {"what": "a"}, "call_1"), ("look", {"what": "nothing"}, "call_1")],
    [("note", {"text": "x"}, "call_1"), ("look", {"what": "b"}, None), ("note", {"text": "x"}, "call_1")],
    [("note", {"text": "x"}, "call_1")],
    [("fly", {}, "call_1"), ("look", {}, "call_1")],
]


@pytest.mark.requirement("durable.resume")
@pytest.mark.parametrize("kind", ["loop", "graph"])
async def test_a_visit_that_breaks_off_again_and_again_asks_and_does_everything_once(kind: str) -> None:
    dialogue = [step for step in LONG if kind == "loop" or step[0][0] != "fly"]
    calm, whole = await undisturbed(kind, dialogue, "sync")
    world = World()
    for _ in range(30):
        # One new thing each time: a reply, or a write. What is recorded makes no moments, but reads may.
        before = (len(world.kept), sum(outcome is not None for outcome in world.effects.values()))
        for moment in range(1, 9):
            ended = await execute(world, CLERKS[kind], scripted(dialogue), dies_at=moment)
            after = (len(world.kept), sum(outcome is not None for outcome in world.effects.values()))
            if ended.result is not None or after != before:
                break
        if ended.result is not None:
            break
    assert ended.said == calm.said
    assert world.asked == whole.asked == len(dialogue) + 1
    assert sorted(world.written) == sorted(whole.written)
    assert len(set(world.written)) == 3
    assert world.executions > len(dialogue) + 3


@pytest.mark.requirement("durable.replayed")
@pytest.mark.parametrize("kind", ["loop", "graph"])
async def test_what_is_told_again_is_marked_and_costs_nothing(kind: str) -> None:
    world, dialogue = World(), [LONG[0], LONG[2]]
    first = await execute(world, CLERKS[kind], scripted(dialogue))
    assert not any(event.data.get("replayed") for event in first.events)
    again = await execute(world, CLERKS[kind], scripted(dialogue))
    told = [event for event in again.events if event.type in ("step", "tool")]
    assert [event.type for event in told] == [
        event.type for event in first.events if event.type in ("step", "tool")
    ]
    assert all(event.data["replayed"] for event in told)
    assert told == again.events, "neither costs nor tokens"
    assert again.said == first.said
    assert (world.read, len(world.written)) == (["a", "nothing"], 1)


@pytest.mark.requirement("durable.replayed")
@pytest.mark.parametrize("kind", ["loop", "graph"])
async def test_after_what_is_recorded_the_visit_goes_on_live(kind: str) -> None:
    world, dialogue = World(), [LONG[0], LONG[2]]
    ended = await execute(world, CLERKS[kind], scripted(dialogue))
    del world.kept[list(world.kept)[-1]]
    again = await execute(world, CLERKS[kind], scripted(dialogue))
    assert again.said == ended.said
    heard = [event.type for event in again.events if not event.data.get("replayed")]
    # The call's reply is recorded, but not what came of it: nobody need have heard of that.
    assert (heard[:3], sorted(heard[3:])) == (["tool", "tool", "step"], ["cost", "token"])
    assert world.asked == 4
    assert len(world.written) == 1


@pytest.mark.requirement("durable.resume")
async def test_what_was_recorded_after_a_reply_that_is_lost_is_not_used() -> None:
    world = World()
    await execute(world, CLERKS["loop"], scripted([LONG[0], LONG[2]]))
    del world.kept["0.1"]
    again = await execute(world, CLERKS["loop"], scripted([[("look", {"what": "b"}, None)]]))
    assert [said[1] for said in again.said] == ["Step 0.", "seen b", "Done."]


@pytest.mark.requirement("durable.resume")
@pytest.mark.parametrize("kind", ["loop", "graph"])
async def test_the_session_is_what_it_was_when_the_model_was_asked(kind: str) -> None:
    world, dialogue = World(), [LONG[2]]
    await execute(world, CLERKS[kind], scripted(dialogue))
    *_, last = world.kept.values()
    world.kept[last.key] = replace(last, session={"notes": 1, "since": "then"})
    again = await execute(world, CLERKS[kind], scripted(dialogue))
    assert again.result is not None
    assert again.result.session == {"notes": 1, "since": "then"}, "what is gone by then is gone"


@pytest.mark.requirement("durable.exit")
async def test_replies_that_lead_to_no_change_travel_to_the_next_visit() -> None:
    triage = clerk("loop", handoffs=["other"])
    other = Agent("other", prompt=inline_prompt("Other."))

    def script(call: ModelCall) -> Answer:
        wish: list[tuple[str, dict[str, Any]]] = [
            ("look", {"what": "a"}),
            ("handoff_to_other", {"reason": "r"}),
        ]
        name, args = wish[answered(call.messages)]
        return AIMessage("", tool_calls=[ToolCall(name=name, args=args, id="call_1")])

    world = World()
    visit = replace(VISIT, durability="exit")
    first = await execute(world, triage, script, visit=visit, others=[other])
    assert first.result is not None
    assert first.result.handoff == "other"
    assert [entry.key for entry in first.result.journal] == ["0.1", "0.2"]
    assert world.kept == {}
    # The next visit writes: with that, all is kept.
    following = replace(visit, number=1, journal=first.result.journal)
    second = await execute(world, CLERKS["loop"], scripted([LONG[2]]), visit=following)
    assert list(world.kept) == ["0.1", "0.2", "1.1"]
    assert second.result is not None
    assert second.result.journal == (), "the turn is over"
