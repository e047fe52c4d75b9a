"""Streams between processes go in batches, and lose nothing by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from admiralty.runtime.serve.batches import batched

pytestmark = pytest.mark.requirement("serve.batches")

FOREVER = 30.0


def urgent(item: str) -> bool:
    return item.isupper()


async def at_once(*items: str) -> AsyncGenerator[str, None]:
    for item in items:
        yield item


async def test_what_is_ready_together_goes_together_in_order() -> None:
    assert [batch async for batch in batched(at_once("a", "b", "c"), urgent=urgent)] == [["a", "b", "c"]]
    assert [batch async for batch in batched(at_once(), urgent=urgent)] == []


async def test_the_first_item_and_an_urgent_one_do_not_wait_for_the_pause() -> None:
    go = asyncio.Event()

    async def source() -> AsyncGenerator[str, None]:
        yield "a"
        await go.wait()
        yield "b"
        await asyncio.sleep(0)
        yield "C"
        await asyncio.Event().wait()

    async with asyncio.timeout(10), aclosing(batched(source(), urgent=urgent, pause=FOREVER)) as batches:
        assert await anext(batches) == ["a"]
        go.set()
        assert await anext(batches) == ["b", "C"]


async def test_what_is_not_urgent_waits_for_the_pause_and_then_comes() -> None:
    async def source() -> AsyncGenerator[str, None]:
        for item in "abc":
            yield item
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async with asyncio.timeout(10), aclosing(batched(source(), urgent=urgent, pause=0.01)) as batches:
        got = await anext(batches)
        while len(got) < 3:
            got += await anext(batches)
    assert got == ["a", "b", "c"]


async def test_an_error_comes_after_what_was_before_it() -> None:
    async def source() -> AsyncGenerator[str, None]:
        yield "a"
        yield "b"
        raise ValueError("broke")

    got: list[str] = []

    async def read() -> None:
        async for batch in batched(source(), urgent=urgent, pause=FOREVER):
            got.extend(batch)

    with pytest.raises(ValueError, match="broke"):
        await read()
    assert got == ["a", "b"]


async def test_closing_the_batches_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with asyncio.timeout(10), aclosing(batched(source(), urgent=urgent)) as batches:
        assert await anext(batches) == ["a"]
    assert closed.is_set()
