"""The three agents as one LangGraph graph in FastAPI, in one plain process with the memory saver.

    python -m benchmarks.systems.plain_langgraph --port 9202 --provider http://127.0.0.1:9100/v1

`POST /turn` answers whole (`ainvoke`); `POST /stream` sends each token as a server-sent event (`astream`).
"""

import argparse
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, SecretStr

from benchmarks.systems import desk


class State(MessagesState):
    handoff: str


class Turn(BaseModel):
    conversation: str
    message: str


class Answer(BaseModel):
    answer: str


def build_graph(provider: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build triage -> lookup with its tool, or reasoning, answered by the provider at this base URL."""
    model = ChatOpenAI(
        model="mock",
        base_url=provider,
        api_key=SecretStr("unused"),
        max_retries=0,
        stream_usage=True,
        timeout=30,
    )
    order_tool = tool(desk.get_order, parse_docstring=True)
    deciding = model.with_structured_output(desk.Triage, method="json_schema")
    looking = model.bind_tools([order_tool])

    async def triage(state: State) -> dict[str, Any]:
        decided = await deciding.ainvoke([SystemMessage(desk.TRIAGE_PROMPT), *state["messages"]])
        return {"handoff": desk.Triage.model_validate(decided).handoff}

    async def lookup(state: State) -> dict[str, Any]:
        return {"messages": await looking.ainvoke([SystemMessage(desk.LOOKUP_PROMPT), *state["messages"]])}

    async def reasoning(state: State) -> dict[str, Any]:
        return {"messages": await model.ainvoke([SystemMessage(desk.REASONING_PROMPT), *state["messages"]])}

    graph = StateGraph(State)
    graph.add_node("triage", triage)
    graph.add_node("lookup", lookup)
    graph.add_node("reasoning", reasoning)
    graph.add_node("tools", ToolNode([order_tool]))
    graph.add_edge(START, "triage")
    graph.add_conditional_edges("triage", lambda state: state["handoff"], ["lookup", "reasoning"])
    graph.add_conditional_edges("lookup", tools_condition)
    graph.add_edge("tools", "lookup")
    graph.add_edge("reasoning", END)
    return graph.compile(checkpointer=InMemorySaver())


def create_app(provider: str) -> FastAPI:
    """Build the application around one compiled graph."""
    app = FastAPI()
    graph = build_graph(provider)

    @app.post("/turn")
    async def turn(turn: Turn) -> Answer:
        state = await graph.ainvoke({"messages": [HumanMessage(turn.message)]}, _config(turn))
        return Answer(answer=state["messages"][-1].text)

    @app.post("/stream")
    async def stream(turn: Turn) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            given = {"messages": [HumanMessage(turn.message)]}
            async for item in graph.astream(given, _config(turn), stream_mode="messages"):
                chunk, origin = cast("tuple[Any, dict[str, Any]]", item)
                if isinstance(chunk, AIMessageChunk) and chunk.text and origin["langgraph_node"] != "triage":
                    yield f"data: {json.dumps({'token': chunk.text})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def _config(turn: Turn) -> RunnableConfig:
    return {"configurable": {"thread_id": turn.conversation}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--provider", required=True)
    options = parser.parse_args()
    uvicorn.run(create_app(options.provider), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
