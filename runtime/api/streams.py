"""The native door's event streams: what they look like, and where a client comes back into one."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from admiralty.core.errors import NotFound
from admiralty.core.values import Event
from admiralty.runtime.api.catalog import plausible_id
from admiralty.runtime.api.errors import invalid
from admiralty.runtime.api.sse import KEEP_ALIVE, encode

LAST_EVENT_ID = "Last-Event-ID"
_NUMBER = re.compile(r"[0-9]{1,18}")


async def written(batches: AsyncGenerator[Sequence[Event], None]) -> AsyncGenerator[bytes, None]:
    """Yield events as a client reads them; an empty batch becomes a comment.

    Their ids are their numbers in the conversation; tokens, being many, have none.
    """
    async with aclosing(batches):
        async for batch in batches:
            told = [
                encode(event.data, event=event.type, id=None if event.seq is None else str(event.seq))
                for event in batch
            ]
            yield b"".join(told) or KEEP_ALIVE


def position(last_event_id: str | None, after: int, newest: int) -> int:
    """Return the number behind which a client wants events: the header's, else ``after``.

    ``newest`` is the conversation's last. Raises InvalidRequest for what no event of it can have.
    """
    if not (last_event_id or "").strip():
        number, name = after, "after"
    else:
        given, name = str(last_event_id).strip(), LAST_EVENT_ID
        if not _NUMBER.fullmatch(given):
            raise invalid(
                f"{LAST_EVENT_ID}: {given[:50]!r} is no id of an event: send the last `id:` that you read.",
                LAST_EVENT_ID,
            )
        number = int(given)
    if number > newest:
        raise invalid(f"{name}: {number} is not there yet: the conversation's last event is {newest}.", name)
    return number


def wants_json(accept: str) -> bool:
    """Tell whether a client asks for JSON in the place of a stream."""
    return "application/json" in accept and "text/event-stream" not in accept


def checked_conversation(conversation_id: str) -> str:
    """Return the id. Raises NotFound for what no conversation is called."""
    if not plausible_id(conversation_id):
        raise NotFound(f"There is no conversation {conversation_id[:50]!r}.")
    return conversation_id


def checked_run(run_id: str) -> str:
    """Return the id. Raises NotFound for what no run is called."""
    if not plausible_id(run_id):
        raise NotFound(f"There is no run {run_id[:50]!r}.")
    return run_id
