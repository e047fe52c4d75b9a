"""Real models: LangChain's adapter against a real inference server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import BaseModel

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.clock import SystemClock
from admiralty.core.errors import (
    AdmiraltyError,
    ConfigurationError,
    OutputInvalid,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.settings import Settings
from admiralty.core.values import Caller, Identity, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.providers import openai_transport
from admiralty.runtime.providers.langchain import LangChainProvider

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")
CALL = ModelCall(
    id="call_1",
    caller=CALLER,
    messages=(SystemMessage("You are brief."), HumanMessage("Tell me of the sea.")),
    max_output_tokens=12,
)
TOOL = {
    "type": "function",
    "function": {
        "name": "order_status",
        "description": "Tell the status of an order.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string"}},
            "required": ["order_id"],
        },
    },
}
SCHEMA = {
    "title": "Triage",
    "type": "object",
    "properties": {"handoff": {"enum": ["lookup", "reasoning"]}, "sure": {"type": "boolean"}},
    "required": ["handoff", "sure"],
    "additionalProperties": False,
}

ROUTED = replace(CALL, output_schema=SCHEMA, max_output_tokens=60, messages=(HumanMessage("Where is W1?"),))


@pytest.fixture(params=["light transport", "vendor's client"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with our transport below ChatOpenAI and with the SDK's own."""
    if request.param == "vendor's client":

        async def no(*_: Any) -> None:
            return None

        monkeypatch.setattr(openai_transport, "open_light", no)


@pytest.fixture
async def provider(llama_server: Any) -> AsyncIterator[LangChainProvider]:
    made = openai(llama_server.base_url)
    yield made
    await made.close()


_NUMBERS = itertools.count()


def openai(base_url: str, **options: Any) -> LangChainProvider:
    # LangChain keeps the SDK's connections for each timeout, and with them the loop of an earlier test.
    timeout = options.pop("timeout", 30.0) + next(_NUMBERS) * 1e-6
    given = {"base_url": base_url, "api_key": "none", "timeout": timeout, "stream_usage": True}
    return LangChainProvider("openai", SystemClock(), **given | options)


async def ask(provider: LangChainProvider, call: ModelCall = CALL, model: str = "smollm2") -> list[Any]:
    async with aclosing(provider.stream(call, model)) as stream:
        return [chunk async for chunk in stream]


# -- a real server ---------------------------------------------------------------------------------


@pytest.mark.requirement("providers.stream", "providers.usage")
async def test_text_streams_in_pieces_and_ends_with_usage(provider: LangChainProvider) -> None:
    *deltas, reply = await ask(provider)
    assert len(deltas) >= 3
    assert all(isinstance(delta, TokenDelta) for delta in deltas)
    assert isinstance(reply, ModelReply)
    assert "".join(delta.text for delta in deltas) == reply.message.text
    assert 1 <= reply.usage.output_tokens <= 12
    assert reply.usage.input_tokens > 10
    assert (reply.model, reply.cost, reply.metadata["method"]) == ("openai:smollm2", None, "model")
    assert reply.seconds > 0


@pytest.mark.requirement("providers.stream", "providers.structured")
async def test_the_vendors_own_client_does_as_well(llama_server: Any, transport: None) -> None:
    provider = openai(llama_server.base_url)
    *deltas, reply = await ask(provider)
    assert len(deltas) >= 3
    assert reply.usage.output_tokens > 0
    (routed,) = await ask(provider, ROUTED)
    assert json.loads(routed.message.text)["handoff"] in ("lookup", "reasoning")
    with pytest.raises(OutputInvalid, match="limit of output tokens") as failed:
        await ask(provider, replace(ROUTED, max_output_tokens=3))
    assert failed.value.reply is not None
    assert failed.value.reply.usage.output_tokens == 3
    await provider.close()


