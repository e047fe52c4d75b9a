"""Conversations and runs followed through the database: for whoever listens where they are not executed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from admiralty.core.values import Event, Identity
from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import OPEN
from admiralty.runtime.polling import Poller
from admiralty.runtime.storage.conversations import ConversationStore

PAGE = 500
"""Events that are read at once: a long conversation need not fit into memory for each listener."""

MAX_READING = 3
"""Listeners that read at once: hundreds who are woken together leave threads to those who write."""


class Tails:
    """What all listeners of a process follow. An idle one costs no more than its place in a shared query:
    whatever changes a run's status stores an event, and that is looked for.
    """

    def __init__(
        self, conversations: ConversationStore, runs: RunStore, *, leaving: Callable[[], bool] = lambda: False
    ) -> None:
        """``leaving`` tells whether this process ends: then what there is comes, and no more."""
        self._conversations = conversations
        self._runs = runs
        self._leaving = leaving
        self._poller = Poller(conversations.counters)
        self._reading = asyncio.Semaphore(MAX_READING)

    def wake(self, conversation_id: str) -> None:
        """Let the followers of a conversation look: this process has changed something."""
        self._poller.wake(conversation_id)

    def wake_all(self) -> None:
        """Let all look, as this process ends."""
        self._poller.wake_all()

    async def run(
        self,
        identity: Identity,
        conversation_id: str,
        run_id: str,
        *,
        after: int,
        idle: float | None,
        here: Callable[[], LiveRun | None] = lambda: None,
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Yield a run's stored events behind ``after``, in batches, until it has ended.

        ``here`` returns the run if it is executed in this process by now: then it is followed as it
        happens, tokens too. After ``idle`` seconds without news an empty batch comes. Raises NotFound.
        """
        quiet = _Quiet(idle)
        with self._poller.following(conversation_id) as news:
            while True:
                news.clear()
                # First whether it is executed here: all that came before is then among the stored events.
                live = here()
                async with self._reading:
                    # Then the status: what is stored with an end is then among the events too.
                    run = await self._runs.get(identity, conversation_id, run_id)
                    stored = await self._conversations.events(
                        identity, conversation_id, after=after, run_id=run_id, limit=PAGE
                    )
                if stored:
                    after = stored[-1].seq
                    yield [item.event for item in stored]
                    quiet.over()
                if len(stored) == PAGE:
                    continue
                if run.status not in OPEN or self._leaving():
                    return
                if live is not None and not live.detached:
                    break
                while not await quiet.until(news):
                    yield ()
        async with aclosing(live.batches(idle=idle)) as batches:
            async for batch in batches:
                if fresh := _behind(batch, after) if batch else ():
                    after = next((event.seq for event in reversed(fresh) if event.seq), after)
                if fresh or not batch:
                    yield fresh

    async def conversation(
        self, identity: Identity, conversation_id: str, *, after: int, idle: float | None
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Yield all stored events of a conversation behind ``after``, in batches, until this process ends.

        After ``idle`` seconds without news an empty batch comes. Raises NotFound.
        """
        quiet = _Quiet(idle)
        with self._poller.following(conversation_id) as news:
            while True:
                news.clear()
                async with self._reading:
                    stored = await self._conversations.events(
                        identity, conversation_id, after=after, limit=PAGE
                    )
                if stored:
                    after = stored[-1].seq
                    yield [item.event for item in stored]
                    quiet.over()
                if len(stored) == PAGE:
                    continue
                if self._leaving():
                    return
                while not await quiet.until(news):
                    yield ()


class _Quiet:
    """How long a listener has heard nothing; other runs' news are no news to it."""

    def __init__(self, most: float | None) -> None:
        self._most = most
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()

    def over(self) -> None:
        """The listener has heard something."""
        self._since = self._clock()

    async def until(self, news: asyncio.Event) -> bool:
        """Wait until there is something to look at; return False when it has been quiet for too long."""
        ends = None if self._most is None else self._since + self._most
        try:
            async with asyncio.timeout_at(ends):
                await news.wait()
        except TimeoutError:
            self.over()
            return False
        return True


def _behind(batch: Sequence[Event], after: int) -> Sequence[Event]:
    """Return what comes behind the event with number ``after``, tokens included."""
    known = [place for place, event in enumerate(batch) if event.seq is not None and event.seq <= after]
    return batch[known[-1] + 1 :] if known else batch
