"""What is kept of models' replies comes back as it was, whatever models and tools have said."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call

from admiralty.core.money import Nanos
from admiralty.core.values import JournalEntry, ModelReply, Usage
from admiralty.runtime.durable.naming import call_id, named, reply_id
from admiralty.runtime.durable.steps import delete_steps, insert_steps, load_steps
from admiralty.runtime.storage import Database

# Models write NUL and half surrogates too.
texts = st.text(st.characters() | st.sampled_from("\0\ud800\udfff\ufffd"), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts | st.just("$text"), json_values, max_size=3)
ids = st.none() | st.sampled_from(["", "call_1", "call_2", "a:b", "x" * 300, "\0"])
wished = st.builds(lambda name, args, id_: tool_call(name=name, args=args, id=id_), texts, json_objects, ids)
blocks = st.one_of(
    texts,
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, texts),
    st.builds(lambda id_: {"type": "tool_use", "id": id_, "name": "n", "input": {}}, ids),
)
messages = st.builds(
    AIMessage,
    content=texts | st.lists(blocks, max_size=3),
    tool_calls=st.lists(wished, max_size=3),
    invalid_tool_calls=st.lists(
        st.just(invalid_tool_call(name="n", args="{", id="1", error="broken")), max_size=1
    ),
    id=st.none() | texts,
    name=st.none() | texts,
    response_metadata=json_objects,
    additional_kwargs=json_objects,
    usage_metadata=st.none() | st.just({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
)
replies = st.builds(
    ModelReply,
    message=messages,
    model=texts,
    tier=st.sampled_from(["none", "small", "mid", "frontier"]),
    usage=st.builds(Usage, input_tokens=st.integers(0, 2**31), reasoning_tokens=st.integers(0, 9)),
    cost=st.none() | st.integers(0, 2**62).map(Nanos),
    seconds=st.floats(0, 1e6),
    finish_reason=texts,
    metadata=json_objects,
)
entries = st.builds(
    JournalEntry,
    key=st.just("0.1"),
    session=json_objects,
    outcomes=st.dictionaries(texts, json_objects, max_size=2),
    reply=replies | st.none(),
)


def plain_reply(message: AIMessage, **changes: Any) -> ModelReply:
    made = ModelReply(message=message, model="x:y", tier="small", usage=Usage(), cost=None, seconds=0.1)
    return replace(made, **changes)


def entry(key: str = "0.1", message: AIMessage | None = None, **changes: Any) -> JournalEntry:
    made = JournalEntry(key=key, session={}, reply=plain_reply(message or AIMessage("hi")))
    return replace(made, **changes)


async def through(database: Database, *kept: JournalEntry) -> dict[str, JournalEntry]:
    """Return what comes back of what is kept."""
    await database.write(lambda c: delete_steps(c, "run"))
    await database.write(lambda c: insert_steps(c, "run", kept, 1.0))
    return await database.read(lambda c: load_steps(c, "run"))


@pytest.fixture
async def database(database_url: str) -> Any:
    """An empty database, of each kind."""
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.mark.requirement("durable.replies")
async def test_a_reply_comes_back_exactly_as_it_was(database: Database) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(kept=entries)
    def check(kept: JournalEntry) -> None:
        back = asyncio.run_coroutine_threadsafe(through(database, kept), loop).result(30)
        assert back == {"0.1": kept}
        if (reply := back["0.1"].reply) is not None:
            assert type(reply.message) is AIMessage

    await asyncio.to_thread(check)


@pytest.mark.requirement("durable.replies")
async def test_what_is_no_json_is_kept_as_near_as_can_be(database: Database) -> None:
    odd = entry(session={"at": math, "rate": float("nan"), "most": math.inf})
    back = (await through(database, odd))["0.1"].session
    assert back["at"] == str(math)
    assert math.isnan(back["rate"])
    assert back["most"] == math.inf
    chunk = AIMessageChunk(content="a", tool_call_chunks=[])
    assert (await through(database, entry(message=chunk)))["0.1"].reply == plain_reply(chunk)


@pytest.mark.requirement("durable.replies")
async def test_the_first_reply_under_a_key_stays_and_runs_know_only_their_own(database: Database) -> None:
    first, second = entry(message=AIMessage("first")), entry(message=AIMessage("second"))
    other = entry("0.2", message=AIMessage("other"))
    assert await through(database, first) == {"0.1": first}
    await database.write(lambda c: insert_steps(c, "run", [second, other], 2.0))
    await database.write(lambda c: insert_steps(c, "elsewhere", [second], 2.0))
    await database.write(lambda c: insert_steps(c, "run", [], 2.0))
    assert await database.read(lambda c: load_steps(c, "run")) == {"0.1": first, "0.2": other}
    await database.write(lambda c: delete_steps(c, "run"))
    assert await database.read(lambda c: load_steps(c, "run")) == {}
    assert await database.read(lambda c: load_steps(c, "elsewhere")) == {"0.1": second}


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.requirement("durable.call_ids")
@settings(max_examples=100, deadline=None)
@given(message=messages)
def test_tool_calls_get_ids_that_are_unique_and_the_same_each_time(message: AIMessage) -> None:
    once = named(plain_reply(message), "run", "0.1")
    assert named(once, "run", "0.1") == once
    assert named(plain_reply(message), "run", "0.1") == once
    there = [call["id"] for call in once.message.tool_calls]
    elsewhere = [call["id"] for call in named(plain_reply(message), "run", "0.2").message.tool_calls]
    assert len({*there, *elsewhere}) == 2 * len(message.tool_calls)
    assert all(name and len(name) <= 40 and name.isascii() for name in there)
    assert [(call["name"], call["args"]) for call in once.message.tool_calls] == [
        (call["name"], call["args"]) for call in message.tool_calls
    ]
    assert once.message.id == reply_id("run", "0.1") != reply_id("run2", "0.1")
    assert call_id("run", "0.1") not in there


@pytest.mark.requirement("durable.call_ids")
def test_what_a_message_says_of_its_calls_in_its_content_is_named_like_them() -> None:
    content: list[Any] = [
        "text",
        {"type": "tool_use", "id": "call_1", "name": "a", "input": {}},
        {"type": "text", "text": "call_1"},
        {"type": "function_call", "id": "fc_9", "call_id": "call_1", "name": "b", "arguments": "{}"},
        {"type": "tool_use", "id": "call_9", "name": "c", "input": {}},
    ]
    calls = [tool_call(name=name, args={}, id="call_1") for name in "ab"]
    message = named(plain_reply(AIMessage(content=content, tool_calls=calls)), "run", "0.1").message
    first, second = (call["id"] for call in message.tool_calls)
    _, used, said, asked, other = list(message.content)
    assert isinstance(used, dict)
    assert isinstance(asked, dict)
    assert (used["id"], asked["call_id"], asked["id"]) == (first, second, "fc_9")
    assert (said, other) == (content[2], content[4])
