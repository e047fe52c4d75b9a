"""Real models, through LangChain's ``init_chat_model``: one adapter for every vendor it knows.

Translates both ways: our call into LangChain's, the vendor's errors into ours. Retries are off in
the vendors' clients, because retrying is the scheduler's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, cast

import httpx
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.runnables import Runnable

from admiralty.core.errors import (
    AdmiraltyError,
    ConfigurationError,
    InvalidRequest,
    OutputInvalid,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import ModelCall, ModelReply, Tier, TokenDelta, Usage
from admiralty.runtime.scheduler.prices import price

MAX_CACHED_BINDINGS = 256


class LangChainProvider:
    """One vendor of LangChain's, such as ``openai`` or ``anthropic``, or a compatible server.

    ``options`` go to ``init_chat_model``: ``api_key``, ``base_url``, ``timeout`` (seconds).
    """

    def __init__(self, name: str, clock: Clock, **options: Any) -> None:
        self._name = name
        self._clock = clock
        self._options = options
        self._models: dict[str, BaseChatModel] = {}
        self._bound: dict[tuple[str, str], Runnable[Any, Any]] = {}

    @property
    def name(self) -> str:
        return self._name

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        started = self._clock.monotonic()
        bound = self._bind(call, model)
        messages = list(call.messages)
        message: AIMessage
        try:
            if call.output_schema is not None:
                message = _structured(await bound.ainvoke(messages))
            elif not call.streaming:
                message = await bound.ainvoke(messages)
            else:
                whole: AIMessageChunk | None = None
                async with aclosing(cast("Any", bound.astream(messages))) as chunks:
                    async for chunk in chunks:
                        whole = chunk if whole is None else whole + chunk
                        if text := str(chunk.text):
                            yield TokenDelta(text=text)
                if whole is None:
                    raise ProviderUnavailable(f"{self._name}:{model} sent an empty stream.")
                message = cast("AIMessage", message_chunk_to_message(whole))
        except AdmiraltyError:
            raise
        except Exception as error:
            raise translate(error, f"{self._name}:{model}") from error
        yield self._reply(call, model, message, self._clock.monotonic() - started)

    def _bind(self, call: ModelCall, model: str) -> Runnable[Any, Any]:
        """Return the model with the call's tools and options; cached: binding costs more than asking."""
        arguments: dict[str, Any] = {}
        if call.max_output_tokens is not None:
            arguments["max_tokens"] = call.max_output_tokens
        if call.stop:
            arguments["stop"] = list(call.stop)
        if call.temperature is not None:
            arguments["temperature"] = call.temperature
        shape = json.dumps([call.tools, call.output_schema, arguments], default=dict)
        bound = self._bound.get((model, shape))
        if bound is None:
            if call.output_schema is not None:
                # What is bound to a structured model is lost, so the options go to the model itself.
                chat = self._model(model, **arguments)
                bound = chat.with_structured_output(_titled(call.output_schema), include_raw=True)
            else:
                chat = self._model(model)
                tools = [dict(tool) for tool in call.tools]
                bound = chat.bind_tools(tools, **arguments) if tools else chat.bind(**arguments)
            if len(self._bound) >= MAX_CACHED_BINDINGS:
                self._bound.clear()
            self._bound[model, shape] = bound
        return bound

    def _model(self, model: str, **arguments: Any) -> BaseChatModel:
        if not arguments and model in self._models:
            return self._models[model]
        try:
            chat: BaseChatModel = init_chat_model(
                model, model_provider=self._name, max_retries=0, **self._options, **arguments
            )
        except ImportError as error:
            raise ConfigurationError(
                f"Models of {self._name} need a package: {error}. Run: pip install 'admiralty[{self._name}]'."
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"model {self._name}:{model}: {error}") from error
        if not arguments:
            self._models[model] = chat
        return chat

    def _reply(self, call: ModelCall, model: str, message: AIMessage, seconds: float) -> ModelReply:
        usage = usage_of(message)
        tier: Tier = call.tier
        return ModelReply(
            message=AIMessage(content=message.content, tool_calls=message.tool_calls, id=message.id),
            model=f"{self._name}:{model}",
            tier=tier,
            usage=usage,
            cost=price(self._name, model, usage),
            seconds=seconds,
            finish_reason=_finish_reason(message),
            metadata={"method": "model"},
        )


def _titled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """LangChain takes a schema's title for the name of the function: it must be there."""
    return {"title": "Answer", **schema}


def _structured(result: Mapping[str, Any]) -> AIMessage:
    """Return the message with the parsed answer as its JSON content."""
    raw: BaseMessage = result["raw"]
    if result.get("parsed") is None:
        problem = result.get("parsing_error") or "no answer in the asked-for form"
        raise OutputInvalid(f"The model's answer does not fit the schema: {problem}")
    parsed = result["parsed"]
    text = parsed.model_dump_json() if hasattr(parsed, "model_dump_json") else json.dumps(parsed)
    message = cast("AIMessage", raw)
    return AIMessage(
        content=text,
        id=raw.id,
        usage_metadata=message.usage_metadata,
        response_metadata=raw.response_metadata,
    )


def usage_of(message: AIMessage) -> Usage:
    """Return a message's ``usage_metadata`` as Usage; zero where the provider told nothing."""
    told = message.usage_metadata
    if told is None:
        return Usage()
    into = told.get("input_token_details") or {}
    out = told.get("output_token_details") or {}
    return Usage(
        input_tokens=told["input_tokens"],
        output_tokens=told["output_tokens"],
        cached_tokens=into.get("cache_read") or 0,
        cache_write_tokens=into.get("cache_creation") or 0,
        reasoning_tokens=out.get("reasoning") or 0,
    )


def _finish_reason(message: AIMessage) -> str:
    told = message.response_metadata
    return str(told.get("finish_reason") or told.get("stop_reason") or "stop")


def translate(error: Exception, model: str) -> AdmiraltyError:
    """Return one of our errors for a vendor's, judged by HTTP status where it has one."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    text = f"{model}: {type(error).__name__}: {error}"
    if status == 429:
        return RateLimited(text, retry_after=_retry_after(response))
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 409):
        return ProviderRejected(text)
    if isinstance(status, int):
        return ProviderUnavailable(text, retry_after=_retry_after(response))
    if isinstance(error, httpx.TransportError) or "Connection" in type(error).__name__:
        return ProviderUnavailable(f"{model} cannot be reached: {error}. Is its server running?")
    if "Timeout" in type(error).__name__:
        return ProviderUnavailable(f"{model} did not answer in time: {error}")
    if isinstance(error, ValueError | TypeError):
        return InvalidRequest(f"{model} cannot be asked this: {error}")
    return ProviderUnavailable(text)


def _retry_after(response: Any) -> float | None:
    value = getattr(response, "headers", {}).get("retry-after")
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
