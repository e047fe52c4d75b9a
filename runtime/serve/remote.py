"""The ports, answered by other deployments. Ray's errors become ours at this border.

Handles pass small values by gRPC rather than through the object store: a hop takes 1-2 ms instead
of 3-5. It is set here, in code, because the default depends on the environment of the driver.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from admiralty.core.errors import AdmiraltyError, LimitExceeded, RateLimited, Retryable, RunInterrupted
from admiralty.core.ports import AnswerStream, Vectors, VisitStream
from admiralty.core.state import Check, Committed, Completion, Lock, StateChange, StateValue, Who, Write
from admiralty.core.values import Access, CallStatus, Grant, ModelCall, ModelReply, Passage, Visit

T = TypeVar("T")

MAX_VISIT_BYTES = 3_000_000
"""The largest visit that is sent to an agent: Serve's gRPC takes messages up to 4 MB."""


def by_value(handle: DeploymentHandle, method: str, *, stream: bool = False) -> DeploymentHandle:
    """Return a handle to one method that passes arguments and results by value."""
    return handle.options(
        method_name=method,
        stream=stream,
        _by_reference=False,
        request_serialization="pickle",
        response_serialization="pickle",
    )


class RemoteMemory:
    """The Memory port, answered by the ``memory`` deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._search = by_value(handle, "search")
        self._ready = by_value(handle, "ready")
        self._embed = by_value(handle, "embed")

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        result: list[Passage] = await _unary(self._search, corpus, query, limit)
        return result

    async def ready(self) -> bool:
        """Return whether the deployment answers."""
        return bool(await _unary(self._ready))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        result: Vectors = await _unary(self._embed, list(texts))
        return result


class RemoteScheduler:
    """The Scheduler port, answered by the ``scheduler`` deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._complete = by_value(handle, "complete")
        self._authorize = by_value(handle, "authorize")
        self._settle = by_value(handle, "settle")
        self._stream = by_value(handle, "stream", stream=True)
        self._ready = by_value(handle, "ready")

    async def ready(self) -> bool:
        """Return whether the deployment answers."""
        return bool(await _unary(self._ready))

    async def stream(self, call: ModelCall) -> AnswerStream:
        async with aclosing(_stream(self._stream, call)) as batches:
            async for batch in batches:
                for chunk in batch:
                    yield chunk

    async def complete(self, call: ModelCall) -> ModelReply:
        result: ModelReply = await _unary(self._complete, call)
        return result

    async def authorize(self, access: Access) -> Grant:
        result: Grant = await _unary(self._authorize, access)
        return result

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        await _unary(self._settle, grant, status, seconds, outcome)


