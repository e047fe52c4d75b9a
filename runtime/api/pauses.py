"""What clients are told whose turn has no answer yet: it waits for a person, or goes on elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from admiralty.core.errors import RunInterrupted
from admiralty.core.values import Event
from admiralty.runtime.conversations.outcome import costs_of
from admiralty.runtime.durable.values import Run
from admiralty.runtime.problems import problem

HANDED_ON = "run_handed_on"


def run_path(run: Run) -> str:
    """Return where a run is shown; its events are below it."""
    return f"/v1/conversations/{run.conversation_id}/runs/{run.id}"


def waits_for_person(event: Event) -> bool:
    """Tell whether an event says that the run goes on only when a person has decided."""
    return event.type == "approval" and event.data["status"] == "pending"


def waiting_result(run: Run, asked: Event, costs: Sequence[Event]) -> dict[str, Any]:
    """Return what stands in the place of an answer while a person is waited for."""
    return {
        "status": "waiting",
        "run_id": run.id,
        "conversation_id": run.conversation_id,
        "turn": run.turn,
        "approval": dict(asked.data),
        **costs_of(costs),
    }


def waiting_text(result: Mapping[str, Any]) -> str:
    """Return a sentence for a client that knows of answers only."""
    approval = result["approval"]
    return (
        f"A person must approve this first: {approval['tool']}. {approval['reason'].rstrip('.')}. The "
        f"approval is {approval['approval_id']}. When it is decided the turn goes on by itself, and its "
        f"answer will be in the conversation {result['conversation_id']}."
    )


def handed_on(run: Run) -> Event:
    """Return the ``error`` for a client whose run goes on in another process; it is stored nowhere."""
    path = run_path(run)
    left = RunInterrupted(
        "This replica is shutting down. The message is kept and is answered by another: do not send it "
        f"again. The answer will be at {path}, and what happens until then at {path}/events.",
        retry_after=1.0,
        run_id=run.id,
        conversation_id=run.conversation_id,
    )
    return Event(type="error", data=problem(left, code=HANDED_ON))
