"""OpenAI-compatible servers asked over aiohttp, beside LangChain's ``ChatOpenAI``.

The OpenAI SDK below ChatOpenAI costs 3 to 7 ms of processor time a call (it walks types over every
message and builds models of every chunk), more than all the rest of a turn; this costs 0.4. See
docs/decisions/0004-openai-transport.md.

ChatOpenAI, made by ``init_chat_model`` as ever, still holds the settings and converts messages both
ways. That uses methods of it that are not public, so they are tried on a canned answer before
(``open_light``): if another version of LangChain has others, the SDK's client is used.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, cast
from urllib import request as urllib
from weakref import WeakKeyDictionary

import aiohttp
import certifi
import openai
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 4.0
"""Below the 5 s after which common servers close an idle connection, so that none is used too late."""

DONE_SECONDS = 0.5
"""How long the end of a response is waited for after the last event; then its connection is closed."""

MAX_ERROR_CHARACTERS = 2000


class StatusError(Exception):
    """The server answered with an HTTP status that is no success."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        super().__init__(f"Error code: {status} - {body[:MAX_ERROR_CHARACTERS]}")
        self.status_code = status
        self.headers = headers

    @property
    def response(self) -> StatusError:
        """Where the adapter looks for headers, as in the SDK's own errors."""
        return self


class BrokenConnection(ConnectionError):
    """The server could not be reached, or the connection broke before the answer's end."""


class BrokenAnswer(Exception):
    """The answer is not what it should be."""