class RemoteAgentHost:
    """The AgentHost port, answered by one deployment for each agent."""

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        self._visits = {name: by_value(handle, "visit", stream=True) for name, handle in handles.items()}
        self._whole = {name: by_value(handle, "visit_whole") for name, handle in handles.items()}

    async def visit(self, visit: Visit) -> VisitStream:
        check_size(visit)
        if not visit.streaming:  # nobody watches: a stream costs the two processes more than one answer
            for item in await _unary(self._whole[visit.caller.agent], visit):
                yield item
            return
        async with aclosing(_stream(self._visits[visit.caller.agent], visit)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item


class RemoteState:
    """What the StateStore port is made of, answered by the ``scheduler`` deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._state = by_value(handle, "state")

    async def read(self, who: Who, names: Sequence[tuple[str, str]]) -> list[StateValue | None]:
        return cast("list[StateValue | None]", await self._call("read", who, list(names)))

    async def find(self, who: Who, namespace: str, prefix: str, after: str, limit: int) -> list[StateValue]:
        return cast("list[StateValue]", await self._call("find", who, namespace, prefix, after, limit))

    async def transact(
        self,
        who: Who,
        writes: Sequence[Write],
        checks: Sequence[Check],
        locks: Sequence[Lock],
        completes: Completion | None,
    ) -> Committed:
        done = await self._call("transact", who, list(writes), list(checks), list(locks), completes)
        return cast("Committed", done)

    async def chain(self, writes: Sequence[tuple[Who, Write]]) -> list[Committed | AdmiraltyError]:
        return cast("list[Committed | AdmiraltyError]", await self._call("chain", list(writes)))

    async def history(
        self, who: Who, namespace: str, key: str, before: int | None, limit: int
    ) -> list[StateChange]:
        return cast("list[StateChange]", await self._call("history", who, namespace, key, before, limit))

    async def positions(self, who: Who, namespace: str, key: str | None, prefix: str) -> dict[str, int]:
        return cast("dict[str, int]", await self._call("positions", who, namespace, key, prefix))

    async def changes(
        self, who: Who, namespace: str, key: str | None, prefix: str, known: Mapping[str, int]
    ) -> list[StateChange]:
        told = await self._call("changes", who, namespace, key, prefix, dict(known))
        return cast("list[StateChange]", told)

    async def try_acquire(self, who: Who, namespace: str, key: str, holder: str, lease: float) -> Lock:
        return cast("Lock", await self._call("try_acquire", who, namespace, key, holder, lease))

    async def renew(self, who: Who, lock: Lock, lease: float) -> Lock:
        return cast("Lock", await self._call("renew", who, lock, lease))

    async def release(self, who: Who, lock: Lock) -> None:
        await self._call("release", who, lock)

    async def until_changed(self, who: Who, namespace: str, seconds: float) -> None:  # noqa: ARG002 - the port's
        await asyncio.sleep(seconds)

    async def _call(self, name: str, *arguments: Any) -> Any:
        return await _unary(self._state, name, *arguments)


def check_size(visit: Visit) -> None:
    """Raise LimitExceeded for a visit that is too large to be sent: what it is made again from is in it."""
    if not (visit.recorded.replies or visit.journal):
        return  # the messages alone: the scheduler is sent the same
    size = len(pickle.dumps(visit))
    if size > MAX_VISIT_BYTES:
        raise LimitExceeded(
            f"The run broke off, and what is recorded of its visit to {visit.caller.agent} takes {size:,} "
            f"bytes; {MAX_VISIT_BYTES:,} can be sent. Ask for less in one turn, or give the agent "
            'placement="inline".',
            limit="recorded",
        )


async def _unary(handle: DeploymentHandle, *arguments: Any) -> Any:
    response = handle.remote(*arguments)
    try:
        return await response
    except asyncio.CancelledError:
        if not _is_cancelled():
            raise _stopped(handle) from None
        response.cancel()
        raise
    except Exception as error:
        raise translate(error, handle.deployment_name) from error


async def _stream(handle: DeploymentHandle, *arguments: Any) -> AsyncGenerator[Any, None]:
    response = handle.remote(*arguments)
    finished = False
    try:
        async for item in response:
            yield item
        finished = True
    except asyncio.CancelledError:
        if not _is_cancelled():
            raise _stopped(handle) from None
        raise
    except Exception as error:
        finished = True
        raise translate(error, handle.deployment_name) from error
    finally:
        if not finished:
            response.cancel()


def _is_cancelled() -> bool:
    """Return whether it is this task that was cancelled.

    A handle raises the same where the other side was: its replica is shutting down. Taken for our own, the
    turn would be lost with it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _stopped(handle: DeploymentHandle) -> RunInterrupted:
    return RunInterrupted(
        f"The replica of {handle.deployment_name} that was working was stopped.", retry_after=1.0
    )


def translate(error: Exception, deployment: str) -> Exception:
    """Return our error for one that arrived through a handle."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AdmiraltyError):
        return cause
    if isinstance(error, AdmiraltyError):
        return error
    if isinstance(error, BackPressureError):
        return RateLimited(f"{deployment} has too many requests waiting.", retry_after=1.0)
    if isinstance(error, RayActorError):
        return RunInterrupted(f"The replica of {deployment} that was working ended.", retry_after=1.0)
    if isinstance(error, DeploymentUnavailableError):
        return Retryable(f"{deployment} is not available.", retry_after=1.0)
    if isinstance(error, RayTaskError):
        return AdmiraltyError(f"{deployment} failed: {error.cause!r}")
    return error
