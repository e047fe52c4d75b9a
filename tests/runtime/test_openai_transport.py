"""The light transport beside the OpenAI SDK's client: the same requests, and the SDK where it is no fit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from admiralty.core.clock import SystemClock
from admiralty.core.errors import ProviderUnavailable
from admiralty.core.values import Caller, Identity, ModelCall, ModelReply
from admiralty.runtime.providers import openai_transport
from admiralty.runtime.providers.langchain import LangChainProvider
from admiralty.runtime.providers.openai_transport import HttpSessions, open_light

CALL = ModelCall(
    id="call_1",
    caller=Caller(
        identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r"
    ),
    messages=(
        SystemMessage("Be brief."),
        HumanMessage("Où est W1? \N{GRINNING FACE}"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"}]),
        ToolMessage("shipped", tool_call_id="c1"),
        HumanMessage("And W2?"),
    ),
    streaming=False,
)
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "Find.", "parameters": {"type": "object"}},
}
SCHEMA = {
    "title": "Triage",
    "description": "Who answers.",
    "type": "object",
    "properties": {"handoff": {"enum": ["a", "b"], "type": "string"}},
    "required": ["handoff"],
}
CALLS = {
    "plain": CALL,
    "tools": replace(CALL, tools=(TOOL,), max_output_tokens=20),
    "structured": replace(CALL, output_schema=SCHEMA, temperature=0.5),
    "stopped": replace(CALL, stop=("END",)),
    "streamed": replace(CALL, streaming=True, tools=(TOOL,)),
}


class Recorder:
    """A server that keeps what it was asked, and answers the same to everybody."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], str]] = []
        self.url = ""
        self.lines: list[str] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((body, request.headers["Authorization"]))
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        answer = {"role": "assistant", "content": '{"handoff": "a"}'}
        if not body.get("stream"):
            choice = {"index": 0, "message": answer, "finish_reason": "stop"}
            return web.json_response({**head, "choices": [choice], "usage": usage})
        chunks = [
            {**head, "choices": [{"index": 0, "delta": answer, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**head, "choices": [], "usage": usage},
        ]
        lines = self.lines or [*(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
        text = "\r\n\r\n".join(lines) + "\r\n\r\n"
        return web.Response(text=text, content_type="text/event-stream")


@pytest.fixture
async def server() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", recorder.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    recorder.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield recorder
    await runner.cleanup()


def chat_openai(base_url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url=base_url, api_key=SecretStr("k"), max_retries=0, **options)


async def ask(server: Recorder, call: ModelCall) -> ModelReply:
    provider = LangChainProvider("openai", SystemClock(), base_url=server.url, api_key="k", stream_usage=True)
    async with aclosing(provider.stream(call, "m")) as stream:
        [*_, reply] = [chunk async for chunk in stream]
    await provider.close()
    assert isinstance(reply, ModelReply)
    return reply


@pytest.mark.requirement("providers.transport")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_the_light_transport_asks_and_understands_what_the_sdk_does(
    server: Recorder, call: ModelCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = await ask(server, call)

    async def no(*_: Any) -> None:
        return None

    monkeypatch.setattr(openai_transport, "open_light", no)
    usual = await ask(server, call)
    (asked, key), (asked_usually, usual_key) = server.asked
    asked_usually.pop("stream", None) if not call.streaming else None
    assert asked == asked_usually
    assert key == usual_key == "Bearer k"
    same = ("model", "usage", "cost", "finish_reason", "metadata")
    assert [getattr(light, name) for name in same] == [getattr(usual, name) for name in same]
    assert json.loads(str(light.message.text)) == json.loads(str(usual.message.text))


@pytest.mark.requirement("providers.transport")
async def test_an_error_inside_a_stream_is_an_error(server: Recorder) -> None:
    server.lines = [": a comment", 'data: {"error": {"message": "out of memory"}}']
    with pytest.raises(ProviderUnavailable, match="out of memory"):
        await ask(server, CALLS["streamed"])


@pytest.mark.requirement("providers.transport")
async def test_a_langchain_that_reads_answers_otherwise_keeps_the_sdk(
    server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await open_light(chat_openai(server.url), HttpSessions()) is not None
    monkeypatch.setattr(ChatOpenAI, "_create_chat_result", lambda *_: None)
    assert await open_light(chat_openai(server.url), HttpSessions()) is None


@pytest.mark.requirement("providers.transport")
async def test_proxies_and_clients_of_ones_own_stay_with_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    sessions = HttpSessions()
    assert await open_light(chat_openai("https://outside.example/v1"), sessions) is None
    assert await open_light(chat_openai("https://inside.example/v1"), sessions) is not None
    monkeypatch.delenv("HTTPS_PROXY")
    assert await open_light(chat_openai("https://x.example/v1", default_query={"a": "b"}), sessions) is None
