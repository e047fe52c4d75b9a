"""Stage: choose the model, by a fixed table of tiers, and go on with another where that helps.

Owns the loop over the attempts of one call; what is next is decided by :func:`~.retry.what_next`. Each
attempt passes the stages behind it anew, with an id and a progress of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from admiralty.core.errors import AdmiraltyError, OutputInvalid
from admiralty.core.frozen import replace
from admiralty.core.money import Nanos
from admiralty.core.ports import AnswerStream, Clock
from admiralty.core.values import ModelReply, Tier
from admiralty.runtime.scheduler.pipeline import Attempt, Next, Progress
from admiralty.runtime.scheduler.retry import Patience, models_of, what_next

Failures = list[tuple[Attempt, AdmiraltyError]]


class Route:
    """Sends each tier to the model that the settings name for it.

    ``fallbacks`` names for a model those that stand in for it, in order. The reply's cost is that of all
    attempts together; ``attempt.progress`` of the call as a whole is their sum too.
    """

    def __init__(
        self,
        tier_models: Mapping[Tier, str],
        clock: Clock,
        *,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        patience: Patience | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._models = models_of(tier_models, fallbacks or {})
        self._clock = clock
        self._patience = patience or Patience()
        self._sleep = sleep
        self._draw = draw

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        call, whole = attempt.call, attempt.progress
        failures: Failures = []
        model = self._models.tiers[call.tier]
        while True:
            number = len(failures) + 1
            name = call.id if number == 1 else f"{call.id}-{number}"
            current = replace(attempt, id=name, model=model, progress=Progress())
            seen = False
            try:
                async with aclosing(following(current)) as stream:
                    async for chunk in stream:
                        seen = True
                        if isinstance(chunk, ModelReply):
                            chunk = replace(chunk, cost=_total(failures, current, chunk.cost))
                        yield chunk
                return
            except AdmiraltyError as error:
                failures.append((current, error))
                step = what_next(
                    error,
                    tried=[tried.model for tried, _ in failures if tried.model],
                    models=self._models,
                    lowest=call.lowest_tier,
                    seen=seen,
                    left=None if call.deadline is None else call.deadline - self._clock.now(),
                    draw=self._draw(),
                    patience=self._patience,
                )
                if step is None:
                    _tell(error, failures)
                    raise
            finally:
                _add(whole, current.progress)
            if step.pause > 0:
                await self._sleep(step.pause)
                whole.timings["route"] = whole.timings.get("route", 0.0) + step.pause
            model = step.model


def _total(failures: Failures, last: Attempt | None, told: Nanos | None) -> Nanos | None:
    """Return what the failed attempts and the last one cost together; None where one is not known.

    ``told`` is the cost that the last one's reply tells, for pipelines in which nothing settles.
    """
    costs: list[Nanos | None] = []
    for attempt, _ in failures:
        progress = attempt.progress
        costs.append(Nanos(0) if progress.settled is None and not progress.sent else progress.settled)
    if last is not None:
        costs.append(told if last.progress.settled is None else last.progress.settled)
    known = [cost for cost in costs if cost is not None]
    return Nanos(sum(known)) if len(known) == len(costs) else None


def _tell(error: AdmiraltyError, failures: Failures) -> None:
    """Add to the error what was tried before it, and to its reply what all of that cost."""
    if isinstance(error, OutputInvalid) and error.reply is not None:
        last, _ = failures[-1]
        error.reply = replace(error.reply, cost=_total(failures[:-1], last, error.reply.cost))
    if len(failures) > 1:
        tried = [(attempt.model.id if attempt.model else "", failed.code) for attempt, failed in failures]
        error.details["tried"] = [{"model": model, "error": code} for model, code in tried]
        error.message += " Tried: " + ", ".join(f"{model} ({code})" for model, code in tried) + "."
        error.args = (error.message,)


def _add(whole: Progress, part: Progress) -> None:
    whole.sent = whole.sent or part.sent
    whole.text_bytes += part.text_bytes
    if part.settled is not None:
        whole.settled = Nanos((whole.settled or 0) + part.settled)
    for stage, seconds in part.timings.items():
        whole.timings[stage] = whole.timings.get(stage, 0.0) + seconds
