"""A run as this process follows it: what happens is stored, and then told to whoever listens.

A numbered event is heard only when it is stored: what a client was told is never lost, and a client who
comes back with the last number that it has seen misses nothing. Tokens are many, have no number, and pass
at once; the ``message`` at the end has all their text.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from admiralty.core.errors import RunLost
from admiralty.core.values import Event
from admiralty.runtime.durable.values import Run

PAUSE_SECONDS = 0.025
"""Least time between two stores of a run's events: a fast turn stores all of them with its end."""

Store = Callable[[Sequence[Event], int | None], Awaitable[list[Event]]]
"""Stores events, and returns them with their numbers; for the number, see ``ExecutionStore.append``. Raises
RunLost."""

Stopper = Callable[[], Awaitable[object]]

Tail = Callable[[int, float | None], AsyncGenerator[Sequence[Event], None]]
"""Yields a run's stored events behind a number, in batches, until it has ended; empty ones when idle."""


class Repeats:
    """What an execution that begins with what is recorded tells again, until it asks a model itself."""

    def __init__(self, told: Iterable[Event]) -> None:
        self._told = Counter(_sign(event) for event in told)
        self._over = False

    def has(self, event: Event) -> bool:
        """Return whether ``event`` was told by an earlier execution."""
        if event.type == "step" and not event.data.get("replayed"):
            self._over = True
        sign = _sign(event)
        if self._over or sign is None or not self._told[sign]:
            return False
        self._told[sign] -= 1
        return True


def _sign(event: Event) -> tuple[Any, ...] | None:
    """Return by what an event is recognised; ``None`` for those that no execution repeats."""
    names = {"step": ("agent", "step"), "tool": ("call_id", "status"), "handoff": ("source", "target")}
    if event.type not in names:
        return None
    return (event.type, *(event.data.get(name) for name in names[event.type]))


