"""A pipeline is a list of stages, folded once.

A stage is ``(attempt, next) -> stream``: it may change the attempt before it asks ``next``, look at
what comes back, ask ``next`` again, or answer by itself. The stream ends with exactly one ModelReply.
A stage closes the stream that it reads from, so that a caller who leaves ends the call at the provider.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from admiralty.core.errors import ConfigurationError
from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Model, ModelCall
from admiralty.runtime.ledger.values import Hold


@dataclass(kw_only=True, slots=True)
class Progress:
    """What has become of an attempt: the one value that stages change in place.

    It is read by stages further out after the stream has broken off, when nothing can be returned.
    """

    sent: bool = False
    """Whether a provider was asked: from then on it may cost something."""
    text_bytes: int = 0
    """UTF-8 bytes of the text that has streamed so far."""
    settled: Nanos | None = None
    """What the attempt was charged, once it is."""
    kept: Callable[[], Awaitable[None]] | None = None
    """Returns when the reply is kept for its run, which it is to be before anybody has it."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds that stages spent by themselves, by name; waiting included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A model call and what the stages have decided about it so far."""

    call: ModelCall
    id: str = ""
    """The call's own id for its first attempt; further ones have a number behind it."""
    model: Model | None = None
    policy: str = ""
    """Hash of the policy bundle that permitted it."""
    hold: Hold | None = None
    """The money set aside; ``None`` for what costs nothing."""
    measure: int = 0
    """Size of the input by rule, as the ledger keeps it to learn from."""
    input_tokens: int = 0
    """What the input is expected to count."""
    output_tokens: int | None = None
    """The output limit that was decided, which the provider is given."""
    deadline: float | None = None
    """Seconds since the epoch: the call's own, or an earlier one that was decided."""
    key: str = ""
    """Name of the provider's account that is used."""
    progress: Progress = field(default_factory=Progress)


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
