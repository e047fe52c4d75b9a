"""CPU time that one model call costs in the calling process, by the client library used.

    python -m benchmarks.client_cost [--calls 200] [--rounds 3] [--tokens 13] [--json FILE]

One call after the other against the mock provider: the same messages (system, user) and one tool each time,
but `tool_choice: none`, so that every answer is a text. What differs is how the request is made and how the
answer is read. The structured calls ask for triage's decision instead.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from admiralty.runtime.providers.openai_transport import HttpSessions, open_light
from benchmarks.harness import MockProvider, machine
from benchmarks.systems import desk
from benchmarks.systems.bare import ORDER_TOOL, TRIAGE_FORMAT

MESSAGES = [{"role": "system", "content": desk.LOOKUP_PROMPT}, {"role": "user", "content": desk.QUESTIONS[0]}]
TRIAGE_MESSAGES = [{**MESSAGES[0], "content": desk.TRIAGE_PROMPT}, MESSAGES[1]]
BODY: dict[str, Any] = {"model": "mock", "messages": MESSAGES, "tools": [ORDER_TOOL], "tool_choice": "none"}
STREAMED = {**BODY, "stream": True, "stream_options": {"include_usage": True}}

Way = Callable[[], Awaitable[str]]
"""Makes one call and returns the answer's text."""


async def build_ways(stack: AsyncExitStack, url: str) -> dict[str, Way]:
    """Each way to make the call, by name."""
    path = f"{url}/chat/completions"
    http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    openai = await stack.enter_async_context(AsyncOpenAI(base_url=url, api_key="unused", max_retries=0))

    async def httpx_whole() -> str:
        response = await http.post(path, json=BODY)
        return _content(response.json())

    async def httpx_structured() -> str:
        body = {"model": "mock", "messages": TRIAGE_MESSAGES, "response_format": TRIAGE_FORMAT}
        response = await http.post(path, json=body)
        return desk.Triage.model_validate_json(_content(response.json())).handoff

    async def httpx_stream() -> str:
        async with http.stream("POST", path, json=STREAMED) as response:
            return "".join([_delta(line) async for line in response.aiter_lines()])

    async def aiohttp_whole() -> str:
        async with session.post(path, json=BODY) as response:
            return _content(await response.json())

    async def aiohttp_stream() -> str:
        async with session.post(path, json=STREAMED) as response:
            return "".join([_delta(line.decode()) async for line in response.content])

    async def openai_whole() -> str:
        answer = await openai.chat.completions.create(**BODY)
        return str(answer.choices[0].message.content)

    async def openai_post() -> str:
        answer = await openai.post("/chat/completions", body=BODY, cast_to=ChatCompletion)
        return str(answer.choices[0].message.content)

    async def openai_stream() -> str:
        chunks = await openai.chat.completions.create(**STREAMED)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    return {
        "httpx.post": httpx_whole,
        "aiohttp.post": aiohttp_whole,
        "openai create": openai_whole,
        "openai post (no transform)": openai_post,
        **_langchain_ways(url),
        **await _light_ways(url, stack),
        "httpx.post, structured": httpx_structured,
        "httpx.stream": httpx_stream,
        "aiohttp stream": aiohttp_stream,
        "openai create(stream)": openai_stream,
    }


def _model(url: str) -> ChatOpenAI:
    return ChatOpenAI(
        model="mock",
        base_url=url,
        api_key=SecretStr("unused"),
        max_retries=0,
        stream_usage=True,
        timeout=30,
    )


async def _light_ways(url: str, stack: AsyncExitStack) -> dict[str, Way]:
    """The same model over Admiralty's transport."""
    sessions = HttpSessions()
    stack.push_async_callback(sessions.close)
    chat = await open_light(_model(url), sessions)
    if chat is None:
        raise RuntimeError("this version of langchain-openai does not take the light transport")
    bound = chat.bind({"tools": [ORDER_TOOL], "tool_choice": "none"})
    deciding = chat.bind({"response_format": TRIAGE_FORMAT})
    assert bound is not None
    assert deciding is not None
    messages: list[BaseMessage] = [SystemMessage(desk.LOOKUP_PROMPT), HumanMessage(desk.QUESTIONS[0])]
    question: list[BaseMessage] = [SystemMessage(desk.TRIAGE_PROMPT), messages[1]]

    async def whole() -> str:
        return str((await bound.ainvoke(messages)).text)

    async def structured() -> str:
        answer = await deciding.ainvoke(question)
        return desk.Triage.model_validate_json(str(answer.text)).handoff

    async def stream() -> str:
        return "".join([str(chunk.text) async for chunk in bound.astream(messages)])

    return {
        "light transport": whole,
        "light transport, structured": structured,
        "light transport, stream": stream,
    }


