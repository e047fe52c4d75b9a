"""LangGraph's checkpointer on our databases."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from sqlalchemy.engine import make_url

from admiralty.core.errors import ConfigurationError
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import open_checkpointer


class State(TypedDict):
    messages: Annotated[list[BaseMessage], add_messages]


def graph(checkpointer: Any) -> Any:
    async def answer(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=checkpointer)


async def say(saver: Any, thread: str, text: str = "hi") -> list[str]:
    config = {"configurable": {"thread_id": thread}}
    state = await graph(saver).ainvoke({"messages": [HumanMessage(text)]}, config, durability="exit")
    return [str(message.text) for message in state["messages"]]


@pytest.mark.requirement("storage.checkpoints")
async def test_a_thread_goes_on_where_it_was_after_everything_was_closed(database: Database) -> None:
    async with open_checkpointer(database.url) as saver:
        assert await say(saver, "one") == ["hi", "answer 1"]
        assert await say(saver, "two", "hello \x00 \U0001f600") == ["hello \x00 \U0001f600", "answer 1"]
    async with open_checkpointer(database.url) as saver:
        assert await say(saver, "one") == ["hi", "answer 1", "hi", "answer 3"]


@pytest.mark.requirement("storage.checkpoints")
async def test_several_checkpointers_may_open_a_new_database_at_once_and_be_used_together(
    database: Database,
) -> None:
    async with AsyncExitStack() as stack:
        savers = await asyncio.gather(
            *(stack.enter_async_context(open_checkpointer(database.url)) for _ in range(4))
        )
        answers = await asyncio.gather(*(say(saver, f"t{n}") for n, saver in enumerate(savers * 5)))
        assert answers == [["hi", "answer 1"]] * 20
        # Our own writer and the checkpointers share the file.
        await database.write(lambda connection: None)


@pytest.mark.requirement("storage.checkpoints")
async def test_a_database_in_memory_has_its_checkpoints_in_memory() -> None:
    async with open_checkpointer(make_url("sqlite://")) as saver:
        assert await say(saver, "one") == ["hi", "answer 1"]


async def test_postgresql_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg_pool", None)
    with pytest.raises(ConfigurationError, match=r"admiralty\[postgres\]"):
        async with open_checkpointer(make_url("postgresql://x")):
            pass
