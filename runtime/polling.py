"""Following what a database keeps, for many at once: one look for all of them, and a wake for each change.

It knows neither what is looked at nor what is done about it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

POLL_SECONDS = 0.25
"""Between two looks: how late, at most, whoever follows hears of what another process has stored."""

Place = TypeVar("Place", bound=Hashable)

Look = Callable[[Sequence[Place]], Awaitable[Mapping[Place, Any]]]
"""Returns for each place what is different after each change of it; nothing for one that is gone."""


_UNSEEN = object()


class Poller(Generic[Place]):
    """One look at all places that are followed in this process, again and again while there are any."""

    def __init__(self, look: Look[Place], *, seconds: float = POLL_SECONDS) -> None:
        """``seconds`` lie between two looks."""
        self._look = look
        self._seconds = seconds
        self._followers: defaultdict[Place, set[asyncio.Event]] = defaultdict(set)
        self._last: dict[Place, Any] = {}
        self._polling: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody follows anything."""
        return not self._followers

    @contextmanager
    def following(self, place: Place) -> Iterator[asyncio.Event]:
        """Give an event that is set when ``place`` may have changed; clear it before you look yourself.

        It is set also where nothing is certain: at first, and when a look fails.
        """
        news = asyncio.Event()
        self._followers[place].add(news)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            yield news
        finally:
            self._followers[place].discard(news)
            if not self._followers[place]:
                del self._followers[place]
                self._last.pop(place, None)
            if not self._followers and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    def wake(self, place: Place) -> None:
        """Tell those who follow ``place`` at once: this process has changed it."""
        for news in self._followers.get(place, ()):
            news.set()

    def wake_all(self) -> None:
        """Let all look for themselves."""
        for place in self._followers:
            self.wake(place)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            places = list(self._followers)
            try:
                found = await self._look(places)
            except Exception:  # whoever looks for himself is told what is wrong
                self.wake_all()
                continue
            for place in places:
                # What was never seen counts as changed: who follows may have looked before it did.
                if place in self._followers and self._last.get(place, _UNSEEN) != found.get(place):
                    self._last[place] = found.get(place)
                    self.wake(place)
