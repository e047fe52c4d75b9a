"""Streams between processes in batches: a message of Serve's costs more than what is in it.

A token that crosses two hops on its own costs 2 ms of processor time. Nobody reads faster than a few
times in a tenth of a second, so what comes in between goes together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.02
"""Least time between two batches of a stream that are not urgent."""


async def batched(
    source: AsyncGenerator[T, None], *, urgent: Callable[[T], bool], pause: float = PAUSE_SECONDS
) -> AsyncGenerator[list[T], None]:
    """Yield what ``source`` yields, in order, in lists.

    The first item goes at once, and so does an urgent one with all before it; others wait until
    ``pause`` seconds after the batch before. An error of ``source`` comes after what it had yielded.
    Closing this closes ``source``.
    """
    queue: asyncio.Queue[T | _End] = asyncio.Queue()

    async def read() -> None:
        try:
            async with aclosing(source) as items:
                async for item in items:
                    queue.put_nowait(item)
        finally:
            queue.put_nowait(_End())

    reading = asyncio.create_task(read())
    clock = asyncio.get_running_loop().time
    earliest = clock()
    try:
        item = await queue.get()
        while not isinstance(item, _End):
            batch = [item]
            while not urgent(batch[-1]) or not queue.empty():
                try:
                    item = await _next(queue, until=earliest - clock())
                except TimeoutError:
                    break
                if isinstance(item, _End):
                    break
                batch.append(item)
            yield batch
            earliest = clock() + pause
            if not isinstance(item, _End):
                item = await queue.get()
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class _End:
    """Comes behind the last item."""


async def _next(queue: asyncio.Queue[T | _End], *, until: float) -> T | _End:
    """Return the next item; TimeoutError if there is none and none comes within ``until`` seconds."""
    if not queue.empty():
        return queue.get_nowait()
    if until <= 0:
        raise TimeoutError
    async with asyncio.timeout(until):
        return await queue.get()
