"""A client that does not give up: where a connection breaks, it goes on at another worker.

It follows one run at a time, checks that no event is missing or told twice, and ends with the answer or with
the reason why there is none.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

TIMEOUT: Final = httpx.Timeout(10.0, connect=2.0, read=3.0)
"""Workers send a comment each second: after three of silence one is taken for dead."""

PARKED: Final = ("effect_unknown", "run_parked")
"""Codes of errors that are not the end: a person must help."""

LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=20)


@dataclass(kw_only=True)
class Turn:
    """A message, and what the client has heard of it."""

    conversation: str
    message: str
    run: str = ""
    status: str = ""
    """``done``, ``failed``, ``cancelled``, ``refused`` (with a status code); empty: its end was not heard."""
    answer: str = ""
    error: str = ""
    seqs: list[int] = field(default_factory=list)
    """Numbers of the events, as they came."""
    sent: list[str] = field(default_factory=list)
    """The messages that were sent: several where it could not be told whether one had arrived."""
    breaks: int = 0
    parked: bool = False
    """Whether a person had to help."""
    seconds: float = 0.0

    @property
    def gaps(self) -> int:
        """Return how many numbers were missing, told twice or out of order."""
        return sum(later != earlier + 1 for earlier, later in zip(self.seqs, self.seqs[1:], strict=False))


class _Ended(Exception):
    """The run has ended, and the client knows how."""


class Client:
    """One key's client of several workers, any of which may be dead."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        urls: Sequence[str],
        key: str,
        *,
        patience: float = 120.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``patience``: seconds after which a turn counts as lost."""
        self._http = http
        self._urls = urls
        self.key = key
        self._headers = {"Authorization": f"Bearer {key}"}
        self._patience = patience
        self._say = say

    async def open(self) -> str:
        """Make a conversation; return its id."""
        made = await self.call("POST", "/v1/conversations", body={})
        return str(made["id"])

    async def say(self, conversation: str, text: Callable[[int], str], **body: Any) -> Turn:
        """Say ``text(attempt)`` and follow it to its end; each attempt is said once at most.

        Another attempt is made only if it cannot be told whether the one before was heard.
        """
        began = time.monotonic()
        until = began + self._patience
        turn = Turn(conversation=conversation, message=text(0))
        try:
            await self._begin(turn, text, body, until)
            while time.monotonic() < until:
                await self._follow(turn)
                await asyncio.sleep(random.uniform(0.02, 0.2))
        except _Ended:
            pass
        turn.seconds = time.monotonic() - began
        return turn

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a call, at whatever worker answers; return its JSON. Raises httpx.HTTPStatusError for 4xx."""
        until = time.monotonic() + self._patience
        while True:
            try:
                response = await self._http.request(
                    method, self._url() + path, json=body, headers=self._headers, timeout=TIMEOUT
                )
                if response.status_code < 500 and response.status_code != 429:
                    response.raise_for_status()
                    return response.json()
                failed = f"{response.status_code} {response.text[:200]}"
            except httpx.TransportError as error:
                failed = repr(error)
            if time.monotonic() > until:
                raise RuntimeError(f"{method} {path}: {failed}")
            await asyncio.sleep(random.uniform(0.05, 0.3))

    def _url(self) -> str:
        return random.choice(self._urls)

    async def _begin(self, turn: Turn, text: Callable[[int], str], body: Any, until: float) -> None:
        """Say it, and listen until the stream ends."""
        while time.monotonic() < until:
            turn.message = text(len(turn.sent))
            turn.sent.append(turn.message)
            path = f"/v1/conversations/{turn.conversation}/messages"
            try:
                if await self._listen(turn, "POST", path, json={"content": turn.message, **body}):
                    return
                turn.sent.pop()  # it was refused: it was not heard, and may be said again
            except httpx.TransportError as error:
                self._break(turn, error)
            if turn.run or await self._find(turn):
                return
            await asyncio.sleep(random.uniform(0.1, 0.4))

    async def _find(self, turn: Turn) -> bool:
        """Look whether what was said last, without an answer, was heard."""
        found = await self.call("GET", f"/v1/conversations/{turn.conversation}/runs")
        for run in reversed(found["data"]):
            if run["message"] in turn.sent:
                turn.run, turn.message = run["id"], run["message"]
                return True
        return False

    async def _follow(self, turn: Turn) -> None:
        """Go on behind the last event that was seen, at whatever worker; return when that breaks off."""
        if not turn.run:
            return
        path = f"/v1/conversations/{turn.conversation}/runs/{turn.run}/events"
        headers = {"Last-Event-ID": str(turn.seqs[-1])} if turn.seqs else {}
        try:
            await self._listen(turn, "GET", path, headers=headers)
        except httpx.TransportError as error:
            self._break(turn, error)

    def _break(self, turn: Turn, error: Exception) -> None:
        turn.breaks += 1
        self._say(f"{turn.run or turn.conversation}: {error!r}")

    async def _listen(self, turn: Turn, method: str, path: str, **options: Any) -> bool:
        """Read a stream to its end; return whether there was one. Raises _Ended, httpx.TransportError."""
        headers = {**self._headers, "Accept": "text/event-stream", **options.pop("headers", {})}
        async with self._http.stream(
            method, self._url() + path, headers=headers, timeout=TIMEOUT, **options
        ) as response:
            if response.status_code != 200:
                await response.aread()
                return self._refused(turn, response)
            turn.run = response.headers["X-Run-Id"]
            async for kind, data, number in _events(response):
                if number is not None:
                    turn.seqs.append(number)
                if kind == "done":
                    turn.status, turn.answer = "done", data["message"]
                    raise _Ended
                if kind == "error":
                    await self._failed(turn, data)
        return True

    def _refused(self, turn: Turn, response: httpx.Response) -> bool:
        code = response.status_code
        if code in (429, 500, 502, 503, 504):
            return False
        if code == 409 and len(turn.sent) > 1:  # one that was said before, and not seen to be heard, was
            return False
        turn.status, turn.error = f"refused {code}", response.text[:300]
        raise _Ended

    async def _failed(self, turn: Turn, data: dict[str, Any]) -> None:
        """Find out whether that was the end. Raises _Ended if it was."""
        turn.error = f"{data.get('code')}: {data.get('detail')}"
        if data.get("code") == "run_handed_on":
            return
        path = f"/v1/conversations/{turn.conversation}/runs/{turn.run}"
        run = await self.call("GET", path)
        turn.parked |= data.get("code") in PARKED
        while run["status"] == "parked":  # a person will look
            await asyncio.sleep(0.3)
            run = await self.call("GET", path)
        if run["status"] in ("failed", "cancelled"):
            turn.status = run["status"]
            raise _Ended


async def _events(response: httpx.Response) -> AsyncGenerator[tuple[str, dict[str, Any], int | None], None]:
    """Yield a stream's events: type, data, number."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            number = int(fields["id"]) if "id" in fields else None
            yield fields["event"], json.loads(fields["data"]), number
            fields = {}