class HttpSessions:
    """One aiohttp session for each event loop, since a session belongs to the loop that it was made in."""

    def __init__(self) -> None:
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            WeakKeyDictionary()
        )

    def get(self) -> aiohttp.ClientSession:
        """Return the running loop's session."""
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            trusted = ssl.create_default_context()
            trusted.load_verify_locations(certifi.where())  # a slim container has no certificates of its own
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=trusted)
            session = aiohttp.ClientSession(connector=connector)
            self._sessions[loop] = session
        return session

    async def close(self) -> None:
        """Close the running loop's session."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


class Server:
    """Sends chat completion requests where the SDK's client would send them, with its headers."""

    def __init__(self, client: openai.AsyncOpenAI, sessions: HttpSessions) -> None:
        self._url = str(client.base_url).rstrip("/") + "/chat/completions"
        self._headers = _headers(client)
        self._timeout = _seconds(client.timeout)
        self._sessions = sessions

    @asynccontextmanager
    async def post(self, payload: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the response is open inside. Raises StatusError, BrokenConnection, TimeoutError.

        Leaving it before the answer's end closes the connection, which ends the call at the provider.
        """
        body = {name: value for name, value in payload.items() if not isinstance(value, _ABSENT)}
        headers = {**self._headers, **(body.pop("extra_headers", None) or {})}
        query = body.pop("extra_query", None)
        timeout = _seconds(body.pop("timeout", None)) or self._timeout
        body |= body.pop("extra_body", None) or {}
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_jsonable)
        for _ in range(2):  # so that the loop sees which idle connections the server has closed by now
            await asyncio.sleep(0)
        try:
            async with self._sessions.get().post(
                self._url,
                data=data.encode("utf-8", errors="replace"),
                headers=headers,
                params=query,
                timeout=aiohttp.ClientTimeout(total=None, connect=timeout, sock_read=timeout),
            ) as response:
                if response.status >= 400:
                    text = await response.text(errors="replace")
                    raise StatusError(response.status, response.headers, text)
                yield response
        except TimeoutError as error:  # aiohttp's own are subclasses
            raise TimeoutError(f"no answer within {timeout} s") from error
        except aiohttp.ClientError as error:
            raise BrokenConnection(f"{str(error) or type(error).__name__}.") from error

    async def whole(self, payload: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; its ``headers`` are put into ``told``."""
        async with self.post(payload) as response:
            told["headers"] = response.headers
            return _object(await response.read())

    async def chunks(
        self, payload: dict[str, Any], told: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks of a streamed answer; its ``headers`` are put into ``told`` before the first."""
        async with self.post(payload) as response, aclosing(_events(response.content)) as events:
            told["headers"] = response.headers
            async for data in events:
                if data.startswith(b"[DONE]"):
                    break
                chunk = _object(data)
                if error := chunk.get("error"):
                    raise BrokenAnswer(f"error in the stream: {str(error)[:MAX_ERROR_CHARACTERS]}")
                yield chunk
            await self._finish(response)

    async def _finish(self, response: aiohttp.ClientResponse) -> None:
        """Decide whether the connection of a streamed answer can be used again."""
        if self._url.startswith("http:"):
            # Servers of one's own, llama.cpp's for one, hang up after a stream without saying so; the
            # next request would fail on it. To connect again costs nothing there, unlike with TLS.
            response.close()
            return
        with suppress(Exception):  # what ends the response follows the last event at once
            async with asyncio.timeout(DONE_SECONDS):
                await response.read()


class LightChat:
    """Asks a ChatOpenAI's model over a Server: payloads and messages are converted by ChatOpenAI itself."""

    def __init__(self, chat: ChatOpenAI, server: Any) -> None:
        self._chat = chat
        self._server = server

    def bind(self, options: Mapping[str, Any]) -> LightBinding | None:
        """Return the model with these options; ``None`` if it must be asked by OpenAI's other door."""
        if self._chat._use_responses_api(dict(options)):
            return None
        return self.bind_plainly(options)

    def bind_plainly(self, options: Mapping[str, Any]) -> LightBinding:
        """Return the model with these options, which do not lead to OpenAI's other door."""
        return LightBinding(self._chat, self._server, options)


class LightBinding:
    """A model with its options, in the form of LangChain's Runnable. A message's ``response_metadata``
    holds the ``headers`` of the response.
    """

    def __init__(self, chat: ChatOpenAI, server: Any, options: Mapping[str, Any]) -> None:
        self._chat = chat
        self._server = server
        self._options = options

    async def ainvoke(self, messages: list[BaseMessage], **more: Any) -> AIMessage:
        """Return the whole answer. ``more`` are options of this question alone."""
        payload = self._chat._get_request_payload(messages, **{**self._options, **more})
        payload.pop("stream", None)
        told: dict[str, Any] = {}
        document = await self._server.whole(payload, told)
        generation = self._chat._create_chat_result(document, {}).generations[0]
        message = cast("AIMessage", generation.message)
        message.id = message.id or document.get("id")
        message.response_metadata.update(generation.generation_info or {}, **told)
        return message

    async def astream(self, messages: list[BaseMessage], **more: Any) -> AsyncGenerator[AIMessageChunk, None]:
        """Yield the answer as it comes, usage last. ``more`` are options of this question alone."""
        asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        payload = self._chat._get_request_payload(messages, **{**self._options, **more}, **asked)
        kind: type[Any] = AIMessageChunk
        told: dict[str, Any] = {}
        async with aclosing(self._server.chunks(payload, told)) as chunks:
            async for data in chunks:
                generation = self._chat._convert_chunk_to_generation_chunk(data, kind, {})
                if generation is None:
                    continue
                chunk = cast("AIMessageChunk", generation.message)
                kind = type(chunk)
                chunk.id = chunk.id or data.get("id")
                chunk.response_metadata.update(generation.generation_info or {}, **told)
                told.clear()  # once is enough: LangChain joins what pieces say of the response
                yield chunk


async def open_light(chat: Any, sessions: HttpSessions) -> LightChat | None:
    """Return ``chat`` over the transport; ``None`` if it is no plain ChatOpenAI or cannot be read so.

    Custom clients, proxies and query parameters stay with the SDK, which knows them.
    """
    client = getattr(chat, "root_async_client", None)
    if type(chat) is not ChatOpenAI or type(client) is not openai.AsyncOpenAI:
        return None
    if chat.http_async_client or chat.openai_proxy or dict(client.default_query):
        return None
    if "Authorization" not in _headers(client) or _behind_proxy(client):
        return None
    try:
        works = await _reads_canned_answers(LightBinding(chat, _Canned(), {}))
    except Exception:
        logger.warning("ChatOpenAI cannot be used with the light transport.", exc_info=True)
        works = False
    if not works:
        logger.warning("Another version of langchain-openai than expected: the OpenAI SDK's client is used.")
        return None
    return LightChat(chat, Server(client, sessions))


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's ``response_format`` for JSON of a schema with a title."""
    body = {name: value for name, value in schema.items() if name not in ("title", "description", "strict")}
    named = {"name": schema["title"], "strict": schema.get("strict", False), "schema": body}
    if "description" in schema:
        named["description"] = schema["description"]
    return {"type": "json_schema", "json_schema": named}


_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 0,
    "model": "canned",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Yes.",
                "tool_calls": [
                    {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                ],
            },
        }
    ],
    "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
}


