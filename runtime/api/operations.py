"""For whoever runs it: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from admiralty.core.errors import Retryable
from admiralty.runtime.api.errors import problem_response
from admiralty.runtime.api.metrics import CONTENT_TYPE, HttpMetrics, render
from admiralty.runtime.api.parts import ApiParts
from admiralty.runtime.api.wire import Shown, json_response
from admiralty.runtime.ledger.figures import Kept
from admiralty.runtime.problems import problem

CHECK_SECONDS = 2.0
"""A part that has not answered by then is not ready."""

FRESH_SECONDS = 1.0
"""How long a look at the parts holds: anyone may ask /readyz, as often as they like."""

TAGS: list[Any] = ["operations"]


class Health(Shown):
    """This process answers."""

    status: Literal["ok"]
    version: str


class Ready(Shown):
    """Turns can be answered."""

    status: Literal["ready"]
    parts: dict[str, bool]


class Readiness:
    """Looks whether all parts are there, at most once in ``FRESH_SECONDS``."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._lock = asyncio.Lock()
        self._seen: tuple[float, dict[str, bool]] | None = None

    async def look(self) -> dict[str, bool]:
        """Return for each part whether it is ready."""
        async with self._lock:
            now = self._parts.clock.monotonic()
            if self._seen is None or self._seen[0] <= now:
                self._seen = (now + FRESH_SECONDS, await self._look())
            return self._seen[1]

    async def _look(self) -> dict[str, bool]:
        found = {"database": await _answers(self._parts.keys.find(""))}
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return found | dict(await self._parts.readiness())
        except Exception:
            return found | {"parts": False}


async def _answers(question: Any) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await question
    except Exception:
        return False
    return True


def add_health_routes(router: APIRouter, parts: ApiParts) -> None:
    """Add ``/healthz`` and ``/readyz``, open to anyone."""
    readiness = Readiness(parts)

    @router.get("/healthz", tags=TAGS, summary="Is the process alive?", response_model=Health)
    async def healthz() -> Response:
        """Return at once, whatever else is wrong."""
        return json_response({"status": "ok", "version": parts.version})

    @router.get("/readyz", tags=TAGS, summary="Can turns be answered?", response_model=Ready)
    async def readyz(request: Request) -> Response:
        """Return 200 if the database answers and every part is ready, else 503 naming what is not."""
        found = await readiness.look()
        if missing := sorted(name for name, ready in found.items() if not ready):
            error = Retryable(f"Not ready: {', '.join(missing)}.", retry_after=1.0, parts=found)
            return problem_response(problem(error), request.scope)
        return json_response({"status": "ready", "parts": found})


def add_metrics_route(router: APIRouter, parts: ApiParts, http: HttpMetrics) -> None:
    """Add ``/metrics``."""
    one_at_a_time = asyncio.Lock()
    turns = Kept(parts.conversations.turns_by_status, parts.clock)
    parts.conversations.watch(http.happened)

    @router.get(
        "/metrics",
        tags=TAGS,
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Return turns, calls, tokens, cost and budgets from SQL, and this process's own counters."""
        async with one_at_a_time:
            totals, ended, budgets = await asyncio.gather(
                parts.figures.totals(), turns.get(), parts.figures.budgets()
            )
        return Response(render(http, totals, ended, budgets), headers={"Content-Type": CONTENT_TYPE})
