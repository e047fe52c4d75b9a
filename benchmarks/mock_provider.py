"""An OpenAI-compatible provider that costs next to nothing, for benchmarks and fault tests.

    python -m benchmarks.mock_provider --port 9100 [--delay-ms 20] [--error-rate 0.1] ...

One process, one event loop, raw HTTP/1.1: it must be far cheaper than anything measured against it. What it
answers is decided in `benchmarks.answers`; this module carries it over HTTP, delays it, breaks it and counts.

| call | what it does |
|---|---|
| `POST /v1/chat/completions` | an answer, whole or streamed (one chunk an event; usage last, if asked for) |
| `GET /v1/models` | one model, `mock` |
| `GET /stats` | the counters since start or reset, the settings, CPU seconds used so far |
| `GET /bills` | what each call was billed that carried `MARK:name` in its messages |
| `POST /reset` | sets the counters to zero and the random numbers to the seed |
| `POST /control` | changes settings while running: a JSON object with any field of `Settings` |
| `GET /healthz` | `ok` |

One request may direct its own answer, by headers `x-mock-KEY` or by `metadata.KEY` in the body: `route` (enum
value in structured output), `tool` (tool to call), `tokens` (words of a text answer), `delay_ms`, `status`
(answer with that error). `ROUTE:name` anywhere in the messages also directs the route.

Usage: prompt tokens are a quarter of the body's bytes, rounded up, unless `prompt_tokens` is set; completion
tokens are the words of a text (so exactly `tokens`, cut at `max_tokens`) or a quarter of the characters of
JSON; both times `usage_factor`. Pipelined requests are not supported.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httptools

from benchmarks import wire
from benchmarks.answers import WORDS, Answer, Directives, answer, route_marker
from benchmarks.bills import Bill, Bills


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the provider behaves until told otherwise."""

    delay_ms: float = 0.0
    """Wait before the first byte of an answer, in milliseconds."""
    jitter_ms: float = 0.0  # and up to so much more, at random
    chunk_delay_ms: float = 0.0
    """Wait between streamed events; 0 writes all of them at once."""
    error_rate: float = 0.0
    """Share of chat requests that get `error_status` instead of an answer, 0 to 1."""
    error_status: int = 500
    cut_rate: float = 0.0
    """Share of chat requests whose connection is closed: a stream after half its events, else at once."""
    answer_tokens: int = len(WORDS)
    """Words of a text answer."""
    prompt_tokens: int = 0
    """Prompt tokens that every answer reports; 0: by the size of the request."""
    usage_factor: float = 1.0
    """What all usage is multiplied with: a provider that counts otherwise than was expected."""
    seed: int = 0
    """Of the random numbers behind `error_rate` and `cut_rate`."""

    def __post_init__(self) -> None:
        for name in ("error_rate", "cut_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a share between 0 and 1")
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name}={value}: expected 0 or more")


