"""The floor: the three calls of a turn by a shared HTTP client in bare FastAPI; no graph, no memory.

python -m benchmarks.systems.bare --port 9201 --provider http://127.0.0.1:9100/v1
"""

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.systems import desk

TRIAGE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "Triage", "schema": desk.Triage.model_json_schema()},
}
ORDER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Read an order.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "description": "The order's number."}},
            "required": ["order_id"],
        },
    },
}


class Turn(BaseModel):
    conversation: str
    message: str


class Answer(BaseModel):
    answer: str


def create_app(provider: str) -> FastAPI:
    """Build the application that answers by the OpenAI-compatible provider at this base URL."""
    http = httpx.AsyncClient(base_url=provider, limits=httpx.Limits(max_connections=256), timeout=30)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with http:
            yield

    app = FastAPI(lifespan=lifespan)

    async def chat(system: str, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        body = {"model": "mock", "messages": [{"role": "system", "content": system}, *messages], **options}
        response = await http.post("/chat/completions", json=body)
        response.raise_for_status()
        message: dict[str, Any] = response.json()["choices"][0]["message"]
        return message

    @app.post("/turn")
    async def turn(turn: Turn) -> Answer:
        messages: list[dict[str, Any]] = [{"role": "user", "content": turn.message}]
        decided = await chat(desk.TRIAGE_PROMPT, messages, response_format=TRIAGE_FORMAT)
        triage = desk.Triage.model_validate_json(decided["content"])
        if triage.handoff != "lookup":
            return Answer(answer=f"{triage.handoff} answers")
        asked = await chat(desk.LOOKUP_PROMPT, messages, tools=[ORDER_TOOL])
        messages.append(asked)
        for call in asked["tool_calls"]:
            order = desk.get_order(**json.loads(call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(order)})
        answered = await chat(desk.LOOKUP_PROMPT, messages, tools=[ORDER_TOOL])
        return Answer(answer=answered["content"])

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--provider", required=True)
    options = parser.parse_args()
    uvicorn.run(create_app(options.provider), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
