"""A visit's run through a user-written graph: what it tells, and how it ends whatever the graph does."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage

from admiralty.core.errors import RunInterrupted
from admiralty.core.values import Event, ModelCall
from admiralty.runtime.agents.pause import Pause
from admiralty.runtime.agents.progress import Progress

Item = Event | Exception | Mapping[str, Any]
"""An event; what ends the visit; or the graph's last state."""


@dataclass(kw_only=True)
class Running:
    """One visit in its graph. Belongs to the visit's loop: synchronous nodes are forwarded to it."""

    progress: Progress
    loop: asyncio.AbstractEventLoop
    happened: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    replayed: set[str] = field(default_factory=set)
    """Ids of the messages that were answered from the record."""
    _asked: Counter[str] = field(default_factory=Counter)
    _working: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _over: bool = False
    _closed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, item: Item) -> None:
        """Pass on what happened."""
        self.happened.put_nowait(item)

    def end(self, ending: Exception) -> None:
        """End the visit, past whatever the graph makes of errors: nothing new may begin in it."""
        self._over = True
        self.happened.put_nowait(ending)

    def check(self) -> None:
        """Raise RunInterrupted if the visit is over: what is left of its graph may do nothing more."""
        if self._over:
            raise RunInterrupted("The visit is over.")

    async def held(self) -> RunInterrupted:
        """Return once the visit is closed: until then the graph must not go on from here."""
        await self._closed.wait()
        return RunInterrupted("The visit is over.")

    def close(self) -> None:
        """Let go what is held; nobody listens any more."""
        self._over = True
        self._closed.set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Note that a tool call is under way."""
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def rest(self) -> list[Event]:
        """Return what happens until no tool call is under way. Raises what goes wrong in one."""
        if self._working:
            await self._idle.wait()
        events: list[Event] = []
        while not self.happened.empty():
            item = self.happened.get_nowait()
            if isinstance(item, Event):
                events.append(item)
            elif isinstance(item, Exception) and not isinstance(item, Pause | RunInterrupted):
                raise item
        return events

    def key(self, digest: str) -> str:
        """Return the key of what is asked now: equal questions are told apart by their order."""
        number = self._asked[digest]
        self._asked[digest] += 1
        return f"{self.progress.visit.number}.{digest}.{number}"

    def is_new(self, message: BaseMessage) -> bool:
        """Return whether a message is a piece of an answer that is just being given."""
        return isinstance(message, AIMessageChunk) and message.id not in self.replayed


def request_digest(call: ModelCall) -> str:
    """Return 16 hex digits of what a model is asked: the same question has the same in every execution.

    Ids of messages are left out, as LangGraph draws them anew each time, and so is what providers said about
    their answers.
    """
    asked = [
        [_told(message) for message in call.messages],
        call.tools,
        call.output_schema,
        call.stop,
        call.max_output_tokens,
        call.temperature,
    ]
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told(message: BaseMessage) -> Sequence[Any]:
    calls: list[Any] = []
    if isinstance(message, AIMessage):
        calls = [[call["name"], call["args"], call["id"]] for call in message.tool_calls]
    answers = [message.tool_call_id, message.status] if isinstance(message, ToolMessage) else []
    kind = message.type.removesuffix("MessageChunk").lower()
    return [kind, message.content, message.name, calls, answers]
