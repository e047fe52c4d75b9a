"""`admiralty chat` against a server that breaks off, comes back, and lets persons decide."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import Run

RUN = "/v1/conversations/conv_1/runs/run_1/events"
DONE = {
    "message": "All of it.",
    "agent": "clerk",
    "usage": {"total_tokens": 7},
    "cost_usd": "0",
    "seconds": 1.0,
}
MESSAGE = {"role": "assistant", "content": "All of it.", "agent": "clerk"}
ASKED = {
    "approval_id": "appr_1",
    "tool": "refund",
    "arguments": {"order_id": "W1"},
    "reason": "Money [leaves].",
    "expires_at": 1_800_000_000.0,
    "status": "pending",
}


class Broken(ThreadingHTTPServer):
    """Says what it is given, stream by stream, and breaks off after each."""

    daemon_threads = True

    def __init__(self, *streams: list[tuple[int | None, str, Any]] | int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streams = list(streams)
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Broken

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/v1/conversations":
            self._answer(201, "application/json", json.dumps({"id": "conv_1"}).encode())
        else:
            self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Last-Event-ID"]))
        given = self.server.streams.pop(0) if self.server.streams else []
        if isinstance(given, int):
            self._answer(given, "application/problem+json", json.dumps({"detail": "Later."}).encode())
            return
        text = "".join(
            (f"id: {number}\n" if number else "") + f"event: {kind}\ndata: {json.dumps(data)}\n\n"
            for number, kind, data in given
        )
        self._answer(200, "text/event-stream", text.encode(), whole=bool(given) and given[-1][1] == "done")

    def _answer(self, status: int, kind: str, body: bytes, *, whole: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Run-Id", "run_1")
        # One that breaks off has promised more than it says.
        self.send_header("Content-Length", str(len(body) + (0 if whole else 1000)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[list[Broken]]:
    made: list[Broken] = []
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.mark.requirement("cli.chat_reconnect")
def test_a_stream_that_breaks_off_is_come_back_to_and_the_answer_shown_once(
    admiralty: Run, servers: list[Broken]
) -> None:
    server = Broken(
        [(2, "run", {"run_id": "run_1"}), (3, "step", {}), (None, "token", {"text": "All o"})],
        503,
        [(4, "run", {"run_id": "run_1", "attempt": 2})],
        [(None, "token", {"text": "f it."}), (5, "message", MESSAGE), (6, "done", DONE)],
    )
    servers.append(server)
    said = admiralty("chat", "Hello", "--key", "adm_x", "--url", server.url)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("All of it.") == 1
    assert "coming back (1 of 5)" in said.stdout
    path = "/v1/conversations/conv_1/messages"
    assert server.asked == [(path, None), (RUN, "3"), (RUN, "3"), (RUN, "4")]


@pytest.mark.requirement("cli.chat_reconnect")
def test_who_comes_back_in_vain_is_told_where_the_answer_will_be(
    admiralty: Run, servers: list[Broken]
) -> None:
    server = Broken([(2, "run", {"run_id": "run_1"})], 503, 503, 503, 503, 503, 503)
    servers.append(server)
    said = admiralty("chat", "Hello", "--key", "adm_x", "--url", server.url)
    assert said.returncode == 2
    assert "admiralty chat --conversation conv_1" in said.stderr
    assert len(server.asked) == 6


@pytest.mark.requirement("cli.chat_reconnect")
def test_what_waits_for_a_person_is_shown_with_what_to_do(admiralty: Run, servers: list[Broken]) -> None:
    decided = ASKED | {"status": "approved", "decided_by": "ann"}
    events = [(2, "approval", ASKED), (3, "approval", decided), (4, "message", MESSAGE), (5, "done", DONE)]
    server = Broken([*events])
    servers.append(server)
    said = admiralty("chat", "Hello", "--key", "adm_x", "--url", server.url)
    assert said.returncode == 0, said.stderr
    for text in (
        "a person must decide on refund(order_id='W1'): Money [leaves].",
        "admiralty approvals approve appr_1",
        "refund: approved by ann",
    ):
        assert text in said.stdout
