"""A pipeline is a list of stages, folded once.

A stage is ``(attempt, next) -> stream``: it may change the attempt before it asks ``next``, look at
what comes back, or answer by itself. The stream ends with exactly one ModelReply. A stage closes
the stream that it reads from, so that a caller who leaves ends the call at the provider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Model, ModelCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A model call and what the stages have decided about it so far."""

    call: ModelCall
    model: Model | None = None


Next = Callable[[Attempt], AnswerStream]
Stage = Callable[[Attempt, Next], AnswerStream]


def fold(stages: Sequence[Stage]) -> Next:
    """Return the pipeline that runs ``stages`` in order.

    Raises ConfigurationError for an empty list: nothing would answer, and nothing may pass ungoverned.
    """
    if not stages:
        raise ConfigurationError("The scheduler has no stages. Pass default_stages(...).")

    def end(attempt: Attempt) -> AnswerStream:
        raise ConfigurationError(f"No stage answered call {attempt.call.id}: dispatch must be the last.")

    pipeline: Next = end
    for stage in reversed(stages):
        pipeline = _bind(stage, pipeline)
    return pipeline


def _bind(stage: Stage, following: Next) -> Next:
    return lambda attempt: stage(attempt, following)
