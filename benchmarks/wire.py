"""The mock provider's answers as OpenAI's documents and HTTP/1.1 bytes; no decisions, no state."""

import json
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.answers import Answer

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}

dump: Final = json.JSONEncoder(separators=(",", ":")).encode


def response(status: int, text: str, *, retry_after: bool = False) -> bytes:
    """A whole HTTP response with a JSON body."""
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(["Retry-After: 1"] if retry_after else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def completion(head: Mapping[str, Any], reply: Answer, usage: Mapping[str, int]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
    if reply.kind == "tool_call":
        message["tool_calls"] = [_call(head, reply)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def chunks(head: Mapping[str, Any], reply: Answer, usage: Mapping[str, int] | None) -> list[str]:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "" if reply.content is not None else None}
    ]
    if reply.kind == "tool_call":
        call = _call(head, reply)
        opening = {**call, "function": {**call["function"], "arguments": ""}}
        deltas[0]["tool_calls"] = [{"index": 0, **opening}]
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": reply.arguments}}]})
    elif reply.kind == "structured":
        deltas.append({"content": reply.content})
    else:
        words = (reply.content or "").split(" ")
        deltas.extend({"content": word if place == 0 else f" {word}"} for place, word in enumerate(words))
    head = {**head, "object": "chat.completion.chunk"}
    documents: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    documents.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]})
    if usage is not None:
        documents.append({**head, "choices": [], "usage": usage})
    return [dump(document) for document in documents]


def _call(head: Mapping[str, Any], reply: Answer) -> dict[str, Any]:
    function = {"name": reply.tool, "arguments": reply.arguments}
    return {"id": f"call-{head['id']}", "type": "function", "function": function}


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def error(message: str, kind: str = "invalid_request_error") -> str:
    return dump({"error": {"message": message, "type": kind, "param": None, "code": None}})