@dataclass(kw_only=True)
class LiveRun:
    """A run as it happens: executed in this process, or followed through the database."""

    run: Run
    tail: Tail
    """How to go on where this process does not execute the run, or no more."""
    after: int = 0
    """The number behind which it is told."""
    happened: list[Event] = field(default_factory=list)
    """What has been told so far."""
    ended: bool = False
    detached: bool = False
    """Whether it goes on elsewhere, or later: then through ``tail``."""
    task: asyncio.Task[None] | None = None
    """Its execution in this process, to the end and its storing."""
    turn: asyncio.Task[Any] | None = None
    """The part of the execution that may be broken off: what is decided is stored, whatever comes."""
    stopped: str = ""
    """Why it was broken off: ``cancel``, ``interrupt``, ``rollback``, ``drain``, ``lost``."""
    store: Store | None = None
    on_cancel: Stopper | None = None
    """Asks whoever executes it to stop it."""
    watchers: Sequence[Callable[[Event], None]] = ()
    """Whoever is told of every event of every run, such as metrics."""
    pending: list[Event] = field(default_factory=list)
    """What has happened and is not stored yet, tokens in between."""
    costs: list[Event] = field(default_factory=list)
    """The ``cost`` events of this execution."""
    repeats: Repeats | None = None
    """What earlier executions of the run have told."""
    called: list[Event] = field(default_factory=list)
    """The ``tool`` events of this execution that tell of an end."""
    unsure: int | None = None
    """The last number that is known, while nobody knows whether what followed was stored."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _writing: asyncio.Task[None] | None = None
    _storing: bool = False
    _written_at: float = -1.0
    _late: set[asyncio.Task[object]] = field(default_factory=set)

    @property
    def last_seq(self) -> int:
        """The highest number that was told."""
        return next((event.seq for event in reversed(self.happened) if event.seq), self.after)

    def emit(self, event: Event) -> None:
        """Something has happened: it is stored soon, and then told to all listeners.

        What an execution repeats of an earlier one, and that one has told, is not told again.
        """
        if self.repeats is not None and self.repeats.has(event):
            if event.type == "tool" and event.data["status"] != "started":
                self.called.append(event)
            return
        for watch in self.watchers:
            watch(event)
        if event.type == "cost":
            self.costs.append(event)
        elif event.type == "tool" and event.data["status"] != "started":
            self.called.append(event)
        if event.type == "token" and not self.pending and not self._storing:
            self.happened.append(event)
            self._wake()
            return
        self.pending.append(event)
        if self._writing is None and self.store is not None:
            if self._written_at < 0:
                self._written_at = asyncio.get_running_loop().time()
            self._writing = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Have what is pending stored before anything that is written from now on; does not wait for it."""
        if not self.pending or self._storing or self.store is None:
            return
        if self._writing is not None:  # it only waits for its time
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        self._written_at = 0.0
        self._writing = asyncio.create_task(self._write())
        await asyncio.sleep(0)  # from then on it stands in the writer's queue

    def tell(self, stored: Sequence[Event], *, among: Sequence[Event] = ()) -> None:
        """Tell of events that are stored, with the tokens that ``among`` has between them."""
        rest = iter(stored)
        self.happened.extend(event if event.type == "token" else next(rest) for event in among)
        self.happened.extend(rest)
        self._wake()

    async def _write(self) -> None:
        """Store what is pending, again and again until nothing is."""
        loop = asyncio.get_running_loop()
        try:
            while self.pending and self.store is not None:
                wait = self._written_at + PAUSE_SECONDS - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                batch, self.pending = self.pending, []
                self._storing = True
                try:
                    stored = await self.store(numbered(batch), self.unsure)
                except BaseException:
                    self.pending, self.unsure = batch + self.pending, self.last_seq
                    raise
                finally:
                    self._storing = False
                self._written_at, self.unsure = loop.time(), None
                tokens = next((at for at, event in enumerate(self.pending) if event.type != "token"), None)
                batch += self.pending[:tokens]  # they came meanwhile, and need no storing
                del self.pending[:tokens]
                self.tell(stored, among=batch)
        except RunLost:
            self.stop("lost")
        except Exception:  # the database is away: all of it is stored with the end, or told anew
            self._written_at = loop.time() + 1.0
        finally:
            self._writing = None

    async def settle(self) -> list[Event]:
        """Stop storing by itself; return what is left to be stored with the end, tokens in between."""
        if self._writing is not None:
            if not self._storing:  # never in the middle of a transaction: its outcome would be unknown
                self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        left, self.pending = self.pending, []
        return left

    def end(self) -> None:
        """Tell all listeners that nothing more will come."""
        self.ended = True
        self._wake()

    def detach(self) -> None:
        """Let the listeners follow through the database: the run goes on elsewhere, or later."""
        self.detached = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self) -> AsyncGenerator[Event, None]:
        """Yield every event of the run until it has ended and is stored."""
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self, *, idle: float | None = None) -> AsyncGenerator[Sequence[Event], None]:
        """Yield what has happened since the last batch, from the run's first event to its end.

        After ``idle`` seconds without news an empty batch comes, for whoever must show life.
        """
        position, last = 0, self.after
        while True:
            news = self._news
            if fresh := self.happened[position:]:
                position += len(fresh)
                last = next((event.seq for event in reversed(fresh) if event.seq), last)
                yield fresh
            elif self.ended:
                return
            elif self.detached:
                break
            else:
                try:
                    async with asyncio.timeout(idle):
                        await news.wait()
                except TimeoutError:
                    yield ()
        async with aclosing(self.tail(last, idle)) as rest:
            async for batch in rest:
                yield batch

    def stop(self, why: str) -> bool:
        """Break off the execution in this process, and return True; one whose turn is over is left alone."""
        if self.task is None or self.stopped or (self.turn is not None and self.turn.done()):
            return False
        self.stopped = why
        if self.turn is not None:
            self.turn.cancel()
        return True

    def cancel(self) -> None:
        """End the run as soon as possible, wherever it is executed; it is stored as cancelled."""
        if self.stop("cancel") or self.ended:
            return
        if self.on_cancel is not None:
            task = asyncio.ensure_future(self.on_cancel())
            self._late.add(task)
            task.add_done_callback(self._late.discard)


def numbered(events: Sequence[Event]) -> list[Event]:
    """Return the events that are stored: all but tokens."""
    return [event for event in events if event.type != "token"]
