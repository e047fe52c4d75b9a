"""Server-sent events: one response that writes as things happen and notices when its reader leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from admiralty.runtime.api.listeners import Listeners
from admiralty.runtime.api.wire import dump

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: every reader skips it."""

_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold the stream back until it has a buffer full
}


def encode(data: Mapping[str, Any], *, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002
    """Return one event in the form of the stream."""
    head = f"id: {id}\n" if id is not None else ""
    if event is not None:
        head += f"event: {event}\n"
    return b"%sdata: %s\n\n" % (head.encode(), dump(data))


class EventStream(Response):
    """Writes chunks of an event stream. When the client leaves before the end, ``on_leave`` is called.

    It counts among ``listeners`` while it is written. One that only follows raises RateLimited in the place
    of its first byte where there are too many.

    Starlette's own StreamingResponse tells nobody that its reader left, and learns of it in a way
    that depends on the server; this one listens for itself, and takes a cancelled request for one.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        listeners: Listeners,
        follows: bool,
        headers: Mapping[str, str] | None = None,
        on_leave: Callable[[], None] = lambda: None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._chunks = chunks
        self._listeners = listeners
        self._follows = follows
        self._on_leave = on_leave
        self.init_headers({**_HEADERS, **(headers or {})})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        # Response would add a Content-Length of the empty body.
        given = {**(headers or {}), "content-type": "text/event-stream; charset=utf-8"}
        self.raw_headers = [
            (name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in given.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        with self._listeners.counted(refused=self._follows):
            await self._serve(receive, send)

    async def _serve(self, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(until_left(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            writing.cancel()
            [outcome] = await asyncio.gather(writing, return_exceptions=True)
            if outcome is not None:
                self._on_leave()
            await self._chunks.aclose()
        if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
            raise outcome

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_left(receive: Receive) -> None:
    """Return when the client has left. To be asked only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
