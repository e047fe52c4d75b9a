"""What a streamed completion says when a run is taken over in the middle of its text."""

from __future__ import annotations

from typing import Any

import pytest

from admiralty.core.values import Event
from admiralty.runtime.api.chat import ChunkWriter, Completion
from admiralty.runtime.durable.values import Run

STEP = Event(type="step", data={"agent": "clerk", "step": 1})
TAKEN_OVER = Event(type="run", data={"run_id": "run_1", "status": "running", "attempt": 2})


def token(text: str) -> Event:
    return Event(type="token", data={"text": text})


def done(text: str) -> Event:
    told: dict[str, Any] = {"run_id": "run_1", "conversation_id": "conv_1", "turn": 1, "status": "done"}
    told |= {"message": text, "agent": "clerk", "metadata": {}, "cost_usd": "0", "unpriced_calls": 0}
    return Event(
        type="done",
        data=told | {"seconds": 1.0, "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}},
    )


@pytest.mark.requirement("api.openai_stream")
@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([STEP, token("One "), token("two"), done("One two")], "One two"),
        ([STEP, token("One "), TAKEN_OVER, token("One "), token("two"), done("One two")], "One two"),
        ([STEP, token("One t"), TAKEN_OVER, token("One two three"), done("One two three")], "One two three"),
        ([STEP, token("One "), TAKEN_OVER, token("On"), TAKEN_OVER, done("One two")], "One two"),
        ([STEP, token("One"), TAKEN_OVER, done("One")], "One"),
        ([STEP, token("One "), TAKEN_OVER, token("Other"), done("Other")], "One \n\nOther"),
        ([STEP, token("One "), TAKEN_OVER, STEP, token("Then"), done("Then")], "One \n\nThen"),
        ([TAKEN_OVER, STEP, token("One"), done("One")], "One"),
    ],
)
def test_what_was_shown_before_a_run_was_taken_over_is_not_shown_again(
    events: list[Event], said: str
) -> None:
    run = Run(id="run_1", conversation_id="conv_1", turn=1, status="running", message="m", started_at=0.0)
    completion = Completion(run=run, model="desk", created=0, ignored=[])
    writer = ChunkWriter(completion=completion, include_usage=False)
    chunks = [chunk for event in events for chunk in writer.chunks(event)]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == said
