"""``/v1/conversations``: the native door. Here a turn goes on when its client leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from admiralty.core.values import Identity
from admiralty.runtime.api.auth import checked_user
from admiralty.runtime.api.chat import check_metadata
from admiralty.runtime.api.conversation_schema import (
    ConversationDetail,
    ConversationInfo,
    ConversationList,
    NewConversation,
    NewMessage,
    TurnResult,
    WaitingTurn,
)
from admiralty.runtime.api.conversation_view import conversation_detail, conversation_info
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import invalid, problem_response
from admiralty.runtime.api.listeners import Listeners
from admiralty.runtime.api.parts import ApiParts
from admiralty.runtime.api.pauses import run_path
from admiralty.runtime.api.sse import EventStream
from admiralty.runtime.api.streams import checked_conversation, wants_json, written
from admiralty.runtime.api.turns import begin, outcome, turn_headers
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.conversations import Conversations, LiveRun

TAGS: list[Any] = ["conversations"]

_STREAM = """id: 2
event: run
data: {"run_id":"run_019ab3d2","conversation_id":"conv_019ab3d2","turn":1,"status":"running","fleet":...}

id: 3
event: step
data: {"agent":"triage","step":1,"call_id":"call_019ab3d2"}

id: 5
event: handoff
data: {"source":"triage","target":"lookup","reason":"an order's status"}

id: 7
event: tool
data: {"agent":"lookup","call_id":"call_1","name":"order_status","arguments":{"order_id":"#W1"}, ...}

event: token
data: {"text":"Order #W100","agent":"lookup"}

id: 9
event: cost
data: {"agent":"lookup","model":"openai:gpt-5.4-nano","tier":"small","usage":{...},"cost_usd":"0.000124", ...}

id: 11
event: done
data: {"run_id":"run_019ab3d2","message":"Order #W100 is on its way.","cost_usd":"0.000124", ...}
"""

_TURN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "The run's events: `run`, `step`, `token`, `tool`, `handoff`, `cost`, `approval`, `message`, and "
            "at the end `done` or `error` (a problem document). If it ends with neither, the replica was "
            "shut down: go on at the run's events with `Last-Event-ID`. With `Accept: application/json` only "
            "the result."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}},
        "headers": {
            "X-Conversation-Id": {"description": "The conversation.", "schema": {"type": "string"}},
            "X-Run-Id": {"description": "This turn's run.", "schema": {"type": "string"}},
            "X-Cost-Usd": {"description": "Only as JSON.", "schema": {"type": "string"}},
        },
    },
    202: {
        "model": WaitingTurn,
        "description": "Only as JSON: a person must approve something first; then the turn goes on.",
    },
}


def add_conversation_routes(router: APIRouter, parts: ApiParts, listeners: Listeners) -> None:
    """Add ``/v1/conversations`` and what is below it."""
    conversations = parts.conversations

    @router.post(
        "/v1/conversations",
        tags=TAGS,
        status_code=201,
        summary="Begin a conversation",
        response_model=ConversationInfo,
    )
    async def create_conversation(identity: Me, body: NewConversation | None = None) -> Response:
        """Make an empty conversation. Everything in the body is optional, and so is the body."""
        given = body or NewConversation(metadata={})
        check_metadata(given.metadata)
        identity = _for_user(identity, given.user)
        made = await conversations.create(identity, metadata=given.metadata)
        headers = {"Location": f"/v1/conversations/{made.id}", "X-Conversation-Id": made.id}
        return json_response(conversation_info(made), status=201, headers=headers)

    @router.get(
        "/v1/conversations", tags=TAGS, summary="List recent conversations", response_model=ConversationList
    )
    async def list_conversations(
        identity: Me, limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50
    ) -> Response:
        """Return your tenant's conversations, last changed first."""
        found = await conversations.recent(identity, limit=limit)
        return json_response(ConversationList(data=[conversation_info(item) for item in found]))

    @router.get(
        "/v1/conversations/{conversation_id}",
        tags=TAGS,
        summary="Show a conversation",
        response_model=ConversationDetail,
    )
    async def show_conversation(conversation_id: str, identity: Me) -> Response:
        """Return what was said and done in a conversation, its runs, and what it cost so far."""
        view = await conversations.view(identity, checked_conversation(conversation_id))
        return json_response(conversation_detail(view))

    @router.post(
        "/v1/conversations/{conversation_id}/messages",
        tags=TAGS,
        summary="Say something",
        response_model=TurnResult,
        responses=_TURN,
    )
    async def create_message(
        request: Request,
        conversation_id: str,
        body: NewMessage,
        identity: Me,
        accept: Annotated[str, Header(description="`application/json` for the result alone.")] = "*/*",
    ) -> Response:
        """Answer a user's message, and tell what happens on the way as server-sent events.

        The message is stored before the first event is sent. The turn goes on when the client
        leaves: its answer is then found in the conversation. What becomes of a second message while
        it runs says `multitask_strategy`.
        """
        if not body.content.strip():
            raise invalid("content: the message is empty.", "content")
        as_json = wants_json(accept)
        live = await _begin(
            conversations,
            _for_user(identity, body.user),
            checked_conversation(conversation_id),
            body,
            as_json,
        )
        if not as_json:
            chunks = written(live.batches(idle=parts.keep_alive))
            return EventStream(chunks, listeners=listeners, follows=False, headers=turn_headers(live))
        last = await outcome(live)
        headers = turn_headers(live, last.data)
        if last.type == "error":
            return problem_response(last.data, request.scope, headers)
        if last.type == "approval":
            return json_response(last.data, status=202, headers=headers | {"Location": run_path(live.run)})
        return json_response(last.data, headers=headers)


async def _begin(
    conversations: Conversations, identity: Identity, conversation_id: str, body: NewMessage, as_json: bool
) -> LiveRun:
    return await begin(
        conversations,
        identity,
        conversation_id,
        body.content,
        agent=body.agent,
        streaming=not as_json,
        stop_with_client=False,
        strategy=body.multitask_strategy,
        timeout=body.timeout_seconds,
    )


def _for_user(identity: Identity, user: str | None) -> Identity:
    named = checked_user(user) if user else None
    return replace(identity, user=named) if named else identity
