"""Real models, through LangChain's ``init_chat_model``: one adapter for every vendor it knows.

Translates both ways: our call into LangChain's, the vendor's errors into ours. Retries are off in
the vendors' clients, because retrying is the scheduler's business; so is pricing.

A reply's ``metadata`` says ``usage_reported: False`` where the vendor did not tell what was used, and
``rate_limits``, where its headers told what is left of them (see ``rate_headers``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ToolCall,
    message_chunk_to_message,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.runnables import Runnable

from admiralty.core.errors import (
    AdmiraltyError,
    ConfigurationError,
    OutputInvalid,
    ProviderUnavailable,
)
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import ModelCall, ModelReply, Tier, TokenDelta
from admiralty.runtime.providers.rate_headers import rate_limits
from admiralty.runtime.providers.usage import from_openai, larger, usage_of, was_reported
from admiralty.runtime.providers.vendor_errors import translate

if TYPE_CHECKING:
    from admiralty.runtime.providers.openai_transport import HttpSessions, LightBinding, LightChat

MAX_CACHED_BINDINGS = 256

_Bound: TypeAlias = "Runnable[Any, Any] | LightBinding"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chat:
    """A vendor's model, and the same over the light transport, where it has one."""

    chat: BaseChatModel
    light: LightChat | None = None

    @property
    def repeats_usage(self) -> bool:
        """Whether servers of this kind may tell the usage so far with each piece; LangChain adds it up."""
        return any(kind.__name__ == "BaseChatOpenAI" for kind in type(self.chat).__mro__)


class LangChainProvider:
    """One vendor of LangChain's, such as ``openai`` or ``anthropic``, or a compatible server.

    ``options`` go to ``init_chat_model``: ``api_key``, ``base_url``, ``timeout`` (seconds).
    """

    def __init__(self, name: str, clock: Clock, **options: Any) -> None:
        self._name = name
        self._clock = clock
        self._options = options
        self._models: dict[str, _Chat] = {}
        self._bound: dict[tuple[str, str], _Bound] = {}
        self._sessions: HttpSessions | None = None

    @property
    def name(self) -> str:
        return self._name

    async def close(self) -> None:
        """Close the connections to the server."""
        if self._sessions is not None:
            await self._sessions.close()

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        started = self._clock.monotonic()
        bound, late = await self._bind(call, model)
        messages = list(call.messages)
        message: AIMessage
        misfit: str | None = None
        whole: AIMessageChunk | None = None
        try:
            if call.output_schema is not None:
                answer = await bound.ainvoke(messages, **late)
                message, misfit = _json(answer) if isinstance(answer, AIMessage) else _structured(answer)
            elif not call.streaming:
                message = await bound.ainvoke(messages, **late)
            else:
                usage: UsageMetadata | None = None
                async with aclosing(cast("Any", bound.astream(messages, **late))) as chunks:
                    async for chunk in chunks:
                        whole = chunk if whole is None else whole + chunk
                        usage = larger(usage, chunk.usage_metadata)
                        if text := str(chunk.text):
                            yield TokenDelta(text=text)
                if whole is None:
                    raise ProviderUnavailable(f"{self._name}:{model} sent an empty stream.", billed="unknown")
                message = _joined(whole)
                if self._models[model].repeats_usage:
                    message.usage_metadata = usage
        except AdmiraltyError:
            raise
        except Exception as error:
            if type(error).__name__ != "LengthFinishReasonError":
                begun = whole is not None
                raise translate(error, f"{self._name}:{model}", self._clock.now(), begun=begun) from error
            message, misfit = _broken_off(error), "it was broken off at the limit of output tokens"
        reply = self._reply(call, model, message, self._clock.monotonic() - started)
        if misfit is not None:
            raise OutputInvalid(f"The answer of {reply.model} does not fit the schema: {misfit}", reply=reply)
        yield reply

    async def _bind(self, call: ModelCall, model: str) -> tuple[_Bound, dict[str, Any]]:
        """Return the model with the call's tools and options, and the options that go with the question.

        The former is kept: binding costs more than asking. The latter are those that change with every
        call: how much output it is allowed.
        """
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = await self._open(model)
        arguments: dict[str, Any] = {}
        if call.stop:
            arguments["stop"] = list(call.stop)
        if call.temperature is not None:
            arguments["temperature"] = call.temperature
        late = {} if call.max_output_tokens is None else {"max_tokens": call.max_output_tokens}
        if call.output_schema is not None and known.light is None:  # what goes with the question is lost
            arguments, late = late | arguments, {}
        shape = json.dumps([call.tools, call.output_schema, arguments], default=dict)
        bound = self._bound.get((model, shape))
        if bound is None:
            bound = self._new_binding(call, model, known, arguments)
            if len(self._bound) >= MAX_CACHED_BINDINGS:
                self._bound.clear()
            self._bound[model, shape] = bound
        return bound, late

    def _new_binding(self, call: ModelCall, model: str, known: _Chat, arguments: dict[str, Any]) -> _Bound:
        chat, light = known.chat, known.light
        if call.output_schema is not None:
            schema = _titled(call.output_schema)
            if light is not None:
                from admiralty.runtime.providers.openai_transport import response_format

                return light.bind_plainly({"response_format": response_format(schema), **arguments})
            # What is bound to a structured model is lost, so the options go to the model itself.
            own = self._construct(model, **arguments) if arguments else chat
            return own.with_structured_output(schema, include_raw=True)
        tools = [dict(tool) for tool in call.tools]
        usual: Any = chat.bind_tools(tools, **arguments) if tools else chat.bind(**arguments)
        return (light.bind(usual.kwargs) if light is not None else None) or usual

    async def _open(self, model: str) -> _Chat:
        chat = self._construct(model)
        if self._name != "openai":
            return _Chat(chat=chat)
        try:
            from admiralty.runtime.providers.openai_transport import HttpSessions, open_light
        except ImportError:  # aiohttp is missing, or the SDK has other names: its own client will do
            return _Chat(chat=chat)
        self._sessions = self._sessions or HttpSessions()
        light = await open_light(chat, self._sessions)
        asks_otherwise = light is not None and light.bind({}) is None
        return _Chat(chat=chat, light=None if asks_otherwise else light)

    def _construct(self, model: str, **arguments: Any) -> BaseChatModel:
        try:
            chat: BaseChatModel = init_chat_model(
                model, model_provider=self._name, max_retries=0, **self._options, **arguments
            )
        except ImportError as error:  # it names the package to install
            raise ConfigurationError(f"models = {self._name}:{model}: {_line(error)}") from error
        except Exception as error:  # an unknown vendor, a missing key: each vendor's client has its own kind
            raise ConfigurationError(
                f"models = {self._name}:{model}: {_line(error)} "
                "Check the name, and that the vendor's key is set."
            ) from error
        return chat

    def _reply(self, call: ModelCall, model: str, message: AIMessage, seconds: float) -> ModelReply:
        usage = usage_of(message)
        tier: Tier = call.tier
        metadata: dict[str, Any] = {"method": "model"}
        if not was_reported(message, usage):
            metadata["usage_reported"] = False
        headers = message.response_metadata.get("headers")
        if headers and (limits := rate_limits(headers, self._clock.now())):
            metadata["rate_limits"] = limits
        return ModelReply(
            message=AIMessage(content=message.content, tool_calls=_tool_calls(message), id=message.id),
            model=f"{self._name}:{model}",
            tier=tier,
            usage=usage,
            cost=None,
            seconds=seconds,
            finish_reason=_finish_reason(message),
            metadata=metadata,
        )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _json(message: AIMessage) -> tuple[AIMessage, str | None]:
    """Return the message and, if its text is not the JSON object that was asked for, what is wrong."""
    try:
        parsed = json.loads(str(message.text))
    except ValueError as error:
        if message.response_metadata.get("finish_reason") == "length":
            return message, "it was broken off at the limit of output tokens"
        return message, str(message.additional_kwargs.get("refusal") or error)
    return message, None if isinstance(parsed, dict) else "it is no JSON object"


