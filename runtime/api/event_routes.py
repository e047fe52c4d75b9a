"""``/v1/conversations/{id}/events`` and those of one run: what has happened, and what happens from now on.

Any replica tells it: who comes back with the last number that it has read misses nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from admiralty.core.values import Identity
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.listeners import Listeners
from admiralty.runtime.api.parts import ApiParts
from admiralty.runtime.api.run_schema import EventPage
from admiralty.runtime.api.sse import EventStream
from admiralty.runtime.api.streams import checked_conversation, checked_run, position, wants_json, written
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.conversations import Conversations

TAGS: list[Any] = ["conversations"]

_STREAM = """id: 7
event: tool
data: {"agent":"lookup","call_id":"call_1","name":"order_status","status":"ok", ...}

: keep-alive

id: 8
event: message
data: {"role":"assistant","agent":"lookup","content":"Order #W100 is on its way.","turn":1, ...}
"""

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "Server-sent events, each with its number in the conversation as `id`; `token`s, which are told "
            "as they come and not kept, have none. With `Accept: application/json` a page of what is there."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}},
    }
}

LastEventId = Annotated[
    str | None, Header(description="The last `id` that you have read; goes before `after`.")
]
After = Annotated[int, Query(ge=0, description="Events with a higher number.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Only as JSON: how many at most.")]
Accept = Annotated[str, Header(description="`application/json` for a page in the place of a stream.")]


def add_event_routes(router: APIRouter, parts: ApiParts, listeners: Listeners) -> None:
    """Add the two streams."""
    conversations = parts.conversations

    @router.get(
        "/v1/conversations/{conversation_id}/events",
        tags=TAGS,
        summary="Follow a conversation",
        response_model=EventPage,
        responses=_EVENTS,
    )
    async def conversation_events(
        conversation_id: str,
        identity: Me,
        last_event_id: LastEventId = None,
        after: After = 0,
        limit: Limit = 200,
        accept: Accept = "*/*",
    ) -> Response:
        """Tell all that has happened in a conversation, turn by turn, and then whatever happens.

        The stream does not end by itself; if it breaks off, come back with `Last-Event-ID`.
        """
        conversation = await conversations.get(identity, checked_conversation(conversation_id))
        behind = position(last_event_id, after, conversation.events)
        if wants_json(accept):
            return await _page(conversations, identity, conversation_id, None, behind, limit)
        batches = conversations.events(identity, conversation_id, after=behind, idle=parts.keep_alive)
        headers = {"X-Conversation-Id": conversation_id}
        return EventStream(written(batches), listeners=listeners, follows=True, headers=headers)

    @router.get(
        "/v1/conversations/{conversation_id}/runs/{run_id}/events",
        tags=TAGS,
        summary="Follow a run",
        response_model=EventPage,
        responses=_EVENTS,
    )
    async def run_events(
        conversation_id: str,
        run_id: str,
        identity: Me,
        last_event_id: LastEventId = None,
        after: After = 0,
        limit: Limit = 200,
        accept: Accept = "*/*",
    ) -> Response:
        """Tell all that has happened in one run, and what happens until its end, which ends the stream.

        A run that waits for a person has not ended.
        """
        conversation = await conversations.get(identity, checked_conversation(conversation_id))
        behind = position(last_event_id, after, conversation.events)
        live = await conversations.follow(identity, conversation_id, checked_run(run_id), after=behind)
        if wants_json(accept):
            return await _page(conversations, identity, conversation_id, run_id, behind, limit)
        headers = {"X-Conversation-Id": conversation_id, "X-Run-Id": run_id}
        chunks = written(live.batches(idle=parts.keep_alive))
        return EventStream(chunks, listeners=listeners, follows=True, headers=headers)


async def _page(
    conversations: Conversations,
    identity: Identity,
    conversation_id: str,
    run_id: str | None,
    after: int,
    limit: int,
) -> Response:
    found = await conversations.stored(identity, conversation_id, after=after, run_id=run_id, limit=limit + 1)
    data = [
        {
            "seq": one.seq,
            "run_id": one.run_id,
            "type": one.event.type,
            "data": dict(one.event.data),
            "at": one.at,
        }
        for one in found[:limit]
    ]
    return json_response({"object": "list", "data": data, "has_more": len(found) > limit})
