"""``admiralty spend``: what was spent, by whom and on what."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from admiralty.core.clock import SystemClock
from admiralty.core.settings import Settings
from admiralty.runtime.cli.database import print_json, with_database
from admiralty.runtime.cli.output import console
from admiralty.runtime.ledger.describe import spend_json
from admiralty.runtime.ledger.periods import parse_moment
from admiralty.runtime.ledger.reports import Interval, Reports
from admiralty.runtime.ledger.viewer import Viewer


def run_spend(
    home: Path | None,
    *,
    by: str,
    since: str | None,
    until: str | None,
    interval: Interval | None,
    tenant: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print what was spent."""
    now = SystemClock().now()
    begins = None if since is None else parse_moment(since, now, "--since")
    ends = now if until is None else parse_moment(until, now, "--until")
    names = [name.strip() for name in by.split(",") if name.strip()]
    found = with_database(
        Settings.load(home=home),
        lambda database: Reports(database).spend(
            names, since=begins, until=ends, interval=interval, viewer=Viewer(tenant=tenant), limit=limit
        ),
    )
    told = spend_json(found)
    if as_json:
        print_json(told | {"interval": interval, "since": begins, "until": ends})
        return
    table = Table(box=None, header_style="bold", show_footer=bool(names or interval))
    for name in ([interval] if interval else []) + names:
        table.add_column(escape(name), footer="")
    total = told["total"]
    for name, key in (("calls", "calls"), ("input", "input_tokens"), ("output", "output_tokens")):
        table.add_column(name, justify="right", footer=f"{total[key]:,}")
    table.add_column("cost", justify="right", footer=f"${total['cost_usd']}")
    for line in told["data"]:
        cells = [line["period"]] if interval else []
        cells += ["-" if value in (None, "") else value for value in line["group"].values()]
        numbers = [f"{line[key]:,}" for key in ("calls", "input_tokens", "output_tokens")]
        table.add_row(*(escape(str(cell)) for cell in cells), *numbers, f"${line['cost_usd']}")
    console.print(table)
    if told["truncated"]:
        console.print(f"[dim]Only the first {limit} lines: ask for more with --limit.[/]")