@pytest.mark.requirement("providers.usage", "providers.limits")
async def test_an_answer_in_one_piece_keeps_to_its_limit_of_tokens(provider: LangChainProvider) -> None:
    (reply,) = await ask(provider, replace(CALL, streaming=False, max_output_tokens=5))
    assert reply.usage.output_tokens == 5
    assert reply.finish_reason == "length"
    assert reply.message.text
    # Asked again, the server has the prompt in its cache, and says so.
    (again,) = await ask(provider, replace(CALL, streaming=False, max_output_tokens=5))
    assert 0 < again.usage.cached_tokens <= again.usage.input_tokens
    *_, streamed = await ask(provider, replace(CALL, max_output_tokens=5))
    assert (streamed.usage.output_tokens, streamed.finish_reason) == (5, "length")


@pytest.mark.requirement("providers.structured")
async def test_structured_output_fits_the_schema(provider: LangChainProvider) -> None:
    (reply,) = await ask(provider, ROUTED)
    answer = json.loads(reply.message.text)
    assert answer["handoff"] in ("lookup", "reasoning")
    assert isinstance(answer["sure"], bool)
    assert set(answer) == {"handoff", "sure"}
    assert reply.usage.output_tokens > 0


@pytest.mark.requirement("providers.structured")
async def test_structured_output_that_is_cut_off_is_told_with_what_it_cost(
    provider: LangChainProvider,
) -> None:
    with pytest.raises(OutputInvalid, match="limit of output tokens") as failed:
        await ask(provider, replace(ROUTED, max_output_tokens=3))
    assert failed.value.reply is not None
    assert failed.value.reply.usage.output_tokens == 3


async def test_stop_words_and_temperature_reach_the_model(provider: LangChainProvider) -> None:
    call = replace(CALL, streaming=False, temperature=0.0, max_output_tokens=12)
    (whole,) = await ask(provider, call)
    word = whole.message.text.split()[2]
    (stopped,) = await ask(provider, replace(call, stop=(word,)))
    assert stopped.message.text == whole.message.text[: whole.message.text.index(word)]
    assert stopped.finish_reason == "stop"


async def test_tools_may_be_offered_to_a_model_that_does_not_call_them(provider: LangChainProvider) -> None:
    *_, reply = await ask(provider, replace(CALL, tools=(TOOL,)))
    assert isinstance(reply, ModelReply)


@pytest.mark.requirement("providers.leave")
async def test_closing_the_stream_early_ends_the_request_at_the_server(
    provider: LangChainProvider, llama_server: Any
) -> None:
    long = replace(CALL, max_output_tokens=1500, temperature=1.5, messages=(HumanMessage("Count to 1000."),))

    async def busy() -> bool:
        async with httpx.AsyncClient() as client:
            slots = (await client.get(f"{llama_server.url}/slots")).json()
        return any(slot["is_processing"] for slot in slots)

    async with aclosing(provider.stream(long, "smollm2")) as stream:
        assert isinstance(await anext(stream), TokenDelta)
        assert await busy()
    async with asyncio.timeout(2):
        while await busy():  # noqa: ASYNC110 - the server is another process
            await asyncio.sleep(0.02)


@pytest.mark.requirement("providers.errors")
async def test_a_request_that_the_server_refuses_is_refused_for_good(provider: LangChainProvider) -> None:
    with pytest.raises(ProviderRejected, match=r"openai:smollm2: .*context"):
        await ask(provider, replace(CALL, messages=(HumanMessage("x y z " * 3000),)))


class Routed(BaseModel):
    handoff: Literal["lookup"]


@pytest.mark.requirement("providers.fleet")
async def test_a_fleet_answers_with_a_real_model_over_http(llama_server: Any, tmp_path: Path) -> None:
    triage = Agent(
        "triage",
        prompt=inline_prompt("Decide who answers."),
        output=Routed,
        handoffs=["lookup"],
        max_output_tokens=60,
    )
    lookup = Agent("lookup", prompt=inline_prompt("Be brief."), tier="mid", max_output_tokens=12)
    settings = Settings.load(
        home=tmp_path,
        openai_base_url=llama_server.base_url,
        models={"small": "openai:smollm2"},
        prices={"openai:smollm2": {"input": "1", "output": "2"}},
    )
    fleet = Fleet("desk", agents=[triage, lookup], entry="triage")
    async with fleet.local(settings=settings) as local:
        answer = await local.ask("Where is my order?")
        view = await local.conversations.view(local.identity, answer.conversation_id)
    assert answer.agent == "lookup"
    tokens = [event.data["text"] for event in answer.events if event.type == "token"]
    assert len(tokens) >= 3
    assert "".join(tokens) == answer.text
    done = answer.events[-1].data
    assert done["usage"]["output_tokens"] > 0
    assert sorted((line.agent, line.tier, line.model, line.calls) for line in view.usage) == [
        ("lookup", "mid", "openai:smollm2", 1),
        ("triage", "small", "openai:smollm2", 1),
    ]
    assert sum(line.usage.total_tokens for line in view.usage) == done["usage"]["total_tokens"]


