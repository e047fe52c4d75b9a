"""Where calls wait for one provider's accounts: the fair queue and a limiter, in an event loop.

Whoever finds room goes at once; else calls wait in fair order, and one task asks for the first of them. It
knows tickets and seconds, not model calls.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from admiralty.core.errors import DeadlineExceeded, RateLimited
from admiralty.core.ports import Clock, Limiter
from admiralty.core.values import Permit
from admiralty.runtime.rates.fair import FairQueue, Ticket


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much waiting is allowed before calls are refused."""

    waiting: int = 1000
    """Calls that may wait for a provider."""
    seconds: float = 60.0
    """Longest wait to expect."""


class Lane:
    """The accounts of one provider, and those who wait for them."""

    def __init__(self, name: str, limiter: Limiter, clock: Clock, bounds: Bounds) -> None:
        self._name = name
        self._limiter = limiter
        self._clock = clock
        self._bounds = bounds
        self._queue = FairQueue()
        self._futures: dict[Ticket, asyncio.Future[Permit]] = {}
        self._news = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._asking = 0
        self._free_at = 0.0
        self._unsure: dict[
            Ticket, float | None
        ] = {}  # deadlines of those who came when room was not ruled out

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    async def enter(self, ticket: Ticket, deadline: float | None) -> Permit:
        """Return the permit for a call as soon as it is its turn.

        Raises RateLimited at once where the bounds or the deadline (seconds since the epoch) cannot be kept,
        and DeadlineExceeded when it passes all the same.
        """
        if not self._queue and not self._asking:
            permit = await self._take(ticket)
            if permit.key:
                return permit
            self._free_at = self._clock.monotonic() + permit.wait
        if self._free_at > self._clock.monotonic():
            self._refuse_the_hopeless(ticket, deadline)
        else:
            self._unsure[ticket] = deadline
        return await self._wait(ticket, deadline)

    def look_again(self) -> None:
        """Tell those who wait that there may be room earlier than was said."""
        self._news.set()

    async def close(self) -> None:
        """End the waiting: those who still wait are cancelled."""
        for future in self._futures.values():
            future.cancel()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _take(self, ticket: Ticket) -> Permit:
        self._asking += 1
        try:
            return await self._limiter.take(ticket.keys, ticket.tokens)
        finally:
            self._asking -= 1

    def _refuse_the_hopeless(self, ticket: Ticket, deadline: float | None) -> None:
        now = self._clock.monotonic()
        expected = max(0.0, self._free_at - now) + self._queue.ahead(ticket)
        left = self._bounds.seconds if deadline is None else deadline - self._clock.now()
        if len(self._queue) >= self._bounds.waiting:
            problem = f"{len(self._queue)} calls wait for {self._name} already"
        elif expected > self._bounds.seconds:
            problem = f"it would wait about {expected:.0f} s for {self._name}, more than is allowed"
        elif expected > left:
            problem = f"it would wait about {expected:.1f} s for {self._name}, beyond its deadline"
        else:
            return
        raise RateLimited(
            f"The call was not queued: {problem}.", retry_after=max(expected, 0.1), refused="queue"
        )

    async def _wait(self, ticket: Ticket, deadline: float | None) -> Permit:
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self._futures[ticket] = future
        self._queue.push(ticket)
        if self._queue.first() is ticket:
            self._news.set()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve())
            self._pump.add_done_callback(self._served)
        seconds = None if deadline is None else deadline - self._clock.now()
        try:
            async with asyncio.timeout(seconds):
                return await future
        except BaseException as error:
            if (
                future.done() and not future.cancelled() and not future.exception()
            ):  # its turn came, and it goes
                await self._limiter.give_back(future.result(), requests=1, tokens=ticket.tokens)
                self._news.set()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"The call's deadline passed while it waited for {self._name}.",
                    retry_after=max(0.1, self._free_at - self._clock.monotonic()),
                ) from None
            raise
        finally:
            self._futures.pop(ticket, None)
            self._unsure.pop(ticket, None)
            if self._queue.remove(ticket):
                self._news.set()

    async def _serve(self) -> None:
        """Give permits in order until nobody waits."""
        while ticket := self._queue.first():
            self._news.clear()
            permit = await self._take(ticket)
            if permit.key:
                future = self._futures.get(ticket)
                # Taken out here also if nobody waits for it any more, or this would go on for ever.
                self._queue.remove(ticket, served=True)
                if future is None or future.done():  # it went while the limiter was asked
                    await self._limiter.give_back(permit, requests=1, tokens=ticket.tokens)
                else:
                    future.set_result(permit)
                continue
            self._free_at = self._clock.monotonic() + permit.wait
            self._sift()
            if not self._queue:
                return
            try:
                async with asyncio.timeout(permit.wait):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _sift(self) -> None:
        """Now that there is no room, treat those who came before it was known as if they came now."""
        unsure = {ticket: due for ticket, due in self._unsure.items() if self._queue.remove(ticket)}
        self._unsure.clear()
        for ticket, deadline in unsure.items():
            try:
                self._refuse_the_hopeless(ticket, deadline)
            except RateLimited as error:
                if not self._futures[ticket].done():
                    self._futures[ticket].set_exception(error)
            else:
                self._queue.push(ticket)

    def _served(self, pump: asyncio.Task[None]) -> None:
        """See that nobody waits for a task that has failed."""
        if not pump.cancelled() and (error := pump.exception()):
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(error)
