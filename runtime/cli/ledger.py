"""``admiralty ledger``: export it, and re-add it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.markup import escape

from admiralty.core.clock import SystemClock
from admiralty.core.errors import ConfigurationError
from admiralty.core.money import dollars_text
from admiralty.core.settings import Settings
from admiralty.runtime.cli.database import AsJson, Home, Since, Tenant, Until, print_json, with_database
from admiralty.runtime.cli.output import console, errors
from admiralty.runtime.ledger.export import FORMATS, ExportFormat
from admiralty.runtime.ledger.periods import parse_moment
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.ledger.verify import MAX_PROBLEMS, Verification, Verifier
from admiralty.runtime.ledger.viewer import Viewer
from admiralty.runtime.storage import Database

app = typer.Typer(help="Export the ledger, and re-add it.", no_args_is_help=True)


@app.command()
def export(
    form: Annotated[
        ExportFormat, typer.Option("--format", help="csv, jsonl, or focus (FinOps, 1.2).")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. [standard output]")
    ] = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    home: Home = None,
) -> None:
    """Write every entry of the ledger, by tenant and time."""
    now = SystemClock().now()
    begins = None if since is None else parse_moment(since, now, "--since")
    ends = now if until is None else parse_moment(until, now, "--until")

    async def write(database: Database, file: TextIO) -> int:
        written, count = FORMATS[form], 0
        file.write(written.head())
        async for rows in Reports(database).entries(since=begins, until=ends, viewer=Viewer(tenant=tenant)):
            file.write(written.body(rows))
            count += len(rows)
        return count

    settings = Settings.load(home=home)
    if output is None:
        with_database(settings, lambda database: write(database, sys.stdout), must_exist=True)
        return
    # Whoever reads the file meanwhile sees the old one; what is broken off leaves nothing behind.
    partial = output.with_name(f".{output.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            count = with_database(settings, lambda database: write(database, file), must_exist=True)
        partial.replace(output)
    except OSError as error:
        raise ConfigurationError(
            f"{output} cannot be written: {error.strerror}. Name another file."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    console.print(f"{count} entries in {escape(str(output))}.", soft_wrap=True)


@app.command()
def verify(home: Home = None, as_json: AsJson = False) -> None:
    """Re-add everything and say what is wrong. Exits with 1 if anything is."""
    found = with_database(
        Settings.load(home=home), lambda database: Verifier(database).verify(), must_exist=True
    )
    if as_json:
        print_json(_json(found))
    else:
        for problem in found.problems:
            errors.print(
                f"[bold red]{escape(problem.check)}[/] {escape(problem.where)}: {escape(problem.text)}",
                soft_wrap=True,
            )
        more = " or more" if len(found.problems) == MAX_PROBLEMS else ""
        verdict = (
            "[bold green]right[/]" if found.is_right else f"[bold red]{len(found.problems)}{more} wrong[/]"
        )
        console.print(
            f"{found.entries} entries (${dollars_text(found.spent)}, {found.estimated} estimated), "
            f"{found.counters} counters, {found.holds} holds: {verdict}",
            soft_wrap=True,
        )
    if not found.is_right:
        raise typer.Exit(1)


def _json(found: Verification) -> dict[str, object]:
    return {
        "right": found.is_right,
        "entries": found.entries,
        "counters": found.counters,
        "holds": found.holds,
        "spent_usd": dollars_text(found.spent),
        "estimated_entries": found.estimated,
        "problems": [
            {"check": problem.check, "where": problem.where, "text": problem.text}
            for problem in found.problems
        ],
    }
