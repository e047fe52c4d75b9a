"""A closed-loop HTTP load generator, cheap enough that what it measures is the server.

Raw connections and httptools on one event loop: one connection and one conversation at a time a client, the
next turn starts when the last one ended. Whole, chunked and SSE answers are read to their end. It knows
nothing of the systems.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import httptools

TIMEOUT_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP request."""

    method: str = "POST"
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    def wire(self, host: str) -> bytes:
        """The request as bytes of HTTP/1.1."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One HTTP answer, read to its end."""

    status: int
    body: bytes
    headers: dict[str, str]
    """Names in lower case."""
    first_byte_seconds: float
    """From sending the request to the first byte of the answer's body (of its head, without a body)."""
    seconds: float


@dataclass(kw_only=True)
class Load:
    """What one run of the load gave."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds of each turn that went well, in order of completion."""
    first_bytes: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    client_cpu_seconds: float = 0.0


TurnCall = Callable[[str, int], Call]
"""The request for turn number n (from 0) of a conversation."""
Check = Callable[[Reply], str | None]
"""None if the reply is a right answer, else what is wrong."""


Open = Callable[[str], Call]
"""The request that begins a conversation, which the answer's header X-Conversation-Id then names."""


class Connection(asyncio.Protocol):
    """One keep-alive connection to the server under test."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._started = self._first = 0.0

    async def send(self, call: Call) -> Reply:
        """Send one request and wait for the end of its answer.

        Raises:
            OSError: the connection broke or was refused.
            TimeoutError: no end of the answer within TIMEOUT_SECONDS.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None  # set by connection_made
        self._waiter = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._headers, self._first = [], {}, 0.0
        self._started = time.perf_counter()
        self._transport.write(call.wire(f"{self._host}:{self._port}"))
        timer = loop.call_later(
            TIMEOUT_SECONDS, self._fail, TimeoutError(f"{call.path}: {TIMEOUT_SECONDS} s")
        )
        try:
            return await self._waiter
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(exc or ConnectionError("closed by the server"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if self._waiter is None or self._waiter.done() or self._parser is None:
            return
        reply = Reply(
            status=self._parser.get_status_code(),
            body=b"".join(self._body),
            headers=self._headers,
            first_byte_seconds=(self._first or now) - self._started,
            seconds=now - self._started,
        )
        if not self._parser.should_keep_alive():
            self.close()
        self._waiter.set_result(reply)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
            self.close()


async def run_load(
    *,
    host: str,
    port: int,
    turn: TurnCall,
    check: Check,
    concurrency: int,
    seconds: float,
    max_turns: int,
    turns_per_conversation: int,
    prefix: str,
    open_conversation: Open | None = None,
) -> Load:
    """Drive the server with `concurrency` clients until the time or the count is used up.

    Conversations are named `PREFIX-client-n`, or by the server where `open_conversation` says how: that
    costs rate, but is in no turn's latency. A turn begun in time is also waited for and counted.
    """
    load = Load()
    budget = iter(range(max_turns))
    begin = time.perf_counter()
    cpu = time.process_time()

    async def client(number: int) -> None:
        connection = Connection(host, port)
        count, name = 0, ""
        while time.perf_counter() - begin < seconds and next(budget, None) is not None:
            conversation, place = divmod(count, turns_per_conversation)
            count += 1
            try:
                if place == 0 or not name:
                    name = f"{prefix}-{number}-{conversation}"
                    if open_conversation is not None:
                        opened = await connection.send(open_conversation(name))
                        name = opened.headers.get("x-conversation-id", "")
                reply = await connection.send(turn(name, place))
            except (OSError, TimeoutError) as error:
                load.errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)  # a dead server must not turn this into a busy loop
                continue
            wrong = check(reply)
            if wrong is None:
                load.latencies.append(reply.seconds)
                load.first_bytes.append(reply.first_byte_seconds)
            else:
                load.errors.append(wrong)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(concurrency)))
    load.seconds = time.perf_counter() - begin
    load.client_cpu_seconds = time.process_time() - cpu
    return load


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, by nearest rank; NaN for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
