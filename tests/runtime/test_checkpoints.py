"""LangGraph's checkpointer on our databases: conforming, fenced, pruned."""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from sqlalchemy import Connection

from admiralty.core.errors import RunLost
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver, prune_thread
from admiralty.runtime.storage.tables import conversations, runs, thread_checkpoints, thread_writes

RUN = "run_1"


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


async def say(saver: Any, thread: str, text: str = "hi", **options: Any) -> list[str]:
    options = {"durability": "exit", **options}
    state = await graph(saver).ainvoke({"messages": [HumanMessage(text)]}, at(thread), **options)
    return [str(message.text) for message in state["messages"]]


def at(thread: str, **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", **more}}


async def begin_run(database: Database) -> None:
    """Store a run as its first execution has it."""

    def insert(connection: Connection) -> None:
        talk = {"id": "conv_1", "tenant": "t", "fleet": "f", "metadata": {}, "created_at": 0, "updated_at": 0}
        connection.execute(conversations.insert().values(talk))
        run = {"id": RUN, "conversation_id": "conv_1", "turn": 1, "message": "hi", "started_at": 0}
        claimed = {"status": "running", "owner": "us", "lease_until": 0, "fence": 1}
        connection.execute(runs.insert().values({**run, **claimed}))

    await database.write(insert)


async def take_over(database: Database, **values: Any) -> None:
    await database.write(lambda connection: connection.execute(runs.update().values(values)) and None)


async def kept(database: Database) -> Sequence[Any]:
    """Return every row of both tables, with all that is in it."""

    def select(connection: Connection) -> Sequence[Any]:
        return [
            tuple(row)
            for table in (thread_checkpoints, thread_writes)
            for row in connection.execute(sa.select(table).order_by(*table.primary_key))
        ]

    return await database.read(select)


# -- LangGraph's own suite ----------------------------------------------------------------------------


class Fenced(SqlCheckpointSaver):
    """Writes as a run's execution does: every config names the run and its fence."""

    async def aput(self, config: RunnableConfig, *rest: Any) -> RunnableConfig:
        return await super().aput(_fenced(config), *rest)

    async def aput_writes(self, config: RunnableConfig, *rest: Any, **more: Any) -> None:
        await super().aput_writes(_fenced(config), *rest, **more)


def _fenced(config: RunnableConfig) -> RunnableConfig:
    return {**config, "configurable": {**config["configurable"], "run_id": RUN, "fence": 1}}


@pytest.mark.requirement("storage.checkpoints_conform")
@pytest.mark.parametrize("kind", [SqlCheckpointSaver, Fenced])
@pytest.mark.parametrize("where", ["sqlite", "postgres", "memory"])
async def test_langgraphs_conformance_suite_passes(
    kind: type[SqlCheckpointSaver], where: str, request: pytest.FixtureRequest
) -> None:
    from langgraph.checkpoint.conformance import checkpointer_test, validate
    from langgraph.checkpoint.conformance.capabilities import Capability

    url: str = "sqlite://" if where == "memory" else request.getfixturevalue(f"{where}_url")
    database = Database(url)
    await begin_run(database)

    async def savers() -> AsyncIterator[BaseCheckpointSaver[Any]]:
        yield kind(database)

    report = await validate(checkpointer_test(f"{kind.__name__} on {where}")(savers))
    await database.close()
    for capability in Capability:
        result = report.results[capability.value]
        assert result.passed, f"{capability}: {result.failures}"
        assert result.tests_passed > 0


# -- going on -----------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlCheckpointSaver]:
    database = Database(url)
    try:
        yield SqlCheckpointSaver(database)
    finally:
        await database.close()


@pytest.mark.requirement("storage.checkpoints")
async def test_a_thread_goes_on_where_it_was_after_everything_was_closed(database_url: str) -> None:
    async with opened(database_url) as saver:
        assert await say(saver, "one") == ["hi", "answer 1"]
        assert await say(saver, "two", "hello \x00 \U0001f600") == ["hello \x00 \U0001f600", "answer 1"]
    async with opened(database_url) as saver:
        assert await say(saver, "one") == ["hi", "answer 1", "hi", "answer 3"]


@pytest.mark.requirement("storage.checkpoints")
async def test_several_processes_databases_are_written_to_at_once(database_url: str) -> None:
    databases = await asyncio.gather(*(asyncio.to_thread(Database, database_url) for _ in range(4)))
    savers = [SqlCheckpointSaver(database) for database in databases]
    answers = await asyncio.gather(
        *(say(saver, f"t{n}", durability="sync") for n, saver in enumerate(savers * 5))
    )
    assert answers == [["hi", "answer 1"]] * 20
    for number in range(20):
        (latest,) = [found async for found in savers[0].alist(at(f"t{number}"), limit=1)]
        assert len(latest.checkpoint["channel_values"]["messages"]) == 2
    await asyncio.gather(*(database.close() for database in databases))


_PUT = """
import asyncio, sys
from langgraph.checkpoint.base import empty_checkpoint
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver
async def main():
    database = Database(sys.argv[1])
    saver = SqlCheckpointSaver(database)
    sys.stdin.readline()
    for number in range(50):
        config = {"configurable": {"thread_id": "shared", "checkpoint_ns": sys.argv[2]}}
        stored = await saver.aput(config, empty_checkpoint(), {"step": number}, {})
        await saver.aput_writes(stored, [("a", number)], "task")
    await database.close()
asyncio.run(main())
"""


@pytest.mark.requirement("storage.checkpoints")
async def test_two_processes_on_one_file_lose_nothing(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-c", _PUT, sqlite_url, f"process {number}"], stdin=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    ended = await asyncio.gather(*(asyncio.to_thread(p.communicate, "\n", 60) for p in processes))
    assert [process.returncode for process in processes] == [0, 0], ended
    saver = SqlCheckpointSaver(database)
    for number in range(2):
        config = at("shared", checkpoint_ns=f"process {number}")
        found = [found async for found in saver.alist(config)]
        assert [checkpoint.metadata["step"] for checkpoint in found] == [*reversed(range(50))]
        assert [checkpoint.pending_writes for checkpoint in found] == [
            [("task", "a", step)] for step in reversed(range(50))
        ]
    await database.close()


@pytest.mark.requirement("storage.checkpoints")
@pytest.mark.parametrize(
    "thread", ["größe \U0001f600", "'; DROP TABLE runs; --", 'a"b', "%", "_", "nul\0nul", "half \ud800", " "]
)
async def test_any_text_may_name_a_thread_and_it_is_its_own(database: Database, thread: str) -> None:
    saver = SqlCheckpointSaver(database)
    for name in ("other", "x", ""):
        await say(saver, name)
    assert await say(saver, thread) == ["hi", "answer 1"]
    assert await say(saver, thread, durability="sync") == ["hi", "answer 1", "hi", "answer 3"]
    await saver.acopy_thread(thread, "copy")
    await saver.aprune([thread])
    assert len([found async for found in saver.alist(at(thread))]) == 1
    await saver.adelete_thread(thread)
    assert await saver.aget_tuple(at(thread)) is None
    assert await say(saver, "copy") == ["hi", "answer 1", "hi", "answer 3", "hi", "answer 5"]
    for name in ("other", "x", ""):
        assert await say(saver, name) == ["hi", "answer 1", "hi", "answer 3"]


@pytest.mark.requirement("storage.checkpoints")
async def test_an_interrupted_graph_goes_on_from_what_is_kept_also_when_it_was_pruned(
    database: Database,
) -> None:
    visited: list[str] = []

    async def ask(state: State) -> dict[str, Any]:
        visited.append("ask")
        return {"messages": [AIMessage(str(interrupt("Which one?")))]}

    async def beside(state: State) -> dict[str, Any]:
        visited.append("beside")
        return {"messages": [AIMessage("beside")]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_node("beside", beside)
    for name in ("ask", "beside"):
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    saver = SqlCheckpointSaver(database)
    config: Any = at("one")
    for durability in ("exit", "sync"):
        compiled: Any = builder.compile(checkpointer=saver)
        paused = await compiled.ainvoke({"messages": [HumanMessage("hi")]}, config, durability=durability)
        assert [found.value for found in paused["__interrupt__"]] == ["Which one?"]
        await database.write(lambda connection: prune_thread(connection, "one"))
        ended = await compiled.ainvoke(Command(resume="That."), config, durability=durability)
        texts = [message.text for message in ended["messages"]]
        assert texts[-3] == "hi"
        assert set(texts[-2:]) == {"That.", "beside"}
    assert sorted(visited) == ["ask"] * 4 + ["beside"] * 2  # what had ended was not done again


# -- the fence ----------------------------------------------------------------------------------------


def _puts(saver: SqlCheckpointSaver, config: RunnableConfig) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    checkpoint = empty_checkpoint()
    address: Any = at("one", **{**config["configurable"], "checkpoint_id": checkpoint["id"]})
    return {
        "put": lambda: saver.aput(config, checkpoint, {"step": 9}, {}),
        "writes": lambda: saver.aput_writes(address, [("a", 1), ("b", 2)], "task"),
        "special": lambda: saver.aput_writes(address, [("__error__", "late")], "task"),
        "nothing": lambda: saver.aput_writes(address, [], "task"),
        "put, blocking": lambda: asyncio.to_thread(saver.put, config, checkpoint, {"step": 9}, {}),
        "writes, blocking": lambda: asyncio.to_thread(saver.put_writes, address, [("a", 1)], "task"),
    }


@pytest.mark.requirement("storage.checkpoints_fence")
@pytest.mark.parametrize(
    "lost", [{"fence": 2}, {"fence": 2, "status": "done"}, {"status": "waiting"}, {"id": "run_2"}]
)
async def test_an_execution_that_has_lost_its_run_writes_nothing(
    database: Database, lost: dict[str, Any]
) -> None:
    saver = SqlCheckpointSaver(database)
    await begin_run(database)
    config = at("one", run_id=RUN, fence=1)
    for write in _puts(saver, config).values():
        await write()
    before = await kept(database)
    assert len(before) > 3
    await take_over(database, **lost)
    for name, write in _puts(saver, config).items():
        with pytest.raises(RunLost, match=RUN):
            await write()
        assert await kept(database) == before, name
    for write in _puts(saver, at("one", run_id=RUN, fence=0)).values():  # of no run that is kept
        await write()
    assert len(await kept(database)) > len(before)


@pytest.mark.requirement("storage.checkpoints_fence")
async def test_what_has_lost_its_run_does_not_harm_who_shares_its_commit(database: Database) -> None:
    saver = SqlCheckpointSaver(database)
    await begin_run(database)
    results = await asyncio.gather(
        *(
            saver.aput(at("one", run_id=RUN, fence=number % 2), empty_checkpoint(), {"step": number}, {})
            for number in range(20)
        ),
        *(saver.aput(at("one", run_id=RUN, fence=7), empty_checkpoint(), {}, {}) for _ in range(5)),
        return_exceptions=True,
    )
    assert [type(result) for result in results[20:]] == [RunLost] * 5
    assert len(await kept(database)) == 20


class TwoSteps:
    """A graph of two nodes whose second can be held up, as one execution of a run has it."""

    def __init__(self, database: Database, fence: int, held: bool = False) -> None:
        self.database = database
        self.config: Any = at("one", run_id=RUN, fence=fence)
        self.visited: list[str] = []
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        if not held:
            self.released.set()
        builder = StateGraph(State)
        builder.add_node("first", self._first)
        builder.add_node("second", self._second)
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", END)
        self.graph: Any = builder.compile(checkpointer=SqlCheckpointSaver(database))

    async def _first(self, state: State) -> dict[str, Any]:
        self.visited.append("first")
        return {"messages": [AIMessage(f"first of {self.config['configurable']['fence']}")]}

    async def _second(self, state: State) -> dict[str, Any]:
        self.visited.append("second")
        self.reached.set()
        await asyncio.wait_for(self.released.wait(), 10)
        return {"messages": [AIMessage(f"second of {self.config['configurable']['fence']}")]}

    async def run(self, durability: str) -> list[str]:
        given = {"messages": [HumanMessage("hi")]}
        state = await self.graph.ainvoke(given, self.config, durability=durability)
        return [message.text for message in state["messages"]]


@pytest.mark.requirement("storage.checkpoints_fence")
@pytest.mark.parametrize("durability", ["exit", "sync", "async"])
async def test_a_graph_that_was_taken_over_ends_with_run_lost_and_leaves_the_new_owners_checkpoint(
    database_url: str, durability: str
) -> None:
    here, there = Database(database_url), Database(database_url)
    await begin_run(here)
    await say(SqlCheckpointSaver(here), "one", "earlier")
    old, new = TwoSteps(here, fence=1, held=True), TwoSteps(there, fence=2)
    running = asyncio.create_task(old.run(durability))
    await asyncio.wait_for(old.reached.wait(), 10)
    await take_over(there, fence=2)
    answers = await new.run(durability)
    if durability == "sync":  # what was kept is not done again, and the message is not taken twice
        assert new.visited == ["second"]
        assert answers == ["earlier", "answer 1", "hi", "first of 1", "second of 2"]
    elif durability == "exit":
        assert answers == ["earlier", "answer 1", "hi", "first of 2", "second of 2"]
    left = await kept(there)
    old.released.set()
    with pytest.raises(RunLost, match="nothing was written"):
        await asyncio.wait_for(running, 10)
    assert await kept(there) == left
    latest = await new.graph.aget_state({"configurable": {"thread_id": "one"}})
    assert [message.text for message in latest.values["messages"]] == answers
    assert latest.metadata["run_id"] == RUN
    assert latest.metadata["fence"] == 2
    await here.close()
    await there.close()


@pytest.mark.requirement("storage.checkpoints_fence")
async def test_configs_that_come_back_carry_the_fence(database: Database) -> None:
    await begin_run(database)
    steps = TwoSteps(database, fence=1)
    await steps.run("sync")
    update = {"messages": [AIMessage("more")]}
    updated = await steps.graph.aupdate_state(steps.config, update, as_node="second")
    state = await steps.graph.aget_state(steps.config)
    earlier = [found async for found in steps.graph.aget_state_history(steps.config)][2]
    given = [updated, state.config, state.parent_config, earlier.config]
    for config in given:
        assert await steps.graph.aget_state(config)
    await take_over(database, fence=2)
    before = await kept(database)
    for config in given:
        with pytest.raises(RunLost):
            await steps.graph.aupdate_state(config, update, as_node="second")
    assert await kept(database) == before


# -- blocking calls -----------------------------------------------------------------------------------


@pytest.mark.requirement("storage.checkpoints_blocking")
async def test_graphs_may_be_used_from_a_thread_without_an_event_loop(database: Database) -> None:
    saver = SqlCheckpointSaver(database)

    def work() -> None:
        builder = StateGraph(State)
        builder.add_node("answer", lambda state: {"messages": [AIMessage("Here.")]})
        builder.add_edge(START, "answer")
        compiled: Any = builder.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "one"}}
        for durability in ("exit", "sync"):
            compiled.invoke({"messages": [HumanMessage("hi")]}, config, durability=durability)
        compiled.update_state(config, {"messages": [AIMessage("More.")]}, as_node="answer")
        texts = [message.text for message in compiled.get_state(config).values["messages"]]
        assert texts == ["hi", "Here."] * 2 + ["More."]
        assert len(list(compiled.get_state_history(config, limit=3))) == 3
        saver.copy_thread("one", "two")
        saver.prune(["one"])
        assert len(list(saver.list(at("one")))) == 1
        assert len(list(saver.list(at("two")))) > 3
        saver.prune(["two"], strategy="delete")
        assert list(saver.list(at("two"))) == []
        saver.put(at("two"), empty_checkpoint(), {"run_id": "run_9"}, {})
        saver.delete_for_runs(["run_9"])
        assert saver.get_tuple(at("two")) is None
        saver.delete_thread("one")

    await asyncio.to_thread(work)
    assert await kept(database) == []


@pytest.mark.requirement("storage.checkpoints_blocking")
async def test_a_blocking_call_on_the_event_loop_says_what_to_call_instead() -> None:
    database = Database("sqlite://")
    saver = SqlCheckpointSaver(database)
    with pytest.raises(asyncio.InvalidStateError, match="aget_tuple"):
        graph(saver).get_state({"configurable": {"thread_id": "one"}})
    with pytest.raises(asyncio.InvalidStateError):
        list(saver.list(None))
    with pytest.raises(asyncio.InvalidStateError):
        saver.put(at("one"), empty_checkpoint(), {}, {})
    await database.close()


# -- pruning ------------------------------------------------------------------------------------------


@pytest.mark.requirement("storage.prune")
@pytest.mark.parametrize("durability", ["exit", "sync"])
async def test_pruned_at_the_end_of_each_turn_a_thread_of_bounded_state_takes_the_same_room_for_ever(
    database: Database, durability: str
) -> None:
    class Recent(TypedDict):
        texts: Annotated[list[str], lambda old, new: [*old, *new][-4:]]

    async def answer(state: Recent) -> dict[str, Any]:
        return {"texts": ["answer " + "x" * 2000]}

    builder = StateGraph(Recent)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    compiled: Any = builder.compile(checkpointer=SqlCheckpointSaver(database))
    sizes = []
    for turn in range(20):
        given = {"texts": [f"turn {turn:04} " + "x" * 2000]}
        await compiled.ainvoke(given, at("one"), durability=durability)
        await database.write(lambda connection: prune_thread(connection, "one"))
        rows = await kept(database)
        assert len(rows) == 1
        sizes.append(sum(len(value) for row in rows for value in row if isinstance(value, bytes)))
    assert max(sizes[5:]) - min(sizes[5:]) < 30  # LangGraph's version numbers are not all as long
    state = await compiled.aget_state(at("one"))
    assert [text[:9] for text in state.values["texts"]][::2] == ["turn 0018", "turn 0019"]


@pytest.mark.requirement("storage.prune")
async def test_pruning_keeps_the_latest_of_each_namespace_with_its_writes_and_nothing_else(
    database: Database,
) -> None:
    saver = SqlCheckpointSaver(database)
    latest: dict[tuple[str, str], str] = {}
    for thread in ("one", "two"):
        for namespace in ("", "child", "child:1|grandchild:" + "2" * 400):
            config = at(thread, checkpoint_ns=namespace)
            for number in range(4):
                config = await saver.aput(config, empty_checkpoint(), {"step": number}, {})
                await saver.aput_writes(config, [("a", number), ("__interrupt__", number)], "task")
            latest[thread, namespace] = config["configurable"]["checkpoint_id"]
            # What broke off before its checkpoint was written, and what is about to have one.
            lost = at(thread, checkpoint_ns=namespace, checkpoint_id="00000000")
            await saver.aput_writes(lost, [("a", 1)], "task")
            coming = at(thread, checkpoint_ns=namespace, checkpoint_id=str(uuid6()))
            await saver.aput_writes(coming, [("a", "coming")], "task")
    untouched = [row for row in await kept(database) if row[0] == "two"]
    await saver.aprune(["one"])
    rows = await kept(database)
    assert [row for row in rows if row[0] == "two"] == untouched
    assert len([row for row in rows if row[0] == "one"]) == 3 * (1 + 2 + 1)
    for (thread, namespace), checkpoint_id in latest.items():
        found = await saver.aget_tuple(at(thread, checkpoint_ns=namespace))
        assert found
        assert found.config["configurable"]["checkpoint_id"] == checkpoint_id
        assert found.pending_writes == [("task", "__interrupt__", 3), ("task", "a", 3)]
    with pytest.raises(ValueError, match="keep_latest or delete"):
        await saver.aprune(["one"], strategy="some")


@pytest.mark.requirement("storage.prune")
@pytest.mark.parametrize("durability", ["exit", "sync"])
async def test_pruning_keeps_what_a_delta_channels_value_is_made_of(
    database: Database, durability: str
) -> None:
    class Log(TypedDict):
        lines: Annotated[list[str], DeltaChannel(lambda old, new: sum(new, list(old)), snapshot_frequency=5)]
        count: Annotated[int, operator.add]

    async def write(state: Log) -> dict[str, Any]:
        return {"lines": [f"line {state['count']}"], "count": 1}

    builder = StateGraph(Log)
    builder.add_node("write", write)
    builder.add_edge(START, "write")
    compiled: Any = builder.compile(checkpointer=SqlCheckpointSaver(database))
    most = 0
    for turn in range(30):
        await compiled.ainvoke({"lines": [], "count": 0}, at("one"), durability=durability)
        await database.write(lambda connection: prune_thread(connection, "one"))
        state = await compiled.aget_state(at("one"))
        assert state.values["lines"] == [f"line {number}" for number in range(turn + 1)]
        most = max(most, len(await kept(database)))
    assert most < 60
    assert len(await kept(database)) <= most


@pytest.mark.requirement("storage.prune")
async def test_a_runs_checkpoints_can_be_taken_back(database: Database) -> None:
    saver = SqlCheckpointSaver(database)
    await say(saver, "one", "kept")
    config: Any = at("one", run_id="run_9")
    await graph(saver).ainvoke({"messages": [HumanMessage("rolled back")]}, config, durability="sync")
    await saver.adelete_for_runs(["run_9"])
    assert await say(saver, "one", "next") == ["kept", "answer 1", "next", "answer 3"]
