"""A small fleet behind the real API: everything is real but the model."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from admiralty.agents import Agent, Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.errors import BudgetExceeded, ProviderUnavailable, RateLimited
from admiralty.core.money import Nanos, to_dollars
from admiralty.core.ports import AnswerStream
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.api import ApiParts, create_app
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.figures import Figures
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.local import open_local
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.runtime.storage.keys import ApiKeys
from admiralty.tools import tool

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}

COST = Nanos(1_250)
"""Of each model call."""

SHORT = {
    "budget_id": "budget_1",
    "scope": "tenant:first",
    "window": "day",
    "limit_usd": "1",
    "spent_usd": "0.9",
    "held_usd": "0.1",
    "needed_usd": "0.05",
    "resets_at": None,
}
"""What is told of a budget that is spent."""


@tool(effect="read")
def order_status(order_id: str) -> dict[str, str]:
    """Return where an order is.

    Args:
        order_id: The order's number.
    """
    return {"order_id": order_id, "status": "shipped"}


def small_fleet() -> Fleet:
    """A front desk that answers or hands over to a clerk, who has a tool."""
    front = Agent(
        "front", prompt="Greet; hand over orders.", description="The front desk", handoffs=["clerk"]
    )
    clerk = Agent(
        "clerk", prompt="Look orders up.", description="Knows the orders", tier="mid", tools=[order_status]
    )
    return Fleet("desk", agents=[front, clerk], entry="front", description="A small desk")


@dataclass
class ScriptedProvider:
    """Answers by what the user said: ``wait`` holds until ``gate`` opens, ``fail`` fails."""

    name: str = "scripted"
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[ModelCall] = field(default_factory=list)

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        self.asked.append(call)
        said = [str(message.text) for message in call.messages if isinstance(message, HumanMessage)][-1]
        if said == "fail":
            raise RateLimited("The provider wants a pause.", retry_after=2.5)
        if said == "broke" or (said == "broke order" and call.messages[-1].name == "order_status"):
            raise BudgetExceeded("The budget of tenant:first is spent.", **SHORT)
        if said == "broken":  # half of a surrogate pair: no database, no UTF-8
            yield self._reply(model, AIMessage("x\ud800"))
            return
        if "order" in said:
            yield self._reply(model, self._about_order(call))
            return
        text = said[5:] if said.startswith("echo ") else f"You said: {said}"
        for word in text.splitlines(keepends=True):
            yield TokenDelta(text=word)
            if said.startswith("wait"):
                self.waiting.set()
                try:
                    await self.gate.wait()
                except (asyncio.CancelledError, GeneratorExit):
                    self.left.set()
                    raise
            if said == "fail late":
                raise ProviderUnavailable("The provider went away.", retry_after=1.0)
        yield self._reply(model, AIMessage(text))

    def _about_order(self, call: ModelCall) -> AIMessage:
        last = call.messages[-1]
        if call.caller.agent == "front":
            arguments = {"reason": "an order"}
            return _call_of("handoff_to_clerk", arguments)
        if isinstance(last, ToolMessage) and last.name == "order_status":
            return AIMessage("It is shipped.")
        return _call_of("order_status", {"order_id": "W1"})

    def _reply(self, model: str, message: AIMessage) -> ModelReply:
        return ModelReply(
            message=message,
            model=f"scripted:{model}",
            tier="small",  # the scheduler knows better
            usage=Usage(input_tokens=10, output_tokens=3),
            cost=None,
            seconds=0.01,
            metadata={"method": "scripted"},
        )


def _call_of(name: str, arguments: dict[str, Any]) -> AIMessage:
    return AIMessage(
        "", tool_calls=[{"name": name, "args": arguments, "id": f"call-{name}", "type": "tool_call"}]
    )


@dataclass(frozen=True, kw_only=True)
class Api:
    """A served app, and what a test needs to look behind it."""

    app: FastAPI
    parts: ApiParts
    url: str
    key: str
    keys: ApiKeys
    conversations: Conversations
    provider: ScriptedProvider

    def client(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client with a key, by default the first tenant's."""
        headers = {"Authorization": f"Bearer {key or self.key}", **options.pop("headers", {})}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, **options)


@asynccontextmanager
async def opened_app(
    home: Path, *, fleet: Fleet | None = None, provider: ScriptedProvider | None = None, **settings: Any
) -> AsyncIterator[tuple[FastAPI, Api]]:
    """Open an app over ``home``, without a server, with a new key."""
    scripted = provider or ScriptedProvider()
    given = Settings.load(
        home=home,
        embedder="hashing",
        models=dict.fromkeys(TIERS, "scripted:one"),
        prices={"scripted:*": {"input": "0", "output": "0", "request": str(to_dollars(COST))}},
        max_attempts=1,  # a script says what happens once
        **{"on_disconnect": "estimate"} | settings,
    )
    async with open_local(fleet or small_fleet(), settings=given, providers=by_account([scripted])) as local:
        keys = ApiKeys(local.database)
        secret, _ = await keys.create(tenant="first")
        parts = ApiParts(
            conversations=local.conversations,
            keys=keys,
            reports=Reports(local.database),
            budgets=Budgets(local.database),
            figures=Figures(local.database, SystemClock()),
            effects=EffectBook(local.database, SystemClock()),
            approvals=ApprovalStore(local.database),
            state=local.store,
            settings=given,
            version="9.9.9",
            process="test",
            keep_alive=0.2,
        )
        app = create_app(parts)
        yield (
            app,
            Api(
                app=app,
                parts=parts,
                url="http://app",
                key=secret,
                keys=keys,
                conversations=local.conversations,
                provider=scripted,
            ),
        )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def served(app: FastAPI, port: int) -> AsyncIterator[str]:
    """Serve an app with uvicorn on loopback; its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    try:
        await asyncio.wait_for(server.up.wait(), 10)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await asyncio.wait_for(task, 10)


OpenApi = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def open_api(free_port: Callable[[], int], tmp_path: Path) -> OpenApi:
    """Opens and serves an app; over the same home again, if called again."""

    @asynccontextmanager
    async def open_one(**options: Any) -> AsyncIterator[Api]:
        async with (
            opened_app(tmp_path / "home", **options) as (app, api),
            served(app, free_port()) as url,
        ):
            yield replace(api, url=url)

    return open_one


@pytest.fixture
async def api(open_api: OpenApi) -> AsyncIterator[Api]:
    """The app, served."""
    async with open_api() as api:
        yield api


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A server-sent event as a client reads it."""

    event: str | None
    data: str
    id: str | None = None


def read_events(text: str) -> list[Sent]:
    """Return the events of a stream; comments are skipped, as by any reader."""
    events = []
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        if "data" in fields:
            events.append(Sent(event=fields.get("event"), data=fields["data"], id=fields.get("id")))
    return events


def check_problem(answer: httpx.Response, status: int) -> None:
    """Assert that an answer is a proper refusal with this status, in the shape of its route."""
    assert answer.status_code == status, answer.text
    document = answer.json()
    if answer.request.url.path in (CHAT, "/v1/models"):
        assert answer.headers["content-type"] == "application/json"
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert document["error"]["message"]
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "code"} <= set(document)
        assert document["status"] == status


def texts(messages: Sequence[BaseMessage]) -> list[str]:
    """Return what was said."""
    return [str(message.text) for message in messages]
