"""From settings to answers: several accounts at a real HTTP server, stand-ins, two schedulers, one Redis."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admiralty.agents import Agent, Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.errors import ConfigurationError, RateLimited
from admiralty.core.settings import Settings
from admiralty.runtime.composition.memory import build_memory
from admiralty.runtime.composition.rates import build_limiter, limits_of
from admiralty.runtime.composition.scheduler import build_scheduler
from admiralty.runtime.scheduler import LocalScheduler
from admiralty.runtime.storage import Database

from ..conftest import RedisServer, require
from .conftest import CALL

FLEET = Fleet("f", agents=[Agent("a", prompt="Answer.")], entry="a")

Answer = tuple[int, dict[str, str]]
"""HTTP status and headers."""


class Server:
    """An OpenAI-compatible server that answers each key as the test says, and counts."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        """Requests by key and model."""
        self.answers: dict[str, Answer] = {}
        self.base_url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        asked = json.loads(await reader.readexactly(int(headers["content-length"])))
        key = headers["authorization"].removeprefix("Bearer ")
        self.asked[key, asked["model"]] += 1
        status, told = self.answers.get(key, (200, {}))
        message = {"role": "assistant", "content": "Yes."}
        body = {
            "id": "x", "object": "chat.completion", "created": 0, "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
        }  # fmt: skip
        data = json.dumps(body if status == 200 else {"error": {"message": "no"}}).encode()
        told = {"content-type": "application/json", "content-length": str(len(data)), **told}
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{head}connection: close\r\n\r\n".encode() + data)
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    require("langchain_openai")
    made = Server()
    listening = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    yield made
    listening.close()


Open = Callable[..., Any]


@pytest.fixture
async def opened(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    monkeypatch.setenv("ADMIRALTY_EMBEDDER", "hashing")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with AsyncExitStack() as stack:

        async def build(**values: Any) -> LocalScheduler:
            settings = Settings.load(
                home=tmp_path,
                models={"small": "openai:m"},
                openai_base_url=server.base_url,
                prices={"openai:*": {"input": "0", "output": "0"}},
                **values,
            )
            database = await asyncio.to_thread(Database.of, settings)
            stack.push_async_callback(database.close)
            scheduler = build_scheduler(settings, FLEET, await build_memory(settings, FLEET), database)
            await scheduler.start()
            stack.push_async_callback(scheduler.close)
            return scheduler

        yield build


def call(number: int) -> Any:
    return replace(CALL, id=f"call_{number}", tier="small", streaming=False)


@pytest.mark.requirement("rates.keys", "rates.headers")
async def test_each_account_is_asked_with_its_key_and_a_busy_one_is_left_alone(
    opened: Open, server: Server
) -> None:
    keys = [{"name": name, "api_key": f"sk-{name}"} for name in "ab"]
    scheduler = await opened(provider_keys={"openai": keys})
    await asyncio.gather(*(scheduler.complete(call(n)) for n in range(6)))
    assert server.asked == {("sk-a", "m"): 3, ("sk-b", "m"): 3}
    server.answers["sk-a"] = (429, {"retry-after": "30"})
    for n in range(6, 12):
        assert (await scheduler.complete(call(n))).message.text == "Yes."
    assert server.asked == {("sk-a", "m"): 4, ("sk-b", "m"): 9}


@pytest.mark.requirement("rates.keys")
async def test_the_single_key_of_a_provider_can_be_given_limits(opened: Open, server: Server) -> None:
    scheduler = await opened(
        openai_api_key="sk-one",
        provider_keys={"openai": [{"requests_per_minute": 2}]},
        rate_max_wait_seconds=5,
    )
    results = await asyncio.gather(*(scheduler.complete(call(n)) for n in range(5)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, RateLimited)]
    assert server.asked == {("sk-one", "m"): 2}
    assert len(refused) == 3
    assert all(error.retry_after and error.retry_after >= 29 for error in refused)


@pytest.mark.requirement("route.fallback")
async def test_a_model_that_fails_is_stood_in_for_as_settings_say(opened: Open, server: Server) -> None:
    server.answers["sk-one"] = (500, {})
    other = {"anthropic:x": ["openai:m"], "openai:m": ["extractive:desk", "openai:m"]}
    scheduler = await opened(openai_api_key="sk-one", fallbacks=other, retry_seconds=0.01)
    answer = await scheduler.complete(call(1))
    assert answer.model == "extractive:desk"
    assert server.asked == {("sk-one", "m"): 2}


@pytest.mark.requirement("rates.limit")
async def test_two_schedulers_share_an_accounts_limit_in_redis(
    opened: Open, server: Server, redis_server: RedisServer
) -> None:
    require("redis")
    from redis import Redis

    with Redis.from_url(redis_server.url) as client:  # as if it had been there for long
        client.hset("ours:{rates}:clock", mapping={"at": SystemClock().now(), "service": 1000})
    values: dict[str, Any] = {
        "openai_api_key": "sk-one",
        "provider_keys": {"openai": [{"requests_per_minute": 5}]},
        "rate_max_wait_seconds": 2,
        "scheduler_replicas": 2,
        "redis_url": redis_server.url,
        "redis_namespace": "ours",
    }
    one, two = await opened(**values), await opened(**values)
    results = await asyncio.gather(
        *((one if n % 2 else two).complete(call(n)) for n in range(12)), return_exceptions=True
    )
    assert server.asked == {("sk-one", "m"): 5}
    assert sum(isinstance(result, RateLimited) for result in results) == 7


async def test_without_rediss_client_several_schedulers_are_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings.load(scheduler_replicas=2, redis_url="redis://127.0.0.1:1")
    monkeypatch.setattr("admiralty.runtime.composition.rates.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"admiralty\[redis\]"):
        build_limiter(settings, limits_of(settings), SystemClock())
