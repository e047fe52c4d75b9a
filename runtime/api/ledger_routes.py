"""``/v1/spend`` and ``/v1/ledger``: what was spent, summed up and entry by entry."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import RowMapping
from starlette.responses import Response, StreamingResponse

from admiralty.core.ports import Clock
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.wire import Shown, json_response
from admiralty.runtime.ledger.describe import spend_json
from admiralty.runtime.ledger.export import FORMATS, ExportFormat, Written
from admiralty.runtime.ledger.periods import parse_moment
from admiralty.runtime.ledger.reports import GROUPS, MAX_LINES, Interval, Reports
from admiralty.runtime.ledger.viewer import Viewer

TAGS: list[Any] = ["money"]

Since = Annotated[
    str | None,
    Query(max_length=40, description="From when: `7d`, `24h`, `2026-11-22`, `2026-11-22T10:00Z`, seconds."),
]
Until = Annotated[str | None, Query(max_length=40, description="Until before when; now, if left out.")]


class SpendMeasures(Shown):
    """What was used and spent. Amounts are decimals in text, exact."""

    calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    """Part of the input."""
    cache_write_tokens: int
    """Part of the input."""
    reasoning_tokens: int
    """Part of the output."""
    cost_usd: str
    estimated_usd: str
    """Part of the cost that was charged by estimate; corrections of it are not deducted."""
    debt_usd: str
    """Part of the cost beyond what had been held for the calls."""


class SpendLineInfo(SpendMeasures):
    """What one group spent."""

    period: str | None
    """Beginning of the interval in UTC."""
    group: dict[str, str | None]


class SpendInfo(Shown):
    """What was spent, most expensive first in each interval."""

    object: Literal["spend"]
    group_by: list[str]
    interval: Interval | None
    since: float | None
    until: float
    data: list[SpendLineInfo]
    total: SpendMeasures
    """Of everything, also of what was cut off."""
    truncated: bool


def add_ledger_routes(router: APIRouter, reports: Reports, clock: Clock) -> None:
    """Add ``/v1/spend`` and ``/v1/ledger``."""

    @router.get("/v1/spend", tags=TAGS, summary="What was spent", response_model=SpendInfo)
    async def spend(
        identity: Me,
        group_by: Annotated[
            str,
            Query(max_length=500, description=f"Any of {', '.join(GROUPS)}, tag:KEY; with commas between."),
        ] = "",
        since: Since = None,
        until: Until = None,
        interval: Annotated[Interval | None, Query(description="Split by intervals of UTC.")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LINES, description="Lines at most.")] = 1000,
    ) -> Response:
        """Sum up what your tenant spent, or your team if the key is a team's."""
        begins, ends = _time(since, until, clock.now())
        names = [name.strip() for name in group_by.split(",") if name.strip()]
        found = await reports.spend(
            names, since=begins, until=ends, interval=interval, viewer=Viewer.of(identity), limit=limit
        )
        return json_response(spend_json(found) | {"interval": interval, "since": begins, "until": ends})

    @router.get(
        "/v1/ledger",
        tags=TAGS,
        summary="Export the ledger",
        response_class=Response,
        responses={
            200: {
                "description": "The entries, as a file.",
                "content": {
                    "text/csv": {"schema": {"type": "string"}},
                    "application/jsonl": {"schema": {"type": "string"}},
                },
            }
        },
    )
    async def ledger(
        identity: Me,
        format: Annotated[  # noqa: A002 - the parameter's name in the URL
            ExportFormat, Query(description="`focus` is the FinOps format, version 1.2, as CSV.")
        ] = "csv",
        since: Since = None,
        until: Until = None,
    ) -> Response:
        """Return every entry of your tenant, or of your team if the key is a team's, by time."""
        now = clock.now()
        begins, ends = _time(since, until, now)
        written = FORMATS[format]
        pages = reports.entries(since=begins, until=ends, viewer=Viewer.of(identity))
        first = await anext(pages, None)  # what goes wrong with the database goes wrong before the answer
        name = f"ledger-{dt.datetime.fromtimestamp(now, dt.UTC):%Y-%m-%d}.{written.suffix}"
        return StreamingResponse(
            _file(written, first, pages),
            media_type=written.media_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


async def _file(
    written: Written,
    first: Sequence[RowMapping] | None,
    pages: AsyncGenerator[Sequence[RowMapping], None],
) -> AsyncGenerator[str, None]:
    yield written.head() + (written.body(first) if first else "")
    async for rows in pages:
        yield written.body(rows)


def _time(since: str | None, until: str | None, now: float) -> tuple[float | None, float]:
    """Return a stretch of time. It ends now at the latest, so that a report is of one moment."""
    begins = None if since is None else parse_moment(since, now, "since")
    return begins, now if until is None else parse_moment(until, now, "until")
