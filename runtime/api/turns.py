"""A turn between HTTP and the conversations: begun, waited for, and stopped with its client if so meant."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive

from admiralty.core.values import Event, Identity
from admiralty.runtime.api.sse import until_left
from admiralty.runtime.conversations import Conversations, LiveRun

T = TypeVar("T")

_QUIET = frozenset({"run", "step", "cost", "handoff"})
"""Events that a client of OpenAI's route is shown nothing of: a refusal may still follow as a status."""


async def begin(
    conversations: Conversations,
    identity: Identity,
    conversation_id: str,
    message: str,
    *,
    agent: str | None,
    streaming: bool,
    stop_with_client: bool,
) -> LiveRun:
    """Begin a turn. Raises what ``Conversations.say`` raises.

    A server may cancel the request while the run is being stored. Then the run must not stay behind
    unanswered, blocking its conversation: it goes on, or is ended properly.
    """
    begun = asyncio.ensure_future(
        conversations.say(identity, conversation_id, message, agent=agent, streaming=streaming)
    )
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        if stop_with_client:
            begun.add_done_callback(_cancel_run)
        raise


def _cancel_run(begun: asyncio.Future[LiveRun]) -> None:
    if not begun.cancelled() and begun.exception() is None:
        begun.result().cancel()


async def last_event(live: LiveRun) -> Event:
    """Return the run's ``done`` or ``error``, once it is stored."""
    last = live.happened[0]
    async with aclosing(live.batches()) as batches:
        async for batch in batches:
            last = batch[-1]
    return last


async def stopping_with_client(live: LiveRun, receive: Receive, waiting: Coroutine[Any, Any, T]) -> T:
    """Return what ``waiting`` for the run returns; stop the run if the client leaves before."""
    task = asyncio.create_task(waiting)
    leaving = asyncio.create_task(until_left(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            live.cancel()  # it then ends with an error event, which ends the waiting too
        return await task
    except asyncio.CancelledError:  # some servers cancel the request of a client who left
        live.cancel()
        task.cancel()
        raise
    finally:
        leaving.cancel()


async def early_failure(live: LiveRun, *, within: float) -> Event | None:
    """Return the run's ``error`` if that comes before anything that a client would be shown.

    Such an error can still be the response's status, which clients act on. Waits until the
    first event that says something, at most ``within`` seconds.
    """
    try:
        async with asyncio.timeout(within), aclosing(live.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    if event.type not in _QUIET:
                        return event if event.type == "error" else None
    except TimeoutError:
        pass
    return None


def turn_headers(live: LiveRun, last: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the headers that name a turn and, once it has ended, its cost: also of one that failed."""
    headers = {"X-Conversation-Id": live.run.conversation_id, "X-Run-Id": live.run.id}
    if last is not None and "cost_usd" in last:
        headers["X-Cost-Usd"] = str(last["cost_usd"])
    return headers