class _Canned:
    """Answers in the place of a server."""

    async def whole(self, _: dict[str, Any], __: dict[str, Any]) -> dict[str, Any]:
        return _ANSWER

    async def chunks(self, _: dict[str, Any], __: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        message = _ANSWER["choices"][0]["message"]
        called = [{"index": 0, **message["tool_calls"][0]}]
        deltas = [{"role": "assistant", "content": "Ye"}, {"content": "s."}, {"tool_calls": called}, {}]
        common = {**_ANSWER, "object": "chat.completion.chunk", "usage": None}
        for delta in deltas:
            reason = None if delta else "tool_calls"
            yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        yield {**common, "choices": [], "usage": _ANSWER["usage"]}


async def _reads_canned_answers(model: LightBinding) -> bool:
    asked: list[BaseMessage] = [HumanMessage("Is it?")]
    whole = await model.ainvoke(asked)
    streamed: AIMessageChunk | None = None
    async for piece in model.astream(asked):
        streamed = piece if streamed is None else streamed + piece
    return all(
        isinstance(message, AIMessage)
        and str(message.text) == "Yes."
        and [(call["name"], call["args"], call["id"]) for call in message.tool_calls]
        == [("f", {"a": 1}, "call_0")]
        and message.usage_metadata is not None
        and message.usage_metadata["total_tokens"] == 5
        and message.response_metadata.get("finish_reason") == "tool_calls"
        for message in (whole, streamed)
    )


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield the data of each server-sent event. Lines may be of any length."""
    rest = b""
    data: list[bytes] = []
    async for received in content.iter_any():
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif not line and data:
                yield b"\n".join(data)
                data.clear()
    if rest.startswith(b"data:"):
        data.append(rest[5:].strip())
    if data:
        yield b"\n".join(data)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise BrokenAnswer(f"the answer is not JSON: {data[:200]!r}") from error
    if not isinstance(document, dict):
        raise BrokenAnswer(f"the answer is no JSON object: {data[:200]!r}")
    return document


_ABSENT = (openai.NotGiven, openai.Omit)
"""What the SDK's callers pass for a parameter that is not there."""


def _behind_proxy(client: openai.AsyncOpenAI) -> bool:
    """Return whether the environment names a proxy for the server."""
    proxies = urllib.getproxies_environment()
    named = any(proxies.get(scheme) for scheme in (client.base_url.scheme, "all"))
    return named and not urllib.proxy_bypass(client.base_url.host)


def _headers(client: openai.AsyncOpenAI) -> dict[str, str]:
    """Return the client's headers, without those that describe the SDK's own transport."""
    told = {**client.default_headers, **client.auth_headers}
    return {
        name: value
        for name, value in told.items()
        if isinstance(value, str) and not name.lower().startswith("x-stainless")
    }


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _seconds(timeout: Any) -> float | None:
    """Return the SDK's timeout as seconds: its own kinds have one for each phase."""
    if isinstance(timeout, int | float):
        return float(timeout)
    read = getattr(timeout, "read", None)
    return float(read) if isinstance(read, int | float) else None
