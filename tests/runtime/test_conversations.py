"""Turns as durable runs: followed live, ended and stored once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from admiralty.agents import Agent, Fleet, Limits, inline_prompt
from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict, InvalidRequest, NotFound, RateLimited, Retryable
from admiralty.core.ids import new_id
from admiralty.core.settings import Settings
from admiralty.core.values import Event, Identity, ModelCall
from admiralty.runtime.agents.hosts import LocalAgentHost
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.conversations.graph import recent
from admiralty.runtime.local import LocalFleet
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver
from admiralty.runtime.testing import ScriptedScheduler, calls

CLERK = Agent("clerk", prompt=inline_prompt("You are a clerk."))
DESK = Fleet("desk", agents=[CLERK], entry="clerk")
US, THEM = Identity(tenant="us"), Identity(tenant="them")


class Held:
    """Answers when a test lets it."""

    def __init__(self, text: str = "Here you are.") -> None:
        self.text, self.asked, self.released = text, asyncio.Event(), asyncio.Event()

    async def __call__(self, call: ModelCall) -> str:
        self.asked.set()
        await self.released.wait()
        return self.text


def echo(call: ModelCall) -> str:
    return f"You said {call.messages[-1].text}"


@asynccontextmanager
async def opened(script: Any, fleet: Fleet = DESK, **options: Any) -> AsyncIterator[LocalFleet]:
    async with fleet.local(scheduler=ScriptedScheduler(script), identity=US, **options) as local:
        yield local


async def events_of(local: LocalFleet, conversation: str) -> list[Event]:
    view = await local.conversations.view(US, conversation)
    assert [stored.seq for stored in view.events] == list(range(1, len(view.events) + 1))
    return [stored.event for stored in view.events]


@asynccontextmanager
async def on_database(url: str, script: Any, clock: Any = None) -> AsyncIterator[Conversations]:
    """Conversations on a database of its own, as one process has them."""
    async with AsyncExitStack() as stack:
        database = Database(url)
        stack.push_async_callback(database.close)
        clock = clock or SystemClock()
        host = LocalAgentHost(
            DESK, DESK.agents, Surroundings(scheduler=ScriptedScheduler(script), memory=None, resources=None)
        )
        conversations = Conversations(
            fleet=DESK,
            host=host,
            database=database,
            checkpointer=SqlCheckpointSaver(database),
            clock=clock,
            owner=new_id("process"),
            settings=Settings(),
        )
        stack.push_async_callback(conversations.drain, 1.0)
        yield conversations


@pytest.mark.requirement("conversations.stored")
async def test_a_turn_goes_on_on_another_process_after_a_restart(database_url: str) -> None:
    async with on_database(database_url, echo) as conversations:
        made = await conversations.create(US, metadata={"channel": "web"})
        live = await conversations.say(US, made.id, "one \U0001f600")
        *_, last = await _all(live)
        assert last.data["message"] == "You said one \U0001f600"
    async with on_database(database_url, lambda call: str(len(call.messages))) as conversations:
        live = await conversations.say(US, made.id, "two")
        *_, last = await _all(live)
        assert last.data["message"] == "4"  # the prompt, two of the first turn, one now
        view = await conversations.view(US, made.id)
    assert [(run.turn, run.status, run.message, run.answer) for run in view.runs] == [
        (1, "done", "one \U0001f600", "You said one \U0001f600"),
        (2, "done", "two", "4"),
    ]
    assert view.conversation.metadata == {"channel": "web"}


@pytest.mark.requirement("conversations.stored")
async def test_everything_but_the_tokens_is_stored_with_gapless_numbers() -> None:
    async with opened(echo) as local:
        answer = await local.ask("hi")
        stored = await events_of(local, answer.conversation_id)
        assert [event.type for event in stored] == ["message", "run", "step", "cost", "message", "done"]
        assert stored[0].data == {"role": "user", "content": "hi", "turn": 1}
        assert stored[-1] == answer.events[-1]
        assert stored[-2].data["content"] == answer.text == "You said hi"


@pytest.mark.requirement("conversations.stored")
async def test_the_end_is_heard_only_when_it_is_stored() -> None:
    async with opened(echo) as local:
        conversation = await local.conversations.create(US)
        live = await local.conversations.say(US, conversation.id, "hi")
        async for event in live.follow():
            (run,) = (await local.conversations.view(US, conversation.id)).runs
            assert run.status == "done" or event.type != "done"


@pytest.mark.requirement("conversations.follow")
async def test_any_number_may_follow_a_run_and_leave_it_and_it_goes_on() -> None:
    held = Held()
    async with opened(held) as local:
        conversation = await local.conversations.create(US)
        live = await local.conversations.say(US, conversation.id, "hi")
        leaver = live.follow()
        assert (await anext(leaver)).type == "run"
        await leaver.aclose()
        followers = [asyncio.create_task(_all(live)) for _ in range(3)]
        await asyncio.wait_for(held.asked.wait(), 5)
        held.released.set()
        seen = await asyncio.gather(*followers)
        assert seen[0] == seen[1] == seen[2] == await _all(live)  # also who comes late
    assert seen[0][-1].type == "done"


async def _all(live: Any) -> list[Event]:
    return [event async for event in live.follow()]


@pytest.mark.requirement("conversations.one_at_a_time")
async def test_a_second_message_while_one_is_answered_is_a_conflict_and_changes_nothing() -> None:
    held = Held()
    async with opened(held) as local:
        conversation = await local.conversations.create(US)
        live = await local.conversations.say(US, conversation.id, "one")
        await asyncio.wait_for(held.asked.wait(), 5)
        with pytest.raises(Conflict, match="still answering"):
            await local.conversations.say(US, conversation.id, "two")
        other = await local.conversations.create(US)
        beside = await local.conversations.say(US, other.id, "elsewhere")  # nobody waits for the first
        held.released.set()
        await asyncio.gather(_all(live), _all(beside))
        said = [event for event in await events_of(local, conversation.id) if event.type == "message"]
        assert [event.data["content"] for event in said] == ["one", "Here you are."]
        await local.ask("three", conversation=conversation.id)


@pytest.mark.requirement("conversations.cancel")
@pytest.mark.parametrize("when", ["at once", "under way"])
async def test_a_cancelled_run_is_stored_as_such_and_the_next_turn_works(when: str) -> None:
    held = Held()
    async with opened(held) as local:
        conversation = await local.conversations.create(US)
        live = await local.conversations.say(US, conversation.id, "one")
        if when == "under way":
            await asyncio.wait_for(held.asked.wait(), 5)
        live.cancel()
        live.cancel()
        events = await asyncio.wait_for(_all(live), 5)
        assert (events[-1].type, events[-1].data["code"]) == ("error", "cancelled")
        (run,) = (await local.conversations.view(US, conversation.id)).runs
        assert (run.status, run.answer) == ("cancelled", None)
        held.released.set()
        assert (await local.ask("two", conversation=conversation.id)).text == "Here you are."


@pytest.mark.requirement("conversations.failure")
async def test_a_provider_that_fails_fails_the_run_with_a_problem_and_the_next_turn_works() -> None:
    answers = iter([RateLimited("Too many requests.", retry_after=7.0), KeyError("a secret"), "Here."])
    async with opened(lambda call: next(answers)) as local:
        conversation = (await local.conversations.create(US)).id
        failed = [event async for event in local.stream("one", conversation=conversation)][-1]
        assert failed.type == "error"
        assert failed.data["type"] == "urn:admiralty:problem:rate_limited"
        assert (failed.data["status"], failed.data["retry_after"]) == (429, 7.0)
        assert failed.data["detail"] == "Too many requests."
        broken = [event async for event in local.stream("two", conversation=conversation)][-1]
        assert broken.data["status"] == 500
        assert "secret" not in str(broken.data)
        assert (await local.ask("three", conversation=conversation)).text == "Here."
        view = await local.conversations.view(US, conversation)
        assert [run.status for run in view.runs] == ["failed", "failed", "done"]
        assert view.runs[0].error is not None
        assert view.runs[0].error["code"] == "rate_limited"


@pytest.mark.requirement("conversations.failure")
async def test_an_answer_with_characters_that_no_database_takes_is_kept_all_the_same(
    database_url: str,
) -> None:
    answers = iter(["a \x00 b", "c \ud800 d", "fine"])
    async with on_database(database_url, lambda call: next(answers)) as conversations:
        made = await conversations.create(US)
        for _ in range(3):
            live = await conversations.say(US, made.id, "hi")
            events = await asyncio.wait_for(_all(live), 10)
            assert events[-1].type == "done", events[-1]
        view = await conversations.view(US, made.id)
    assert [run.answer for run in view.runs] == ["a \ufffd b", "c \ufffd d", "fine"]


@pytest.mark.requirement("conversations.input")
@pytest.mark.parametrize("message", ["\x00", "a \ud800"])
async def test_a_message_that_is_no_text_is_refused_and_starts_nothing(message: str) -> None:
    async with opened(echo) as local:
        conversation = await local.conversations.create(US)
        with pytest.raises(InvalidRequest, match="no text"):
            await local.conversations.say(US, conversation.id, message)
        assert (await local.conversations.view(US, conversation.id)).runs == []


@pytest.mark.requirement("storage.tenants", "conversations.input")
async def test_unknown_conversations_and_those_of_others_are_not_found() -> None:
    async with opened(echo) as local:
        theirs = await local.conversations.create(THEM)
        for conversation in (theirs.id, "conv_nowhere", "", "\x00"):
            with pytest.raises(NotFound):
                await local.conversations.say(US, conversation, "hi")
            with pytest.raises(NotFound):
                await local.conversations.view(US, conversation)
        assert await local.conversations.recent(US) == []


@pytest.mark.requirement("conversations.history")
async def test_what_was_said_elsewhere_is_the_beginning_of_a_conversation(database_url: str) -> None:
    history: list[BaseMessage] = [HumanMessage("Where is #W1?"), AIMessage("On its way.")]
    seen: list[ModelCall] = []

    def script(call: ModelCall) -> str:
        seen.append(call)
        return "Tomorrow."

    async with on_database(database_url, script) as conversations:
        made = await conversations.create(US, history=history)
        await _all(await conversations.say(US, made.id, "When?"))
        view = await conversations.view(US, made.id)
    assert [message.text for message in seen[0].messages[1:]] == ["Where is #W1?", "On its way.", "When?"]
    assert [run.turn for run in view.runs] == [1]


@pytest.mark.requirement("conversations.drain")
async def test_draining_waits_for_what_runs_and_takes_nothing_new() -> None:
    held = Held()
    async with opened(held) as local:
        conversation = await local.conversations.create(US)
        live = await local.conversations.say(US, conversation.id, "one")
        await asyncio.wait_for(held.asked.wait(), 5)
        draining = asyncio.create_task(local.conversations.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(Retryable, match="shutting down"):
            await local.conversations.say(US, conversation.id, "two")
        assert not draining.done()
        held.released.set()
        await asyncio.wait_for(draining, 5)
        assert (await _all(live))[-1].type == "done"


@pytest.mark.requirement("conversations.drain")
async def test_draining_hands_on_what_takes_too_long_and_the_same_fleet_finishes_it_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()
    with caplog.at_level(logging.WARNING):
        async with opened(held, home=tmp_path) as local:
            conversation = await local.conversations.create(US)
            await local.conversations.say(US, conversation.id, "one")
            await asyncio.wait_for(held.asked.wait(), 5)
            await local.conversations.drain(0.01)
            (run,) = (await local.conversations.view(US, conversation.id)).runs
            assert (run.status, run.attempts) == ("queued", [])
        async with opened(echo, home=tmp_path) as local:
            events = await asyncio.wait_for(
                _all(await local.conversations.follow(US, conversation.id, run.id)), 10
            )
            assert events[-1].data["message"] == "You said one"
            (run,) = (await local.conversations.view(US, conversation.id)).runs
            assert (run.status, run.attempts, run.fence) == ("done", [], 2)
    assert caplog.text == ""


async def test_a_fleet_in_this_process_is_opened_with_settings_too(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / "kept", database_url=f"sqlite:///{tmp_path}/x.sqlite3")
    async with opened(echo, settings=settings) as local:
        assert (await local.ask("hi")).text == "You said hi"
    assert (tmp_path / "x.sqlite3").exists()
    assert (tmp_path / "kept").is_dir()


# -- how much history agents are shown --------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[BaseMessage]:
    messages: list[BaseMessage] = []
    for turn in range(draw(st.integers(0, 8))):
        messages.append(HumanMessage(f"turn {turn}"))
        for number in range(draw(st.integers(0, 2))):
            messages.append(calls(("t", {})))
            messages.append(ToolMessage("r", tool_call_id=f"{turn}-{number}"))
        messages.append(AIMessage("answer"))
    return messages


@given(histories(), st.integers(1, 20))
@pytest.mark.requirement("conversations.trim")
def test_history_is_cut_only_where_a_turn_begins_and_the_newest_turn_stays_whole(
    messages: list[BaseMessage], limit: int
) -> None:
    kept = list(recent(messages, limit))
    assert messages[len(messages) - len(kept) :] == kept  # the end of it
    if len(kept) < len(messages):
        assert isinstance(kept[0], HumanMessage)
    turns = [message for message in kept if isinstance(message, HumanMessage)]
    assert len(kept) <= limit or len(turns) <= 1
    if messages:
        assert kept


@pytest.mark.requirement("conversations.trim")
async def test_a_long_conversation_is_trimmed_in_whole_turns_also_where_it_is_kept() -> None:
    shown: list[int] = []

    def script(call: ModelCall) -> str:
        shown.append(len(call.messages) - 1)
        assert isinstance(call.messages[1], HumanMessage)
        return "Here."

    fleet = Fleet("desk", agents=[CLERK], entry="clerk", limits=Limits(history=5))
    async with opened(script, fleet) as local:
        first = await local.ask("0")
        for number in range(1, 12):
            await local.ask(str(number), conversation=first.conversation_id)
        config = {"configurable": {"thread_id": first.conversation_id}}
        state = await local.conversations._executor.graph.aget_state(config)  # type: ignore[arg-type]
    assert shown == [1, 3, *[5] * 10]
    assert len(state.values["messages"]) <= 10
    assert state.values["messages"][-2].text == "11"