def _titled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """LangChain takes a schema's title for the name of the function: it must be there."""
    return {"title": "Answer", **schema}


def _structured(result: Mapping[str, Any]) -> tuple[AIMessage, str | None]:
    """Return the message with the parsed answer as its JSON content, or with what is wrong with it."""
    raw: AIMessage = result["raw"]
    parsed = result.get("parsed")
    if parsed is None:
        return raw, str(result.get("parsing_error") or "no answer in the asked-for form")
    text = parsed.model_dump_json() if hasattr(parsed, "model_dump_json") else json.dumps(parsed)
    return raw.model_copy(update={"content": text, "tool_calls": []}), None


def _broken_off(error: Exception) -> AIMessage:
    """Return the message that OpenAI's client keeps in its LengthFinishReasonError, with its usage."""
    usage = getattr(getattr(error, "completion", None), "usage", None)
    told = None if usage is None else from_openai(usage.model_dump())
    return AIMessage(content="", usage_metadata=told, response_metadata={"finish_reason": "length"})


def _joined(whole: AIMessageChunk) -> AIMessage:
    """Return a stream's chunks as one message, its tool calls read strictly.

    LangChain completes the arguments of a call that was cut off, so that half a list looks whole.
    """
    calls, malformed = [], []
    for chunk in whole.tool_call_chunks:
        name, told = chunk["name"] or "", chunk["args"] or "{}"
        try:
            arguments = json.loads(told)
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            calls.append(ToolCall(name=name, args=arguments, id=chunk["id"]))
        else:
            malformed.append(invalid_tool_call(name=name, args=told, id=chunk["id"]))
    message = cast("AIMessage", message_chunk_to_message(whole))
    return message.model_copy(update={"tool_calls": calls, "invalid_tool_calls": malformed})


def _tool_calls(message: AIMessage) -> list[ToolCall]:
    """Return the message's tool calls; malformed ones with arguments that every tool refuses.

    So that the model reads what was wrong and can do better, instead of its call being lost.
    """
    malformed = [
        ToolCall(name=call["name"] or "", args={"malformed_arguments": call["args"]}, id=call["id"])
        for call in message.invalid_tool_calls
    ]
    return [*message.tool_calls, *malformed]


def _finish_reason(message: AIMessage) -> str:
    told = message.response_metadata
    return str(told.get("finish_reason") or told.get("stop_reason") or "stop")