# -- servers that misbehave ------------------------------------------------------------------------


@asynccontextmanager
async def server(respond: Callable[[asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """A server that reads a request and then does what the test says; gives its base URL."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(length)
            await respond(writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    finally:
        listening.close()
        for writer in open_ones:
            writer.close()


def answers(status: str, body: bytes, **headers: str) -> Callable[[asyncio.StreamWriter], Any]:
    async def respond(writer: asyncio.StreamWriter) -> None:
        told = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    return respond


def problem(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": "x"}}).encode()


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def piece(delta: dict[str, Any], **values: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None} | values
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


Kinds = [replace(CALL, streaming=True), replace(CALL, streaming=False), replace(CALL, output_schema=SCHEMA)]


@pytest.mark.requirement("providers.errors")
@pytest.mark.parametrize("call", Kinds, ids=["streaming", "whole", "structured"])
@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "retry_after"),
    [
        ("401 Unauthorized", problem("bad key"), {}, ProviderRejected, None),
        ("403 Forbidden", problem("not yours"), {}, ProviderRejected, None),
        ("404 Not Found", problem("no such model"), {}, ProviderRejected, None),
        ("408 Request Timeout", b"", {}, ProviderUnavailable, None),
        ("429 Too Many Requests", problem("slow down"), {"Retry_After": "7"}, RateLimited, 7.0),
        ("429 Too Many Requests", b"", {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, RateLimited, 0.0),
        ("429 Too Many Requests", b"", {"Retry_After": "soon"}, RateLimited, None),
        ("429 Too Many Requests", b"", {"Retry_After_Ms": "250", "Retry_After": "1"}, RateLimited, 0.25),
        ("500 Internal Server Error", b"<html>", {}, ProviderUnavailable, None),
        ("503 Service Unavailable", b"", {"Retry_After": "2"}, ProviderUnavailable, 2.0),
        ("200 OK", b"<html>hello</html>", {"Content_Type": "text/html"}, ProviderUnavailable, None),
        ("200 OK", b"{", {}, ProviderUnavailable, None),
        ("200 OK", b"[]", {}, ProviderUnavailable, None),
        ("200 OK", b"{}", {}, ProviderUnavailable, None),
        ("200 OK", b"", {}, ProviderUnavailable, None),
    ],
)
async def test_what_a_server_answers_becomes_one_of_our_errors(
    transport: None,
    call: ModelCall,
    status: str,
    body: bytes,
    headers: dict[str, str],
    kind: type[AdmiraltyError],
    retry_after: float | None,
) -> None:
    async with server(answers(status, body, **headers)) as url:
        provider = openai(url, timeout=5.0)
        with pytest.raises(AdmiraltyError) as failed:
            await ask(provider, call)
        await provider.close()
    assert type(failed.value) is kind, failed.value
    assert "openai:smollm2" in str(failed.value)
    assert getattr(failed.value, "retry_after", None) == retry_after
    # A status of failure is not billed; an answer that nobody can read may be.
    assert failed.value.details.get("billed") == ("unknown" if status == "200 OK" else None)


@pytest.mark.requirement("providers.errors")
@pytest.mark.parametrize("call", Kinds, ids=["streaming", "whole", "structured"])
async def test_a_server_that_is_not_there_hangs_up_or_says_nothing_is_unavailable(
    transport: None, call: ModelCall, free_port: Callable[[], int]
) -> None:
    async def hangs_up(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")

    async def says_nothing(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    absent = openai(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(ProviderUnavailable, match=r"cannot be reached: .* Is its server running\?") as failed:
        await ask(absent, call)
    assert failed.value.details == {}
    await absent.close()
    for respond, message in ((hangs_up, "openai:smollm2"), (says_nothing, "did not answer in time")):
        async with server(respond) as url:
            provider = openai(url, timeout=0.2)
            with pytest.raises(ProviderUnavailable, match=message) as failed:
                await asyncio.wait_for(ask(provider, call), 5)
            assert failed.value.details == {"billed": "unknown"}
            await provider.close()


@pytest.mark.requirement("providers.errors")
@pytest.mark.parametrize(
    "rest", [b"data: {broken\n\n", sse({"error": {"message": "overloaded", "code": 500}}), b""]
)
async def test_a_stream_that_breaks_in_the_middle_is_unavailable(transport: None, rest: bytes) -> None:
    body = sse(piece({"role": "assistant", "content": "Hello"})) + rest
    length = str(len(body) + (0 if rest else 50))  # promised, and not sent
    async with server(
        answers("200 OK", body, Content_Type="text/event-stream", Content_Length=length)
    ) as url:
        provider = openai(url)
        async with aclosing(provider.stream(CALL, "smollm2")) as stream:
            assert await anext(stream) == TokenDelta(text="Hello")
            with pytest.raises(ProviderUnavailable) as failed:
                await anext(stream)
        assert failed.value.details["billed"] == "unknown"
        await provider.close()


@pytest.mark.requirement("providers.tools")
async def test_streamed_tool_calls_come_whole_and_malformed_ones_can_be_answered(transport: None) -> None:
    def called(index: int, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {
            "tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]
        }

    more = {"tool_calls": [{"index": 0, "function": {"arguments": '"#W1"}'}}]}
    body = sse(
        piece(called(0, "order_status", '{"order_id": ')),
        piece(more),
        piece(called(1, "order_status", '{"order_id": "#W2", "items": ["1"')),
        piece({}, finish_reason="tool_calls"),
    )
    async with server(answers("200 OK", body + b"data: [DONE]\n\n", Content_Type="text/event-stream")) as url:
        provider = openai(url)
        (reply,) = await ask(provider, replace(CALL, tools=(TOOL,)))
        await provider.close()
    good, bad = reply.message.tool_calls
    assert (good["name"], good["args"], good["id"]) == ("order_status", {"order_id": "#W1"}, "call_0")
    assert (bad["name"], bad["args"]) == (
        "order_status",
        {"malformed_arguments": '{"order_id": "#W2", "items": ["1"'},
    )
    assert reply.usage == Usage()  # this server told none
    assert reply.metadata["usage_reported"] is False
    assert reply.finish_reason == "tool_calls"


# -- what was used, and what is left ---------------------------------------------------------------


def told(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return counted | more


@pytest.mark.requirement("providers.usage")
async def test_usage_that_is_repeated_with_every_piece_of_a_stream_is_counted_once(transport: None) -> None:
    body = sse(
        {**piece({"role": "assistant", "content": "Yes"}), "usage": told(90, 1)},
        {**piece({"content": ", sir"}), "usage": told(90, 2)},
        {**piece({}, finish_reason="stop"), "usage": told(90, 2)},
        {**piece({}), "choices": [], "usage": told(90, 3, prompt_tokens_details={"cached_tokens": 64})},
    )
    async with server(answers("200 OK", body + b"data: [DONE]\n\n", Content_Type="text/event-stream")) as url:
        provider = openai(url)
        *_, reply = await ask(provider)
        await provider.close()
    assert reply.message.text == "Yes, sir"
    assert reply.usage == Usage(input_tokens=90, output_tokens=3, cached_tokens=64)
    assert "usage_reported" not in reply.metadata


@pytest.mark.requirement("providers.usage")
@pytest.mark.parametrize("call", Kinds, ids=["streaming", "whole", "structured"])
async def test_every_kind_of_token_that_a_server_tells_is_counted(transport: None, call: ModelCall) -> None:
    usage = told(
        100,
        50,
        prompt_tokens_details={"cached_tokens": 40, "cache_write_tokens": 30, "audio_tokens": 20},
        completion_tokens_details={"reasoning_tokens": 35, "audio_tokens": 5},
    )
    text = '{"handoff": "lookup", "sure": true}'
    if call.streaming and call.output_schema is None:
        pieces = (piece({"content": text}), {**piece({}), "choices": [], "usage": usage})
        respond = answers("200 OK", sse(*pieces) + b"data: [DONE]\n\n", Content_Type="text/event-stream")
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        document = {**piece({}), "object": "chat.completion", "choices": [choice], "usage": usage}
        respond = answers("200 OK", json.dumps(document).encode())
    async with server(respond) as url:
        provider = openai(url)
        *_, reply = await ask(provider, call)
        await provider.close()
    assert reply.usage == Usage(
        input_tokens=100,
        output_tokens=50,
        cached_tokens=40,
        cache_write_tokens=30,
        audio_input_tokens=20,
        reasoning_tokens=35,
        audio_output_tokens=5,
    )
    assert reply.cost is None  # that is the scheduler's to say


@pytest.mark.requirement("providers.rates")
@pytest.mark.parametrize("call", Kinds[:2], ids=["streaming", "whole"])
async def test_what_is_left_of_a_providers_limits_is_handed_on(call: ModelCall) -> None:
    headers = {
        "x_ratelimit_remaining_requests": "59",
        "x_ratelimit_reset_requests": "1s",
        "x_ratelimit_remaining_tokens": "149984",
        "x_ratelimit_reset_tokens": "6m0s",
    }
    limits = {
        "requests_remaining": 59.0,
        "requests_reset_seconds": 1.0,
        "tokens_remaining": 149_984.0,
        "tokens_reset_seconds": 360.0,
    }
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
    document = {**piece({}), "object": "chat.completion", "choices": [choice], "usage": told(9, 9)}
    stream = sse(piece({"content": "Yes."}), {**piece({}), "choices": [], "usage": told(9, 9)})
    respond = (
        answers("200 OK", stream + b"data: [DONE]\n\n", Content_Type="text/event-stream", **headers)
        if call.streaming
        else answers("200 OK", json.dumps(document).encode(), **headers)
    )
    async with server(respond) as url:
        provider = openai(url)
        *_, reply = await ask(provider, call)
        await provider.close()
    assert reply.metadata["rate_limits"] == limits
    async with server(answers("429 Too Many Requests", problem("slow down"), **headers)) as url:
        provider = openai(url)
        with pytest.raises(RateLimited) as failed:
            await ask(provider, call)
        await provider.close()
    assert failed.value.details == {"rate_limits": limits}


@pytest.mark.requirement("providers.limits")
@pytest.mark.parametrize("call", Kinds, ids=["streaming", "whole", "structured"])
async def test_each_call_has_its_own_limit_of_output(
    transport: None, call: ModelCall, llama_server: Any
) -> None:
    provider = openai(llama_server.base_url)
    counted = []
    for limit in (3, 5, 4):
        limited = replace(call, max_output_tokens=limit, temperature=0.0)
        if call.output_schema is None:
            *_, reply = await ask(provider, limited)
        else:
            with pytest.raises(OutputInvalid) as failed:
                await ask(provider, limited)
            reply = failed.value.reply
        counted.append(reply.usage.output_tokens)
    await provider.close()
    assert counted == [3, 5, 4]


# -- definitions -----------------------------------------------------------------------------------


@pytest.mark.requirement("providers.configuration")
async def test_a_vendor_that_cannot_be_used_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for vendor, message in [
        ("openai", "key is set"),
        ("nobody", "Unsupported provider='nobody'"),
        ("groq", "pip install langchain-groq"),
    ]:
        with pytest.raises(ConfigurationError, match=message) as refused:
            await ask(LangChainProvider(vendor, SystemClock()), model="m")
        assert str(refused.value).startswith(f"models = {vendor}:m: ")
        assert "\n" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "langchain_anthropic", None)
    with pytest.raises(ConfigurationError, match="pip install langchain-anthropic"):
        await ask(LangChainProvider("anthropic", SystemClock()), model="m")
