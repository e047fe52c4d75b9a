"""OpenAI's chat completions as pydantic models: what a request may say, what an answer looks like.

Strict: a number in quotes is refused, as OpenAI does. Unknown fields are ignored, as all
OpenAI-compatible servers do, so that clients newer than this text still work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from admiralty.runtime.api.wire import Given, Shown
from admiralty.runtime.conversations.service import MAX_TIMEOUT
from admiralty.runtime.durable.values import Strategy


class ContentPart(Given):
    """A part of a message. Only ``text`` is accepted."""

    type: str
    text: str | None = None


class ChatMessage(Given):
    """A message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(Given):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    """Send the tokens used in a chunk of their own before ``[DONE]``."""


class ChatRequest(Given):
    """A request for a chat completion."""

    model: Annotated[str, Field(min_length=1, description="The fleet's name, or `fleet/agent`.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Field(description="The end user for whom you ask.")] = None
    metadata: Annotated[
        dict[str, str] | None,
        Field(description="Kept with a new conversation. `conversation_id` continues one that exists."),
    ] = None

    multitask_strategy: Annotated[
        Strategy | None,
        Field(
            description="What becomes of this message while an earlier one is answered; as the fleet says."
        ),
    ] = None
    timeout_seconds: Annotated[
        float | None, Field(gt=0, le=MAX_TIMEOUT, description="Nobody waits for the answer any longer.")
    ] = None

    n: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    # Accepted and not used: the agents' definitions decide. The answer names those that were given.
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    reasoning_effort: str | None = None


UNUSED = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "logit_bias",
    "reasoning_effort",
)
"""Fields of a request that change nothing here."""


class AnswerMessage(Shown):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: str | None = None


class Choice(Shown):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length", "content_filter"]


class CompletionUsage(Shown):
    """Tokens of all model calls of the turn together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TurnInfo(Shown):
    """What Admiralty adds to OpenAI's answer."""

    conversation_id: str
    run_id: str
    turn: int
    status: Literal["done", "waiting"]
    """``waiting``: a person must approve something first; the text says so, and the turn goes on later."""
    approval_id: str | None = None
    """What a person must decide."""
    agent: str | None
    """The agent that gave the answer, or waits."""
    cost_usd: str
    """A decimal in text, exact."""
    unpriced_calls: int
    """Model calls whose price is not known: they are not in ``cost_usd``."""
    seconds: float | None
    metadata: dict[str, Any]
    """What the provider says about its answer: model, method, citations."""
    ignored: list[str]
    """Parts of the request that changed nothing."""


class ChatCompletion(Shown):
    """An answer, as OpenAI's clients expect it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "chatcmpl-019ab3d29a2b7c55a0f1c2d3e4f50617",
                "object": "chat.completion",
                "created": 1795363200,
                "model": "support",
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": "Order #W100 is on its way.",
                            "refusal": None,
                        },
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 412, "completion_tokens": 31, "total_tokens": 443},
                "admiralty": {
                    "conversation_id": "conv_019ab3d29a2b7c55a0f1c2d3e4f50616",
                    "run_id": "run_019ab3d29a2b7c55a0f1c2d3e4f50617",
                    "turn": 1,
                    "status": "done",
                    "agent": "lookup",
                    "cost_usd": "0.000124",
                    "unpriced_calls": 0,
                    "seconds": 0.84,
                    "metadata": {"model": "openai:gpt-5.4-nano"},
                    "ignored": ["temperature"],
                },
            }
        }
    )

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    admiralty: TurnInfo


class OpenAIErrorBody(Shown):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: dict[str, Any] | None = None
    """Only with ``budget_exceeded``: ``scope``, ``window``, ``limit_usd``, ``spent_usd``, ``held_usd``,
    ``needed_usd``, ``resets_at``."""


class OpenAIError(Shown):
    """An error in OpenAI's shape."""

    error: OpenAIErrorBody
