"""No way to a model but the scheduler: neither for our code, nor for LangChain's, nor for a fleet's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import sqlalchemy as sa
from langchain.agents import create_agent
from langchain.agents.middleware import LLMToolSelectorMiddleware, SummarizationMiddleware
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from admiralty.agents import Agent, Fleet
from admiralty.core.settings import Settings
from admiralty.runtime.local import open_local
from admiralty.runtime.storage.tables import ledger
from admiralty.tools import tool
from benchmarks.harness import MockProvider

VENDORS = frozenset(
    {
        "anthropic", "cohere", "google", "groq", "langchain_anthropic", "langchain_aws", "langchain_cohere",
        "langchain_community", "langchain_google_genai", "langchain_google_vertexai", "langchain_groq",
        "langchain_mistralai", "langchain_openai", "litellm", "mistralai", "openai",
    }
)  # fmt: skip
CODE = ("core", "tools", "memory", "agents", "runtime", "evals", "fleets")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.requirement("only_way.imports")
def test_only_the_schedulers_composition_builds_providers_and_only_they_know_vendors(root: Path) -> None:
    vendors: set[str] = set()
    builders: set[str] = set()
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.py")):
            place = path.relative_to(root).as_posix()
            if place.startswith("runtime/providers/"):
                continue
            for name in imports(path):
                if name.partition(".")[0] in VENDORS or name.startswith("langchain.chat_models"):
                    vendors.add(place)
                if name.startswith("admiralty.runtime.providers"):
                    builders.add(place)
    assert vendors == set()
    assert builders == {"runtime/composition/scheduler.py"}


class Routed(BaseModel):
    """Who answers."""

    handoff: Literal["clerk"]


class Verdict(BaseModel):
    """Whether it is allowed."""

    allowed: bool


@tool(effect="read")
def order_status(order_id: str) -> str:
    """Return where an order is.

    Args:
        order_id: The order's number.
    """
    return f"{order_id} is shipped"


def summarizing(context: Any) -> Any:
    """LangChain's agent; its middleware asks the model by itself."""
    return create_agent(
        context.model,
        context.tools,
        middleware=[
            SummarizationMiddleware(context.model, trigger=("messages", 2), keep=("messages", 1)),
            LLMToolSelectorMiddleware(model=context.model, max_tools=1),
        ],
    )


def own(context: Any) -> Any:
    """A graph that asks in every way that LangChain has."""

    async def asynchronously(state: MessagesState) -> dict[str, Any]:
        model, messages = context.model, state["messages"]
        await model.abatch([messages, messages])
        pieces = [piece async for piece in model.astream(messages)]
        await model.with_structured_output(Verdict).ainvoke(messages)
        await model.with_retry().ainvoke(messages)
        return {"messages": [AIMessage("".join(str(piece.text) for piece in pieces))]}

    def synchronously(state: MessagesState) -> dict[str, Any]:
        return {"messages": [context.model.bind(temperature=0).invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("asynchronously", asynchronously)
    builder.add_node("synchronously", synchronously)
    builder.add_edge(START, "asynchronously")
    builder.add_edge("asynchronously", "synchronously")
    builder.add_edge("synchronously", END)
    return builder.compile()


def fleet() -> Fleet:
    agents = [
        Agent("triage", prompt="Decide. ROUTE:clerk", output=Routed, handoffs=["clerk"]),
        Agent("clerk", prompt="Answer from the tool.", tools=[order_status], handoffs=["writer", "owner"]),
        Agent("writer", prompt="Write.", tools=[order_status], graph=summarizing),
        Agent("owner", prompt="Do it.", graph=own),
    ]
    return Fleet("desk", agents=agents, entry="triage")


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    """An OpenAI-compatible server in a process of its own, which counts what it is asked."""
    started = MockProvider()
    started.control(delay_ms=0.0, chunk_delay_ms=0.0, error_rate=0.0, cut_rate=0.0)
    yield started
    started.group.stop()


@pytest.mark.requirement("only_way.counted")
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("agent", ["triage", "writer", "owner"])
async def test_a_provider_is_asked_exactly_what_the_ledger_says(
    provider: MockProvider, tmp_path: Path, agent: str, streaming: bool
) -> None:
    settings = Settings.load(
        home=tmp_path,
        embedder="hashing",
        openai_base_url=provider.url,
        openai_api_key="any",
        models={"small": "openai:mock"},
        prices={"openai:mock": {"input": "1", "output": "2"}},
    )
    server = f"http://127.0.0.1:{provider.port}"
    async with httpx.AsyncClient(base_url=server) as client:
        await client.post("/reset")
    async with open_local(fleet(), settings=settings) as local:
        conversation = await local.conversations.create(local.identity)
        events = []
        for said in ("Where is my order #W1?", "And #W2?", "Thanks."):
            live = await local.conversations.say(
                local.identity, conversation.id, said, agent=agent, streaming=streaming
            )
            events += [event async for event in live.follow()]
        assert [event.data for event in events if event.type == "error"] == []
        rows = await local.database.read(
            lambda connection: connection.execute(sa.select(ledger)).mappings().all()
        )
        seen = await local.conversations.view(local.identity, conversation.id)
    async with httpx.AsyncClient(base_url=server) as client:
        asked = (await client.get("/stats")).json()
    assert asked["requests"] == asked["answered"] == len(rows)
    assert asked["requests"] >= (15 if agent == "owner" else 6)
    assert asked["prompt_tokens"] == sum(row["input_tokens"] for row in rows)
    assert asked["completion_tokens"] == sum(row["output_tokens"] for row in rows)
    assert {row["model"] for row in rows} == {"openai:mock"}
    assert {(row["conversation_id"], row["status"]) for row in rows} == {(conversation.id, "ok")}
    told = [event for event in events if event.type == "cost"]
    assert len(told) == len(rows) == sum(line.calls for line in seen.usage)
