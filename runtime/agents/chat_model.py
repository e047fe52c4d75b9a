"""The scheduler as a LangChain chat model: what user-written graphs are given instead of a vendor's.

Whatever LangChain builds on a chat model (tools, structured output, middleware, agents) works on
it, and none of it can reach a provider around the scheduler.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, SkipValidation

from admiralty.core.errors import AdmiraltyError, ConfigurationError, OutputInvalid
from admiralty.core.ids import new_id
from admiralty.core.ports import AnswerStream, Scheduler
from admiralty.core.values import JournalEntry, ModelCall, ModelReply, TokenDelta, Usage

T = TypeVar("T")

Describe = Callable[[], ModelCall]
"""Returns a call without messages, with an id of its own each time: who asks, for which run, by when."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A call as it is about to be made, and where its reply belongs."""

    call: ModelCall
    entry: JournalEntry | None = None
    """Under what the reply is kept for its run."""
    reply: ModelReply | None = None
    """What an earlier execution of the run was answered: then nobody is asked."""
    reply_id: str | None = None
    """Id of the message that answers; ``None``: LangChain gives one."""


Prepare = Callable[[ModelCall], Asked]
OnReply = Callable[[Asked, ModelReply], ModelReply]
OnFailure = Callable[[ModelCall, AdmiraltyError], None]


