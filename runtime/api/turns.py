"""A turn between HTTP and the conversations: begun, waited for, and stopped with its client if so meant."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive

from admiralty.core.values import Event, Identity
from admiralty.runtime.api.pauses import HANDED_ON, handed_on, waiting_result, waits_for_person
from admiralty.runtime.api.sse import until_left
from admiralty.runtime.conversations import Conversations, LiveRun
from admiralty.runtime.durable.values import Strategy

T = TypeVar("T")

_QUIET = frozenset({"run", "step", "cost", "handoff"})
"""Events that a client of OpenAI's route is shown nothing of: a refusal may still follow as a status."""


def begins_turn(path: str) -> bool:
    """Tell whether a POST to ``path`` begins a turn, wherever the app is mounted."""
    return path.endswith(("/messages", "/chat/completions"))


async def begin(
    conversations: Conversations,
    identity: Identity,
    conversation_id: str,
    message: str,
    *,
    agent: str | None,
    streaming: bool,
    stop_with_client: bool,
    strategy: Strategy | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - of the turn, which outlives this call
) -> LiveRun:
    """Begin a turn. Raises what ``Conversations.say`` raises.

    A server may cancel the request while the run is being stored. Then the run must not stay behind
    unanswered, blocking its conversation: it goes on, or is ended properly.
    """
    begun = asyncio.ensure_future(
        conversations.say(
            identity,
            conversation_id,
            message,
            agent=agent,
            streaming=streaming,
            strategy=strategy,
            timeout=timeout,
        )
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


async def outcome(live: LiveRun) -> Event:
    """Return the run's ``done`` or ``error``, once it is stored; or that it waits, or goes on elsewhere.

    Those are no events of the run: an ``approval`` with a :func:`waiting_result`, an ``error`` of
    :func:`handed_on`.
    """
    costs: list[Event] = []
    async with aclosing(live.batches()) as batches:
        async for batch in batches:
            for event in batch:
                if event.type in ("done", "error"):
                    return event
                if waits_for_person(event):
                    return Event(type="approval", data=waiting_result(live.run, event, costs))
                if event.type == "cost":
                    costs.append(event)
    return handed_on(live.run)


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
        if not task.done():
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
            return handed_on(live.run)
    except TimeoutError:
        return None


def turn_headers(live: LiveRun, last: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the headers that name a turn and, once it has ended, its cost: also of one that failed."""
    headers = {"X-Conversation-Id": live.run.conversation_id, "X-Run-Id": live.run.id}
    if last is not None and "cost_usd" in last:
        headers["X-Cost-Usd"] = str(last["cost_usd"])
    if last is not None and last.get("code") == HANDED_ON:
        headers["X-Should-Retry"] = "false"  # OpenAI's clients would say it again, in another conversation
    return headers