@dataclass(kw_only=True)
class Stats:
    """What was asked and given since the start or the last reset."""

    requests: int = 0
    """Chat completion requests, whatever became of them."""
    answered: int = 0
    """Answers that were sent to their end."""
    streamed: int = 0
    errors: int = 0
    """Injected errors."""
    rejected: int = 0
    """Requests that were wrong (4xx)."""
    cut: int = 0  # connections, by `cut_rate`
    disconnects: int = 0
    """Clients that left before their answer ended."""
    in_flight: int = 0
    max_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of answers begun: a provider bills what it generated, also when nobody listens."""
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    models: Counter[str] = dataclasses.field(default_factory=Counter)


class Provider:
    """The state that all connections share: settings, counters and random numbers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stats = Stats()
        self.bills = Bills()
        self._random = random.Random(settings.seed)
        self._serial = 0

    def reset(self) -> None:
        """Zero the counters (requests in flight stay counted) and start the random numbers over."""
        self.stats = Stats(in_flight=self.stats.in_flight)
        self.bills = Bills()
        self._random = random.Random(self.settings.seed)

    def control(self, changes: Mapping[str, Any]) -> None:
        """Change settings. Raises: TypeError or ValueError on an unknown key or a wrong value."""
        self.settings = dataclasses.replace(self.settings, **changes)

    def report(self) -> dict[str, Any]:
        """Counters, settings and the process's CPU seconds, ready for JSON."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            **vars(self.stats),
            "settings": dataclasses.asdict(self.settings),
            "cpu_seconds": used.ru_utime + used.ru_stime,
        }

    def happens(self, rate: float) -> bool:
        """Draw whether an event of this rate happens now; draws nothing at rate 0."""
        return rate > 0 and self._random.random() < rate

    def jitter(self) -> float:
        """Draw seconds to wait in addition; draws nothing where there is no jitter."""
        longest = self.settings.jitter_ms
        return self._random.uniform(0, longest) / 1000 if longest else 0.0

    def next_id(self) -> str:
        """An id for a completion, unique in this process."""
        self._serial += 1
        return f"chatcmpl-mock-{self._serial}"


class Connection(asyncio.Protocol):
    """One client connection: parses requests, answers them in order, keeps alive."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._pending: asyncio.TimerHandle | None = None
        self._answering = False
        self._url = b""
        self._body: list[bytes] = []
        self._directed: dict[str, str] = {}

    # asyncio's callbacks
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._close()
            raise  # a fault of the mock, not of the client
        except httptools.HttpParserError:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        if self._pending is not None:
            self._pending.cancel()
        if self._answering:
            self._provider.stats.disconnects += 1
            self._done()

    # httptools' callbacks
    def on_message_begin(self) -> None:
        self._url, self._body, self._directed = b"", [], {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name[:7].lower() == b"x-mock-":
            self._directed[name[7:].decode().lower().replace("-", "_")] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        path = self._url.partition(b"?")[0]
        if path.endswith(b"/chat/completions"):
            self._chat(body)
        else:
            self._other(path, body)

    # requests
    def _other(self, path: bytes, body: bytes) -> None:
        provider = self._provider
        if path == b"/healthz":
            self._send(200, "ok")
        elif path == b"/stats":
            self._send(200, wire.dump(provider.report()))
        elif path == b"/bills":
            self._send(200, wire.dump(provider.bills.report()))
        elif path == b"/reset":
            provider.reset()
            self._send(200, "{}")
        elif path == b"/control":
            try:
                provider.control(json.loads(body))
            except (TypeError, ValueError) as error:
                self._send(400, wire.error(f"control: {error}"))
            else:
                self._send(200, wire.dump(dataclasses.asdict(provider.settings)))
        elif path.endswith(b"/models"):
            model = {"id": "mock", "object": "model", "created": 0, "owned_by": "benchmarks"}
            self._send(200, wire.dump({"object": "list", "data": [model]}))
        else:
            self._send(404, wire.error(f"no such path: {path.decode(errors='replace')}"))

    def _chat(self, body: bytes) -> None:
        provider, settings, stats = self._provider, self._provider.settings, self._provider.stats
        stats.requests += 1
        bill = provider.bills.ask(body)
        try:
            request = json.loads(body)
            directed = {**(request.get("metadata") or {}), **self._directed}
            directives = Directives(
                route=directed.get("route") or route_marker(body),
                tool=directed.get("tool"),
                tokens=int(directed.get("tokens", settings.answer_tokens)),
            )
            status = int(directed.get("status", 200))
            delay = float(directed.get("delay_ms", settings.delay_ms)) / 1000 + provider.jitter()
            reply = answer(request, directives)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            stats.rejected += 1
            self._send(400, wire.error(f"{type(error).__name__}: {error}"))
            return
        if status == 200 and provider.happens(settings.error_rate):
            status = settings.error_status
        self._begin()
        if status != 200:
            stats.errors += 1
            self._after(delay, lambda: self._fail(status))
            return
        stats.models[request.get("model", "")] += 1
        events = self._events(request, reply, self._usage(body, reply, bill))
        cut = provider.happens(settings.cut_rate)
        if cut:
            events = events[: len(events) // 2]
        if request.get("stream"):
            stats.streamed += 1
            self._after(delay, lambda: self._stream(events, cut=cut))
        else:
            self._after(delay, lambda: self._whole(events, cut=cut))

    def _usage(self, body: bytes, reply: Answer, bill: Bill | None) -> dict[str, int]:
        """What the answer is billed, from the moment that it begins."""
        settings, stats = self._provider.settings, self._provider.stats
        prompt = round((settings.prompt_tokens or -(-len(body) // 4)) * settings.usage_factor)
        completion = round(reply.completion_tokens * settings.usage_factor)
        stats.kinds[reply.kind] += 1
        stats.prompt_tokens += prompt
        stats.completion_tokens += completion
        if bill is not None:
            bill.billed += 1
            bill.prompt_tokens += prompt
            bill.completion_tokens += completion
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _events(self, request: Mapping[str, Any], reply: Answer, usage: Mapping[str, int]) -> list[str]:
        """The JSON documents to send: one for a whole answer, several for a streamed one."""
        head = {
            "id": self._provider.next_id(),
            "created": int(time.time()),
            "model": request.get("model", "mock"),
        }
        if not request.get("stream"):
            return [wire.dump(wire.completion(head, reply, usage))]
        with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        return wire.chunks(head, reply, usage if with_usage else None)

    # answers
    def _begin(self) -> None:
        stats = self._provider.stats
        self._answering = True
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)

    def _done(self) -> None:
        self._answering = False
        self._provider.stats.in_flight -= 1

    def _after(self, delay: float, then: Callable[[], None]) -> None:
        if delay <= 0:
            then()
        else:
            self._pending = asyncio.get_running_loop().call_later(delay, then)

    def _fail(self, status: int) -> None:
        self._done()
        self._send(
            status, wire.error("injected by the mock", kind="server_error"), retry_after=status in (429, 503)
        )

    def _whole(self, events: list[str], *, cut: bool) -> None:
        self._done()
        if cut:
            self._provider.stats.cut += 1
            self._close()
            return
        self._provider.stats.answered += 1
        self._send(200, events[0])

    def _stream(self, events: list[str], *, cut: bool) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        parts = [wire.http_chunk(f"data: {event}\n\n".encode()) for event in events]
        if not cut:
            parts.append(wire.http_chunk(b"data: [DONE]\n\n"))
        pause = self._provider.settings.chunk_delay_ms / 1000
        if pause <= 0:
            self._write(head + b"".join(parts))
            self._end_stream(cut=cut)
            return
        self._write(head)
        self._next_part(parts, 0, pause, cut=cut)

    def _next_part(self, parts: list[bytes], index: int, pause: float, *, cut: bool) -> None:
        if index == len(parts):
            self._end_stream(cut=cut)
            return
        self._write(parts[index])
        self._after(pause, lambda: self._next_part(parts, index + 1, pause, cut=cut))

    def _end_stream(self, *, cut: bool) -> None:
        self._done()
        if cut:
            self._provider.stats.cut += 1
            self._close()
            return
        self._provider.stats.answered += 1
        self._write(b"0\r\n\r\n")

    def _send(self, status: int, text: str, *, retry_after: bool = False) -> None:
        self._write(wire.response(status, text, retry_after=retry_after))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints the base URL once it accepts connections."""
    loop = asyncio.get_running_loop()
    provider = Provider(settings)
    server = await loop.create_server(lambda: Connection(provider), host, port, backlog=2048)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    print(f"http://{host}:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A zero-cost OpenAI-compatible provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the URL is printed")
    for field in dataclasses.fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=cast("type", field.type), default=field.default
        )
    given = vars(parser.parse_args())
    host, port = given.pop("host"), given.pop("port")
    settings = Settings(**given)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, host, port))
    else:
        uvloop.run(serve(settings, host, port))


if __name__ == "__main__":
    main()
