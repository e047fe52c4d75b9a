"""A run as listeners hear it: in the order in which it happened, whatever is being stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from admiralty.core.frozen import replace
from admiralty.core.values import Event
from admiralty.runtime.conversations import LiveRun
from admiralty.runtime.durable.values import Run


def token(text: str) -> Event:
    return Event(type="token", data={"text": text})


def step(number: int) -> Event:
    return Event(type="step", data={"step": number})


async def nowhere(after: int, idle: float | None) -> AsyncGenerator[Sequence[Event], None]:
    raise AssertionError("it is executed here")
    yield ()


@pytest.mark.requirement("conversations.order")
async def test_tokens_that_come_while_a_step_is_stored_are_heard_behind_it() -> None:
    storing, stored = asyncio.Event(), asyncio.Event()

    async def store(events: Sequence[Event], unsure: int | None) -> list[Event]:
        storing.set()
        await stored.wait()
        return [replace(event, seq=event.data["step"]) for event in events]

    run = Run(id="run_1", conversation_id="conv_1", turn=1, status="running", message="m", started_at=0.0)
    live = LiveRun(run=run, tail=nowhere, store=store)
    live.emit(step(1))
    await asyncio.wait_for(storing.wait(), 5)
    live.emit(token("a"))
    assert live.happened == [], "nothing is heard before what came before it is stored"
    live.emit(step(2))
    live.emit(token("b"))
    stored.set()
    async with asyncio.timeout(5):
        heard = [await anext(batches) for batches in [live.batches()] for _ in range(2)]
    assert [(event.type, event.data) for batch in heard for event in batch] == [
        ("step", {"step": 1}),
        ("token", {"text": "a"}),
        ("step", {"step": 2}),
        ("token", {"text": "b"}),
    ]
