"""Turns through HAProxy, the gateway, the agents' deployments and the scheduler, on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from .conftest import Up, wait_for

pytestmark = pytest.mark.ray

ANSWER = "Your order is on its way and should arrive on Friday as planned."


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "pilots", "messages": [{"role": "user", "content": text}], **more}


def begun(client: httpx.Client) -> str:
    """Begin a conversation; its path."""
    answer = client.post("/v1/conversations", json={})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def say(client: httpx.Client, path: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Send a message; the events of its turn."""
    body, headers = {"content": text}, {"Accept": "text/event-stream"}
    events, kind = [], ""
    with client.stream("POST", f"{path}/messages", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                events.append((kind, json.loads(value)))
    return events


def in_background(up: Up, path: str, text: str) -> Future[list[tuple[str, dict[str, Any]]]]:
    """Send a message that will be held up; return when its tool is at work."""
    (up.gates / "closed").touch()
    future: Future[list[tuple[str, dict[str, Any]]]] = Future()

    def work() -> None:
        try:
            with up.client() as client:
                future.set_result(say(client, path, text))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    wait_for(lambda: future.done() or (up.gates / "asked").exists(), "the tool is called")
    return future


@pytest.mark.requirement("state.context")
def test_what_an_agents_process_writes_to_shared_state_the_gateway_shows(client: httpx.Client) -> None:
    before = client.get("/v1/state/tides/told")
    say(client, begun(client), "ROUTE:tides How high is it?")
    told = client.get("/v1/state/tides/told").json()
    assert told["value"] == (before.json()["value"] if before.status_code == 200 else 0) + 1
    writer = client.get("/v1/state/tides/told/history").json()["data"][0]["writer"]
    assert (writer["fleet"], writer["agent"]) == ("pilots", "tides")


@pytest.mark.requirement("serve.chat")
def test_chat_completions_come_whole_and_streamed_through_the_ingress(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=chat("ROUTE:tides How high is it?"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert body["usage"]["total_tokens"] > 0

    asked = chat("ROUTE:greeter Hello!", stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=asked) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in streamed.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(pieces) == ANSWER
    assert sum(1 for piece in pieces if piece) > 3
    assert chunks[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.requirement("serve.events")
def test_a_turn_over_deployments_tells_every_kind_of_event(client: httpx.Client) -> None:
    events = say(client, begun(client), "ROUTE:tides How high is it?")
    kinds = [kind for kind, _ in events]
    assert kinds[:2] == ["run", "step"]
    assert kinds[-1] == "done"
    assert {"token", "tool", "handoff", "cost", "message"} < set(kinds)
    tools = [data for kind, data in events if kind == "tool"]
    assert [(tool["name"], tool["status"]) for tool in tools] == [("get_tide", "started"), ("get_tide", "ok")]
    assert "".join(data["text"] for kind, data in events if kind == "token") == ANSWER


@pytest.mark.requirement("serve.replica_death")
def test_a_turn_whose_agent_is_killed_goes_on_and_is_answered(running: Up, client: httpx.Client) -> None:
    path = begun(client)
    turn = in_background(running, path, "ROUTE:tides How high is it?")
    victims = running.replicas("tides")
    assert len(victims) == 1
    (running.gates / "asked").unlink()
    os.kill(victims[0], signal.SIGKILL)
    wait_for((running.gates / "asked").exists, "the tool is called again", 90)
    (running.gates / "closed").unlink()

    events = turn.result(timeout=60)
    assert events[-1][0] == "done", events[-1]
    assert events[-1][1]["message"] == ANSWER
    [run] = client.get(f"{path}/runs").json()["data"]
    assert run["status"] == "done"
    assert all(attempt["reason"] for attempt in run["attempts"])
