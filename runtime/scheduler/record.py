"""Stage: measure every call, also one that failed or was left. Writes no SQL: the ledger is the record.

Stands outermost, so that it sees a call as its caller does: all its attempts together.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from admiralty.core.errors import AdmiraltyError, OutputInvalid
from admiralty.core.money import dollars_text
from admiralty.core.ports import AnswerStream, Clock, Metrics
from admiralty.core.values import ModelReply
from admiralty.runtime.scheduler.metrics import NoMetrics
from admiralty.runtime.scheduler.pipeline import Attempt, Next

REFUSALS = frozenset({"denied", "budget_exceeded", "rate_limited"})
"""Codes of errors that say no before anything was asked."""

_KINDS = ("input", "output", "cached", "cache_write", "reasoning", "audio_input", "audio_output")


class Record:
    """Counts calls, refusals, tokens and cost, and the seconds of the call and of each stage.

    An error that goes out tells what its call cost all the same, in ``details["cost_usd"]``.
    """

    def __init__(self, metrics: Metrics | None, clock: Clock) -> None:
        self._metrics = NoMetrics() if metrics is None else metrics
        self._clock = clock

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        started = self._clock.monotonic()
        reply: ModelReply | None = None
        status = "error"
        try:
            async with aclosing(following(attempt)) as stream:
                async for chunk in stream:
                    if isinstance(chunk, ModelReply):
                        reply, status = chunk, "ok"
                    yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            if reply is None:
                status = "cancelled"
            raise
        except AdmiraltyError as error:
            settled = attempt.progress.settled
            if settled:
                error.details.setdefault("cost_usd", dollars_text(settled))
            if isinstance(error, OutputInvalid):
                reply = error.reply
            if error.code in REFUSALS:
                status = "refused"
                tags = {"agent": attempt.call.caller.agent, "action": "model:call", "resource": ""}
                self._metrics.add("refused", 1, {**tags, "code": error.code})
            raise
        finally:
            self._measure(attempt, reply, status, self._clock.monotonic() - started)

    def _measure(self, attempt: Attempt, reply: ModelReply | None, status: str, seconds: float) -> None:
        call, progress, metrics = attempt.call, attempt.progress, self._metrics
        tags = {
            "agent": call.caller.agent,
            "model": reply.model if reply else attempt.model.id if attempt.model else "",
            "tier": reply.tier if reply else call.tier,
        }
        metrics.add("calls", 1, {**tags, "status": status})
        metrics.observe("call_seconds", seconds, {**tags, "status": status})
        cost = progress.settled if progress.settled is not None else reply.cost if reply else None
        if cost:
            metrics.add("cost_usd", cost / 1e9, tags)
        if reply is not None:
            for kind in _KINDS:
                if tokens := getattr(reply.usage, f"{kind}_tokens"):
                    metrics.add("tokens", tokens, {**tags, "kind": kind})
        for stage, spent in progress.timings.items():
            metrics.observe("stage_seconds", spent, {"stage": stage})
