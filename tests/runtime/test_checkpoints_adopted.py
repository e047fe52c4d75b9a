"""What LangGraph's own savers kept, before there were checkpoints of ours, is gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from sqlalchemy import Connection

from admiralty.runtime.storage import Database, migrate
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver
from admiralty.runtime.storage.database import database_url as with_driver

_KEY = "thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL"
_WRITE = f"{_KEY}, task_id TEXT NOT NULL, idx INTEGER NOT NULL, channel TEXT NOT NULL, type TEXT"
_CHECKPOINT = f"{_KEY}, parent_checkpoint_id TEXT, type TEXT"
_BLOB = "thread_id TEXT, checkpoint_ns TEXT, channel TEXT, version TEXT, type TEXT, blob BYTEA"
TABLES = {
    "sqlite": [
        f"CREATE TABLE checkpoints ({_CHECKPOINT}, checkpoint BLOB, metadata BLOB)",
        f"CREATE TABLE writes ({_WRITE}, value BLOB)",  # as it was before it had paths
    ],
    "postgresql": [
        "CREATE TABLE checkpoint_migrations (v INTEGER)",
        f"CREATE TABLE checkpoints ({_CHECKPOINT}, checkpoint JSONB, metadata JSONB)",
        f"CREATE TABLE checkpoint_blobs ({_BLOB})",
        f"CREATE TABLE checkpoint_writes ({_WRITE}, blob BYTEA NOT NULL, task_path TEXT NOT NULL DEFAULT '')",
    ],
}


class State(TypedDict):
    messages: Annotated[list[BaseMessage], add_messages]
    count: int


def graph(saver: Any) -> Any:
    async def ask(state: State) -> dict[str, Any]:
        answer = interrupt("Which one?") if state["messages"][-1].text == "ask" else "There."
        return {"messages": [AIMessage(str(answer))], "count": state.get("count", 0) + 1}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=saver)


async def say(saver: Any, thread: str, given: Any) -> Any:
    config: Any = {"configurable": {"thread_id": thread}}
    given = {"messages": [HumanMessage(given)]} if isinstance(given, str) else given
    return await graph(saver).ainvoke(given, config, durability="sync")


class Theirs:
    """Writes a checkpoint as LangGraph's savers do on a kind of database."""

    def __init__(self, connection: Connection, saver: InMemorySaver) -> None:
        self._connection, self._serde = connection, saver.serde
        self._is_sqlite = connection.dialect.name == "sqlite"

    def put(self, found: CheckpointTuple) -> None:
        given: Any = found.config["configurable"]
        key = {"t": given["thread_id"], "n": given["checkpoint_ns"], "c": given["checkpoint_id"]}
        checkpoint: Any = {**found.checkpoint}
        kind: str | None = None
        blob: Any
        if self._is_sqlite:
            kind, blob = self._serde.dumps_typed(checkpoint)
        else:
            values = checkpoint["channel_values"]
            checkpoint["channel_values"] = {k: v for k, v in values.items() if isinstance(v, int | str)}
            for channel in values.keys() - checkpoint["channel_values"].keys():
                version = checkpoint["channel_versions"][channel]
                self._insert(
                    "checkpoint_blobs",
                    **_but(key, "c"),
                    ch=channel,
                    v=version,
                    **self._typed(values[channel]),
                )
            self._insert("checkpoint_blobs", **_but(key, "c"), ch="gone", v="1", ty="empty", b=None)
            blob = json.dumps(checkpoint)
        parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
        metadata: Any = json.dumps(found.metadata)
        if self._is_sqlite:
            metadata = metadata.encode()
        self._insert("checkpoints", **key, p=parent, ty=kind, b=blob, m=metadata)
        for position, (task, channel, value) in enumerate(found.pending_writes or []):
            path = {} if self._is_sqlite else {"path": "~"}
            written = self._typed(value)
            table = "writes" if self._is_sqlite else "checkpoint_writes"
            self._insert(table, **key, task=task, i=position, ch=channel, **written, **path)

    def _typed(self, value: Any) -> dict[str, Any]:
        kind, blob = self._serde.dumps_typed(value)
        return {"ty": kind, "b": blob}

    def _insert(self, table: str, **values: Any) -> None:
        names = ", ".join(f":{name}" for name in values)
        self._connection.execute(sa.text(f"INSERT INTO {table} VALUES ({names})"), values)


def _but(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def at_revision_two(url: str) -> sa.Engine:
    engine = sa.create_engine(with_driver(url))
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    return engine


@pytest.mark.requirement("storage.checkpoints_adopted")
async def test_what_langgraphs_savers_kept_is_gone_on_with_and_their_tables_go(database_url: str) -> None:
    saver = InMemorySaver()
    for thread in ("one", "größe"):
        for text in ("hi", "again", "ask"):
            await say(saver, thread, text)
    engine = at_revision_two(database_url)
    with engine.begin() as connection:
        for statement in TABLES[connection.dialect.name]:
            connection.execute(sa.text(statement))
        theirs = Theirs(connection, saver)
        for found in saver.list(None):
            theirs.put(found)
        before = set(sa.inspect(connection).get_table_names())
    database = Database(database_url)
    ours = SqlCheckpointSaver(database)
    for thread in ("one", "größe"):
        (latest,) = [found async for found in ours.alist({"configurable": {"thread_id": thread}})]
        same = saver.get_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
        assert same
        assert latest.checkpoint == same.checkpoint
        assert latest.metadata == same.metadata
        assert latest.pending_writes == same.pending_writes
        ended = await say(ours, thread, Command(resume="That one."))
        texts = [message.text for message in ended["messages"]]
        assert texts == ["hi", "There.", "again", "There.", "ask", "That one."]
        assert ended["count"] == 3
    with engine.begin() as connection:
        gone = before - set(sa.inspect(connection).get_table_names())
    assert len(gone) == len(TABLES[engine.dialect.name])
    await database.close()
    engine.dispose()


@pytest.mark.requirement("storage.checkpoints_adopted")
async def test_a_database_without_checkpoints_is_upgraded_too(database_url: str) -> None:
    at_revision_two(database_url).dispose()
    database = Database(database_url)
    await say(SqlCheckpointSaver(database), "one", "hi")
    await database.close()