def _langchain_ways(url: str) -> dict[str, Way]:
    model = _model(url)
    messages: list[BaseMessage] = [SystemMessage(desk.LOOKUP_PROMPT), HumanMessage(desk.QUESTIONS[0])]
    question: list[BaseMessage] = [SystemMessage(desk.TRIAGE_PROMPT), messages[1]]
    options: dict[str, Any] = {"tools": [ORDER_TOOL], "tool_choice": "none"}
    bound = model.bind_tools([ORDER_TOOL], tool_choice="none")
    deciding = model.with_structured_output(desk.Triage.model_json_schema(), method="json_schema")

    async def whole() -> str:
        return str((await bound.ainvoke(messages)).text)

    async def structured() -> str:
        return desk.Triage.model_validate(await deciding.ainvoke(question)).handoff

    async def generate() -> str:
        result = await model._agenerate(messages, **options)
        return str(result.generations[0].message.text)

    async def generate_structured() -> str:
        result = await model._agenerate(question, response_format=TRIAGE_FORMAT)
        return desk.Triage.model_validate_json(str(result.generations[0].message.text)).handoff

    async def stream() -> str:
        return "".join([str(chunk.text) async for chunk in bound.astream(messages)])

    async def inner_stream() -> str:
        return "".join([str(chunk.message.text) async for chunk in model._astream(messages, **options)])

    return {
        "ChatOpenAI.ainvoke": whole,
        "ChatOpenAI._agenerate": generate,
        "ChatOpenAI.ainvoke, structured": structured,
        "ChatOpenAI._agenerate, structured": generate_structured,
        "ChatOpenAI.astream": stream,
        "ChatOpenAI._astream": inner_stream,
    }


async def measure(ways: dict[str, Way], *, calls: int, rounds: int) -> dict[str, dict[str, float]]:
    """CPU and wall milliseconds of one call, medians over the rounds, in which the ways take turns."""
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    texts = await next(iter(ways.values()))()
    for name, way in ways.items():
        for _ in range(20):
            if (got := await way()) not in (texts, "lookup"):
                raise RuntimeError(f"{name} answered {got[:80]!r} instead of {texts[:80]!r}")
    for _ in range(rounds):
        for name, way in ways.items():
            cpu_begin, begin = time.process_time(), time.perf_counter()
            for _ in range(calls):
                await way()
            cpu[name].append((time.process_time() - cpu_begin) / calls * 1000)
            wall[name].append((time.perf_counter() - begin) / calls * 1000)
    return {
        name: {"cpu_ms": statistics.median(cpu[name]), "wall_ms": statistics.median(wall[name])}
        for name in ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=200, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=13, help="words of the answer, one chunk each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    provider = MockProvider()
    try:
        provider.control(answer_tokens=options.tokens)

        async def body() -> dict[str, dict[str, float]]:
            async with AsyncExitStack() as stack:
                ways = await build_ways(stack, provider.url)
                return await measure(ways, calls=options.calls, rounds=options.rounds)

        costs = asyncio.run(body())
    finally:
        provider.group.stop()
    table = Table(title=f"One model call, {options.tokens} tokens", title_justify="left")
    for heading in ("client", "CPU ms", "wall ms"):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    for name, cost in costs.items():
        table.add_row(name, f"{cost['cpu_ms']:.2f}", f"{cost['wall_ms']:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "costs": costs}, indent=1) + "\n")


def _content(document: dict[str, Any]) -> str:
    return str(document["choices"][0]["message"]["content"])


def _delta(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line[6:])["choices"]
    return choices[0]["delta"].get("content") or "" if choices else ""


if __name__ == "__main__":
    main()
