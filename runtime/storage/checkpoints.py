"""LangGraph's checkpointer on our database: what a conversation's graph keeps between turns.

Why not LangGraph's own savers: a write must check the run's fence in its own transaction, so that a
process that has lost a run writes nothing; and it should share the commits of everything else that the
process writes. Nothing here knows what a graph does; ``checkpoint_rows`` holds the SQL.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from admiralty.runtime.storage import checkpoint_rows as rows
from admiralty.runtime.storage.checkpoint_rows import prune_thread
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.fences import check_fence

__all__ = ["SqlCheckpointSaver", "open_checkpointer", "prune_thread"]

T = TypeVar("T")


class SqlCheckpointSaver(BaseCheckpointSaver[str]):
    """Keeps checkpoints in ``database``.

    Where a config's ``configurable`` names a ``run_id`` and its ``fence``, every write checks them in
    its own transaction and raises RunLost if another process has taken the run over. The methods
    without "a" in front block, and refuse to do so in the thread of a running event loop.
    """

    def __init__(self, database: Database, serde: SerializerProtocol | None = None) -> None:
        super().__init__(serde=serde or JsonPlusSerializer())
        self._database = database

    # -- asynchronous -----------------------------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._database.read(self._get(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's signature
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        for found in await self._database.read(self._list(config, filter, before, limit)):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 - a checkpoint is kept whole
    ) -> RunnableConfig:
        await self._database.write(self._put(config, checkpoint, metadata))
        return _stored(config, checkpoint)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._database.write(self._put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        await self._database.write(lambda connection: rows.delete_thread(connection, str(thread_id)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._database.write(lambda connection: rows.delete_runs(connection, run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self._database.write(
            lambda connection: rows.copy_thread(connection, str(source_thread_id), str(target_thread_id))
        )

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await self._database.write(_prune(thread_ids, strategy))

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002
        # As LangGraph's savers do: versions of two branches that began together differ.
        count = 0 if current is None else int(str(current).partition(".")[0])
        return f"{count + 1:032}.{random.random():016}"

    # -- blocking ---------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._wait(self._get(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's signature
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        yield from self._wait(self._list(config, filter, before, limit))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 - a checkpoint is kept whole
    ) -> RunnableConfig:
        self._wait(self._put(config, checkpoint, metadata))
        return _stored(config, checkpoint)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._wait(self._put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._wait(lambda connection: rows.delete_thread(connection, str(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._wait(lambda connection: rows.delete_runs(connection, run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._wait(
            lambda connection: rows.copy_thread(connection, str(source_thread_id), str(target_thread_id))
        )

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._wait(_prune(thread_ids, strategy))

    def _wait(self, work: Callable[[Connection], T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._database.submit(work).result()
        raise asyncio.InvalidStateError(
            "A blocking call to the checkpointer in the thread of an event loop would hold everything up. "
            "Await the method with an 'a' in front (aget_tuple, graph.aget_state), or call from a thread."
        )

    # -- what they do -----------------------------------------------------------------------------

    def _get(self, config: RunnableConfig) -> Callable[[Connection], CheckpointTuple | None]:
        thread, namespace, checkpoint_id = _address(config)

        def work(connection: Connection) -> CheckpointTuple | None:
            row = rows.find(connection, thread, namespace, checkpoint_id)
            return None if row is None else self._tuple(connection, config, row)

        return work

    def _list(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Callable[[Connection], Sequence[CheckpointTuple]]:
        given = (config or {}).get("configurable", {})
        earlier_than = (before or {}).get("configurable", {}).get("checkpoint_id")

        def work(connection: Connection) -> Sequence[CheckpointTuple]:
            thread = given.get("thread_id")
            keys = rows.select(
                connection,
                thread_id=None if thread is None else str(thread),
                checkpoint_ns=given.get("checkpoint_ns"),
                checkpoint_id=given.get("checkpoint_id"),
                before=earlier_than,
                limit=None if wanted else limit,
            )
            # Not in SQL: the two databases compare JSON differently, and names of keys are the caller's.
            matching = [key for key in keys if _matches(json.loads(key.metadata), wanted or {})]
            found = []
            for key in matching[:limit]:
                row = rows.find(connection, key.thread_id, key.checkpoint_ns, key.checkpoint_id)
                found.append(self._tuple(connection, config or {}, row))
            return found

        return work

    def _tuple(self, connection: Connection, config: RunnableConfig, row: Any) -> CheckpointTuple:
        place = row.thread_id, row.checkpoint_ns
        writes = rows.writes_of(connection, *place, row.checkpoint_id)
        return CheckpointTuple(
            config=_config(config, *place, row.checkpoint_id),
            checkpoint=self.serde.loads_typed((row.type, row.checkpoint)),
            metadata=cast("CheckpointMetadata", json.loads(row.metadata)),
            parent_config=_config(config, *place, row.parent_id) if row.parent_id else None,
            pending_writes=[
                (write.task_id, write.channel, self.serde.loads_typed((write.type, write.value)))
                for write in sorted(writes, key=lambda w: writes_sort_key(w.task_path, w.task_id, w.idx))
            ],
        )

    def _put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> Callable[[Connection], None]:
        thread, namespace, parent = _address(config)
        kept = get_serializable_checkpoint_metadata(config, metadata)
        # Here and not in the writer's thread: the graph goes on meanwhile, and changes its values.
        kind, blob = self.serde.dumps_typed(checkpoint)
        row = {
            "thread_id": thread,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint["id"],
            "parent_id": parent if parent != checkpoint["id"] else None,
            "run_id": kept.get("run_id"),
            "type": kind,
            "checkpoint": blob,
            "metadata": json.dumps(kept).encode(),
        }
        run_id, fence = _fence(config)

        def work(connection: Connection) -> None:
            check_fence(connection, run_id, fence)
            rows.put(connection, row)

        return work

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Callable[[Connection], None]:
        thread, namespace, checkpoint_id = _address(config)
        given = []
        for position, (channel, value) in enumerate(writes):
            kind, blob = self.serde.dumps_typed(value)
            given.append(
                {
                    "thread_id": thread,
                    "checkpoint_ns": namespace,
                    "checkpoint_id": checkpoint_id,
                    "task_id": task_id,
                    "idx": WRITES_IDX_MAP.get(channel, position),
                    "task_path": task_path,
                    "channel": channel,
                    "type": kind,
                    "value": blob,
                }
            )
        # An error, an interrupt or a resume is what was said last; a task's own results are never changed.
        replace = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        run_id, fence = _fence(config)

        def work(connection: Connection) -> None:
            check_fence(connection, run_id, fence)
            if given:
                rows.put_writes(connection, given, replace=replace)

        return work


@asynccontextmanager
async def open_checkpointer(url: URL) -> AsyncIterator[SqlCheckpointSaver]:
    """Open a checkpointer with a database of its own; who has a Database makes a SqlCheckpointSaver."""
    database = Database(url.render_as_string(hide_password=False))
    try:
        yield SqlCheckpointSaver(database)
    finally:
        await database.close()


def _prune(thread_ids: Sequence[str], strategy: str) -> Callable[[Connection], None]:
    strategies = {"keep_latest": prune_thread, "delete": rows.delete_thread}
    if strategy not in strategies:
        raise ValueError(f"strategy = {strategy!r}: use keep_latest or delete.")
    prune = strategies[strategy]

    def work(connection: Connection) -> None:
        for thread_id in thread_ids:
            prune(connection, str(thread_id))

    return work


def _address(config: RunnableConfig) -> tuple[str, str, str | None]:
    given = config["configurable"]
    return str(given["thread_id"]), given.get("checkpoint_ns", ""), given.get("checkpoint_id")


def _fence(config: RunnableConfig) -> tuple[str, int]:
    given = config["configurable"]
    return str(given.get("run_id", "")), int(given.get("fence") or 0)


def _stored(config: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
    given = config["configurable"]
    return _config(config, given["thread_id"], given.get("checkpoint_ns", ""), checkpoint["id"])


def _config(config: RunnableConfig, thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """Return the config of a checkpoint; it carries on whose behalf ``config`` writes."""
    given = config.get("configurable", {})
    fence: dict[str, Any] = {name: given[name] for name in ("run_id", "fence") if name in given}
    address = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": {**address, **fence}}


def _matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(metadata.get(name) == value for name, value in wanted.items())
