"""``POST /v1/chat/completions``: the door for OpenAI's clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from admiralty.core.errors import NotFound
from admiralty.core.values import Identity
from admiralty.runtime.api.auth import checked_user
from admiralty.runtime.api.catalog import Catalog, plausible_id
from admiralty.runtime.api.chat import ChunkWriter, Completion, WantedTurn, read_request, waiting_answer
from admiralty.runtime.api.chat_schema import ChatCompletion, ChatRequest, OpenAIError
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import problem_response
from admiralty.runtime.api.listeners import Listeners
from admiralty.runtime.api.parts import ApiParts
from admiralty.runtime.api.pauses import handed_on
from admiralty.runtime.api.sse import KEEP_ALIVE, EventStream, encode
from admiralty.runtime.api.turns import begin, early_failure, outcome, stopping_with_client, turn_headers
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.conversations import LiveRun

_STREAM = """data: {"id":"chatcmpl-019ab3d2","object":"chat.completion.chunk","created":1795363200, \
"model":"support","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null}, \
"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-019ab3d2", ... "choices":[{"index":0,"delta":{"content":"Order #W100"}, ...}]}

data: {"id":"chatcmpl-019ab3d2", ... "choices":[{"index":0,"delta":{},"finish_reason":"stop", ...}]}

data: [DONE]
"""

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, chunks of it as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}},
        "headers": {
            "X-Conversation-Id": {"description": "Send it to continue.", "schema": {"type": "string"}},
            "X-Run-Id": {"description": "This turn's run.", "schema": {"type": "string"}},
            "X-Cost-Usd": {
                "description": "Only without `stream`: a stream tells it at its end.",
                "schema": {"type": "string"},
            },
        },
    },
    "4XX": {"model": OpenAIError, "description": "What is wrong with the request, in OpenAI's shape."},
    "5XX": {"model": OpenAIError, "description": "What failed, in OpenAI's shape; see Retry-After."},
}

_EXAMPLES = {
    "one turn": {
        "value": {"model": "support", "messages": [{"role": "user", "content": "Where is my order #W100?"}]}
    },
    "streamed, in a conversation": {
        "value": {
            "model": "support",
            "stream": True,
            "stream_options": {"include_usage": True},
            "metadata": {"conversation_id": "conv_019ab3d29a2b7c55a0f1c2d3e4f50616"},
            "messages": [{"role": "user", "content": "Yes, please cancel it."}],
        }
    },
}


def add_chat_routes(router: APIRouter, parts: ApiParts, catalog: Catalog, listeners: Listeners) -> None:
    """Add ``/v1/chat/completions``."""
    conversations = parts.conversations

    async def start(identity: Identity, wanted: WantedTurn, agent: str | None, body: ChatRequest) -> LiveRun:
        conversation_id = wanted.conversation_id
        if conversation_id is None:
            made = await conversations.create(identity, metadata=wanted.metadata, history=wanted.history)
            conversation_id = made.id
        elif not plausible_id(conversation_id):
            raise NotFound(f"There is no conversation {conversation_id[:50]!r}.")
        return await begin(
            conversations,
            identity,
            conversation_id,
            wanted.message,
            agent=agent,
            streaming=bool(body.stream),
            stop_with_client=True,
            strategy=body.multitask_strategy,
            timeout=body.timeout_seconds,
        )

    @router.post(
        "/v1/chat/completions",
        tags=["OpenAI-compatible"],
        summary="Say something, OpenAI's way",
        response_model=ChatCompletion,
        responses=_RESPONSES,
        openapi_extra={"requestBody": {"content": {"application/json": {"examples": _EXAMPLES}}}},
    )
    async def create_chat_completion(
        request: Request,
        body: ChatRequest,
        identity: Me,
        x_conversation_id: Annotated[
            str | None, Header(description="Continue this conversation; `metadata.conversation_id` does too.")
        ] = None,
    ) -> Response:
        """Answer the last user message with the whole fleet, or with one agent (`model: fleet/agent`).

        With a conversation id, only the last message is new, and the conversation is continued as it
        was kept here. Without one, a conversation is begun, and the messages before the last
        become its history. When the client leaves, the turn is stopped.

        If a person must approve something first, the answer says so and ends; the turn goes on by itself
        when it is decided. `multitask_strategy` and `timeout_seconds` are ours: send them as extra body.

        System messages and sampling parameters are accepted and not used: the fleet's definitions
        decide. `admiralty.ignored` names those that were given.
        """
        agent = catalog.agent_of(body.model)
        wanted = read_request(body, x_conversation_id)
        if body.user and (user := checked_user(body.user)):
            identity = replace(identity, user=user)
        streaming = bool(body.stream)
        live = await start(identity, wanted, agent, body)
        completion = Completion(
            run=live.run, model=body.model, created=int(live.run.started_at), ignored=wanted.ignored
        )
        if not streaming:
            last = await stopping_with_client(live, request.receive, outcome(live))
            if last.type == "error":
                return problem_response(last.data, request.scope, turn_headers(live, last.data))
            done = last.data if last.type == "done" else waiting_answer(last.data)
            return json_response(completion.whole(done), headers=turn_headers(live, done))
        waiting = early_failure(live, within=parts.keep_alive)
        if failure := await stopping_with_client(live, request.receive, waiting):
            return problem_response(failure.data, request.scope, turn_headers(live, failure.data))
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        writer = ChunkWriter(completion=completion, include_usage=include_usage)
        chunks = _stream(live, writer, parts.keep_alive)
        # A run that waits for a person has no client any more, and is not stopped for want of one.
        leave = lambda: None if writer.ended else live.cancel()  # noqa: E731
        return EventStream(
            chunks, listeners=listeners, follows=False, headers=turn_headers(live), on_leave=leave
        )


async def _stream(live: LiveRun, writer: ChunkWriter, keep_alive: float) -> AsyncGenerator[bytes, None]:
    yield encode(writer.opening())
    async with aclosing(live.batches(idle=keep_alive)) as batches:
        async for batch in batches:
            chunks = []
            for event in batch:
                chunks += [encode(chunk) for chunk in writer.chunks(event)]
                if writer.ended:
                    break
            if chunks or not batch:
                yield b"".join(chunks) or KEEP_ALIVE
            if writer.ended:
                break
    if not writer.ended:
        yield b"".join(encode(chunk) for chunk in writer.chunks(handed_on(live.run)))
    yield b"data: [DONE]\n\n"