class ScheduledChatModel(BaseChatModel):
    """A chat model whose every call passes the scheduler.

    ``describe`` says on whose behalf a call is made; ``prepare``, what its run knows of it. ``on_reply`` is
    told of each reply that was asked for, and returns it as it is to be seen; ``on_failure`` is told of each
    call that failed. ``loop`` gives the event loop that synchronous calls are forwarded to; without one
    they get their own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    scheduler: SkipValidation[Scheduler]
    describe: SkipValidation[Describe]
    prepare: SkipValidation[Prepare] | None = None
    on_reply: SkipValidation[OnReply] | None = None
    on_failure: SkipValidation[OnFailure] | None = None
    loop: SkipValidation[Callable[[], asyncio.AbstractEventLoop]] | None = None

    @property
    def _llm_type(self) -> str:
        return "admiralty"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        # tool_choice is LangChain's way to force structured output; with one tool and "any" our
        # providers are asked for that tool's schema as output instead.
        formatted = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=formatted, tool_choice=tool_choice, **kwargs)

    def _call(self, messages: Sequence[BaseMessage], stop: list[str] | None, **options: Any) -> ModelCall:
        tools = tuple(options.get("tools") or ())
        schema = None
        if forced := _forced_tool(tools, options.get("tool_choice")):
            schema = {**forced["parameters"], "title": forced["name"]}
            if forced.get("description"):
                schema["description"] = forced["description"]
            tools = ()
        described = self.describe()
        return replace(
            described,
            id=described.id or new_id("call"),
            messages=tuple(messages),
            tools=tools,
            output_schema=schema,
            stop=tuple(stop or ()),
            max_output_tokens=options.get("max_tokens", described.max_output_tokens),
            temperature=options.get("temperature", described.temperature),
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> ChatResult:
        asked = self._asked(replace(self._call(messages, stop, **kwargs), streaming=False))
        reply = asked.reply
        if reply is None:
            with self._watching(asked.call):
                reply = await self.scheduler.complete(asked.call)
            reply = self._replied(asked, reply)
        return ChatResult(generations=[ChatGeneration(message=_message(asked, reply))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = self._asked(self._call(messages, stop, **kwargs))
        if asked.reply is not None:
            yield ChatGenerationChunk(message=_last_chunk(_message(asked, asked.reply), said=False))
            return
        said = False
        async with aclosing(self._chunks(asked.call)) as stream:
            async for chunk in stream:
                if isinstance(chunk, TokenDelta):
                    if asked.call.output_schema is not None:
                        continue  # it becomes a tool call, whole
                    said = True
                    text = AIMessageChunk(content=chunk.text, id=asked.reply_id)
                    piece = ChatGenerationChunk(message=text)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=piece)
                    yield piece
                else:
                    reply = self._replied(asked, chunk)
                    yield ChatGenerationChunk(message=_last_chunk(_message(asked, reply), said))

    def _asked(self, call: ModelCall) -> Asked:
        return self.prepare(call) if self.prepare else Asked(call=call)

    def _replied(self, asked: Asked, reply: ModelReply) -> ModelReply:
        return self.on_reply(asked, reply) if self.on_reply else reply

    async def _chunks(self, call: ModelCall) -> AnswerStream:
        with self._watching(call):
            async with aclosing(self.scheduler.stream(call)) as stream:
                async for chunk in stream:
                    yield chunk

    @contextmanager
    def _watching(self, call: ModelCall) -> Iterator[None]:
        try:
            yield
        except AdmiraltyError as error:
            if self.on_failure:
                self.on_failure(call, error)
            raise

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> ChatResult:
        """Forward to the asynchronous door: there is no second implementation."""
        loop = self.loop() if self.loop else None
        return forward(self._agenerate(messages, stop, None, **kwargs), loop)


def forward(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None) -> T:
    """Wait for ``work`` in synchronous code: done on ``loop``, or on one of its own.

    Vendors' clients keep connections that belong to the loop that opened them, so where there is a
    loop, it must be that one. Raises ConfigurationError on that loop's own thread, where waiting
    would stop the loop for good.
    """
    if loop is None:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(copy_context().run, asyncio.run, work).result()
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is loop:
        work.close()
        raise ConfigurationError(
            "A model or tool was called with invoke() in an async node, which would stop every other "
            "visit of the process. Use `await ...ainvoke()` there, or make the node a plain def."
        )
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def _forced_tool(tools: Sequence[Mapping[str, Any]], choice: Any) -> Mapping[str, Any] | None:
    """Return the function that the model must call, in any of the ways LangChain says so.

    ``any`` of several tools forces none of them: our providers are asked as with ``auto``.
    """
    functions: list[Mapping[str, Any]] = [tool["function"] for tool in tools]
    if isinstance(choice, Mapping):
        choice = choice.get("function", choice).get("name")
    if choice in ("any", "required", True) and len(functions) == 1:
        return functions[0]
    return next((function for function in functions if function["name"] == choice), None)


def _message(asked: Asked, reply: ModelReply) -> AIMessage:
    """Return the reply as LangChain expects it: a forced tool's arguments as a tool call."""
    usage = _usage_metadata(reply.usage)
    metadata = {"model_name": reply.model, "finish_reason": reply.finish_reason, **reply.metadata}
    schema = asked.call.output_schema
    if schema is None:
        return AIMessage(
            content=reply.message.content,
            tool_calls=reply.message.tool_calls,
            id=asked.reply_id,
            usage_metadata=usage,
            response_metadata=metadata,
        )

    try:
        arguments = json.loads(str(reply.message.text))
    except ValueError as error:
        raise OutputInvalid(f"{reply.model} answered no JSON: {error}", reply=reply) from error
    forced = {"name": str(schema["title"]), "args": arguments, "id": _forced_id(asked), "type": "tool_call"}
    return AIMessage(
        content="",
        tool_calls=[forced],
        id=asked.reply_id,
        usage_metadata=usage,
        response_metadata=metadata,
    )


def _forced_id(asked: Asked) -> str:
    """Return an id that is the same when the run is executed again, where the call belongs to one."""
    return f"call_{asked.reply_id.rpartition('_')[2]}" if asked.reply_id else asked.call.id


def _last_chunk(message: AIMessage, said: bool) -> AIMessageChunk:
    return AIMessageChunk(
        content="" if said else message.content,
        id=message.id,
        tool_call_chunks=[
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            for index, call in enumerate(message.tool_calls)
        ],
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
    )


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={
            "cache_read": usage.cached_tokens,
            "cache_creation": usage.cache_write_tokens,
            "audio": usage.audio_input_tokens,
        },
        output_token_details={"reasoning": usage.reasoning_tokens, "audio": usage.audio_output_tokens},
    )
