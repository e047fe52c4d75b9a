"""The mock provider through real HTTP, by the official client where it has a door for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from openai import APIConnectionError, AsyncOpenAI, InternalServerError, RateLimitError
from openai.types.chat import ChatCompletionChunk

from benchmarks.harness import MockProvider
from benchmarks.systems import desk
from benchmarks.systems.bare import ORDER_TOOL, TRIAGE_FORMAT

pytestmark = pytest.mark.requirement("benchmarks.mock")

USER = {"role": "user", "content": "Where is my order?"}
CALM = {
    "delay_ms": 0.0,
    "chunk_delay_ms": 0.0,
    "error_rate": 0.0,
    "cut_rate": 0.0,
    "answer_tokens": 13,
    "prompt_tokens": 0,
    "usage_factor": 1.0,
}


@pytest.fixture(scope="module")
def process() -> Iterator[MockProvider]:
    provider = MockProvider()
    yield provider
    provider.group.stop()


@pytest.fixture
def mock(process: MockProvider) -> MockProvider:
    process.control(**CALM)
    httpx.post(f"http://127.0.0.1:{process.port}/reset")
    return process


@pytest.fixture
async def client(mock: MockProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mock.url, api_key="unused", max_retries=0, timeout=10) as client:
        yield client


async def ask(client: AsyncOpenAI, *messages: dict[str, Any], **options: Any) -> Any:
    asked: Any = list(messages) or [USER]
    return await client.chat.completions.create(model="mock", messages=asked, **options)


async def test_structured_output_fits_the_schema_and_takes_the_route_of_the_prompt(
    client: AsyncOpenAI,
) -> None:
    for route in ("lookup", "reasoning"):
        system = {"role": "system", "content": f"Decide. ROUTE:{route}"}
        answer = await ask(client, system, USER, response_format=TRIAGE_FORMAT)
        assert desk.Triage.model_validate_json(answer.choices[0].message.content).handoff == route


async def test_a_tool_turn_is_a_tool_call_and_then_a_text(client: AsyncOpenAI) -> None:
    asked = (await ask(client, USER, tools=[ORDER_TOOL])).choices[0]
    call = asked.message.tool_calls[0]
    assert (asked.finish_reason, call.function.name) == ("tool_calls", "get_order")
    assert call.function.arguments == '{"order_id": "x"}'
    result = {"role": "tool", "tool_call_id": call.id, "content": "shipped"}
    told = (
        await ask(client, USER, asked.message.model_dump(exclude_none=True), result, tools=[ORDER_TOOL])
    ).choices[0]
    assert told.message.content.startswith("Your order")
    assert told.finish_reason == "stop"


async def test_a_stream_says_the_same_as_the_whole_answer_and_ends_with_its_usage(
    client: AsyncOpenAI,
) -> None:
    whole = await ask(client)
    stream = await ask(client, stream=True, stream_options={"include_usage": True})
    chunks: list[ChatCompletionChunk] = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 13


async def test_max_tokens_cuts_the_answer_and_the_bill(client: AsyncOpenAI) -> None:
    answer = await ask(client, max_tokens=4, extra_headers={"x-mock-tokens": "50"})
    assert answer.usage.completion_tokens == len(answer.choices[0].message.content.split()) == 4
    assert answer.choices[0].finish_reason == "length"


async def test_injected_errors_come_at_the_rate_that_was_set_and_are_counted(
    client: AsyncOpenAI, mock: MockProvider
) -> None:
    mock.control(error_rate=0.5, error_status=429)
    refused = 0
    for _ in range(40):
        try:
            await ask(client)
        except RateLimitError:
            refused += 1
    stats = mock.stats()
    assert 8 <= refused <= 32
    assert (stats["requests"], stats["errors"], stats["answered"]) == (40, refused, 40 - refused)


async def test_a_cut_connection_reaches_the_client_as_a_connection_error(
    client: AsyncOpenAI, mock: MockProvider
) -> None:
    mock.control(cut_rate=1)
    with pytest.raises(APIConnectionError):
        await ask(client)
    stream = await ask(client, stream=True)
    with pytest.raises(APIConnectionError):
        _ = [chunk async for chunk in stream]
    assert mock.stats()["cut"] == 2


async def test_a_client_that_leaves_is_counted_and_billed(client: AsyncOpenAI, mock: MockProvider) -> None:
    mock.control(chunk_delay_ms=20)
    stream = await ask(client, stream=True)
    async for _ in stream:
        break
    await stream.close()
    for _ in range(1000):  # each look is a request: far more than the mock needs to notice
        if mock.stats()["disconnects"]:
            break
    stats = mock.stats()
    assert (stats["in_flight"], stats["answered"], stats["completion_tokens"]) == (0, 0, 13)


async def test_delayed_requests_are_in_flight_together(client: AsyncOpenAI, mock: MockProvider) -> None:
    mock.control(delay_ms=200)
    await asyncio.gather(*(ask(client) for _ in range(8)))
    assert mock.stats()["max_in_flight"] == 8


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b'{"messages": []}', b'{"messages": [3], "tools": [{}]}']
)
def test_a_wrong_request_is_answered_with_400_and_counted(mock: MockProvider, body: bytes) -> None:
    response = httpx.post(f"{mock.url}/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert mock.stats()["rejected"] == 1


def test_an_unknown_setting_is_refused_by_name(mock: MockProvider) -> None:
    response = httpx.post(f"http://127.0.0.1:{mock.port}/control", json={"latency": 3})
    assert response.status_code == 400
    assert "latency" in response.json()["error"]["message"]


async def test_usage_is_as_it_was_set_and_kept_for_every_marked_call(
    client: AsyncOpenAI, mock: MockProvider
) -> None:
    mock.control(prompt_tokens=100, usage_factor=4)
    told = (await ask(client, {"role": "user", "content": "MARK:one"}, max_tokens=5)).usage
    assert (told.prompt_tokens, told.completion_tokens) == (400, 20)
    for _ in range(2):
        await ask(client, {"role": "user", "content": "MARK:two"}, max_tokens=5)
    mock.control(error_rate=1, error_status=500)
    with pytest.raises(InternalServerError):
        await ask(client, {"role": "user", "content": "MARK:two"})
    assert mock.bills() == {
        "one": {"asked": 1, "billed": 1, "prompt_tokens": 400, "completion_tokens": 20},
        "two": {"asked": 3, "billed": 2, "prompt_tokens": 800, "completion_tokens": 40},
    }
    assert mock.stats()["prompt_tokens"] == 1200
