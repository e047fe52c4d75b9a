from __future__ import annotations

import asyncio
from threading import Event

import numpy as np
import pytest

from admiralty.core.ports import Vectors
from admiralty.memory.batching import BatchedEncoder


class Gate:
    """An encoder that notes its batches and stands still until it is let go."""

    def __init__(self, *, fails_on: str | None = None) -> None:
        self.batches: list[list[str]] = []
        self.entered = Event()
        self.let_go = Event()
        self._fails_on = fails_on

    def __call__(self, texts: list[str]) -> Vectors:
        self.batches.append(texts)
        self.entered.set()
        if not self.let_go.wait(timeout=30):
            raise TimeoutError("the event loop did not let the encoder go: it was blocked")
        if self._fails_on in texts:
            raise ValueError(f"cannot read {self._fails_on}")
        return np.array([[float(len(text))] for text in texts], dtype=np.float32)


async def _begin(encoder: BatchedEncoder, gate: Gate) -> asyncio.Task[Vectors]:
    """Start a first batch, and return when it is being computed."""
    first = asyncio.create_task(encoder.embed(["first"]))
    assert await asyncio.to_thread(gate.entered.wait, 30)
    return first


async def _queue(encoder: BatchedEncoder, *requests: list[str]) -> list[asyncio.Task[Vectors]]:
    tasks = [asyncio.create_task(encoder.embed(texts)) for texts in requests]
    await asyncio.sleep(0)  # each task runs up to where it waits
    return tasks


@pytest.mark.requirement("memory.batch")
async def test_requests_that_arrive_during_a_batch_share_the_next_one() -> None:
    gate = Gate()
    encoder = BatchedEncoder(gate, 1)
    first = await _begin(encoder, gate)
    others = await _queue(encoder, ["a"], ["bb", "a"], ["ccc"])
    gate.let_go.set()
    async with asyncio.timeout(30):
        assert (await first).tolist() == [[5.0]]
        assert [(await other).tolist() for other in others] == [[[1.0]], [[2.0], [1.0]], [[3.0]]]
    assert gate.batches == [["first"], ["a", "bb", "ccc"]]


@pytest.mark.requirement("memory.batch")
async def test_a_large_request_lets_small_ones_in_between_its_batches() -> None:
    gate = Gate()
    encoder = BatchedEncoder(gate, 1, max_batch=2)
    first = await _begin(encoder, gate)
    large, small = await _queue(encoder, ["1", "22", "333", "4444"], ["small"])
    gate.let_go.set()
    async with asyncio.timeout(30):
        assert (await large).tolist() == [[1.0], [2.0], [3.0], [4.0]]
        await asyncio.gather(first, small)
    assert gate.batches[1] == ["1", "22"]
    assert "small" in gate.batches[2]
    assert max(len(batch) for batch in gate.batches) <= 2


@pytest.mark.requirement("memory.batch")
async def test_a_caller_that_left_is_not_computed_for() -> None:
    gate = Gate()
    encoder = BatchedEncoder(gate, 1)
    first = await _begin(encoder, gate)
    gone, stays = await _queue(encoder, ["gone"], ["stays"])
    gone.cancel()
    await asyncio.wait([gone])
    gate.let_go.set()
    async with asyncio.timeout(30):
        await asyncio.gather(first, stays)
    assert gate.batches == [["first"], ["stays"]]


@pytest.mark.requirement("memory.batch")
async def test_a_failure_reaches_those_who_waited_for_it_and_later_requests_go_on() -> None:
    gate = Gate(fails_on="bad")
    gate.let_go.set()
    encoder = BatchedEncoder(gate, 1)
    async with asyncio.timeout(30):
        with pytest.raises(ValueError, match="cannot read bad"):
            await encoder.embed(["bad"])
        assert (await encoder.embed(["good"])).tolist() == [[4.0]]


@pytest.mark.requirement("memory.cache")
async def test_a_text_is_computed_once_while_it_is_remembered_and_least_used_ones_are_forgotten() -> None:
    gate = Gate()
    gate.let_go.set()
    encoder = BatchedEncoder(gate, 1, cache_size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await encoder.embed([text])
    assert gate.batches == [["a"], ["b"], ["c"], ["b"]]


def test_one_encoder_serves_one_event_loop_after_another() -> None:
    gate = Gate()
    gate.let_go.set()
    encoder = BatchedEncoder(gate, 1)
    for text in ("a", "bb"):
        assert asyncio.run(encoder.embed([text])).tolist() == [[float(len(text))]]
