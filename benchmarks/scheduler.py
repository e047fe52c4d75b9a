"""What governing a model call costs: added latency, calls a second, time by stage, with and without a past.

    python -m benchmarks.scheduler [--groups overhead,http,processes,growth] [--rounds 3] [--seconds 3]

A governed call passes policy, hold, rate, settle and record of a whole scheduler, with budgets at four
levels; the bare one asks the same provider object alone. Both in turn, in the same processes, in the same
rounds; medians over the rounds. The ratios matter: the machine's other work is in both.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.harness import machine
from benchmarks.scheduler_run import Cell, Options, Setup, run_group

GROUPS: Final[dict[str, tuple[Setup, ...]]] = {
    "overhead": (
        Setup(database="sqlite"),
        Setup(database="sqlite", synchronous="FULL"),
        Setup(database="postgres"),
    ),
    "http": (Setup(database="sqlite", provider="http"), Setup(database="postgres", provider="http")),
    "processes": (
        Setup(database="sqlite", processes=2),
        Setup(database="postgres", processes=2),
    ),
    "growth": (
        Setup(database="sqlite"),
        Setup(database="sqlite", past=True),
        Setup(database="postgres"),
        Setup(database="postgres", past=True),
    ),
}

COLUMNS: Final = (
    *("setup", "clients", "bare /s", "governed /s", "range", "bare p50", "governed p50", "added p50"),
    *("p99", "CPU ms", "server CPU", "hold", "rate", "dispatch", "settle", "errors"),
)


def medians(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a row for each setup and concurrency: medians over the rounds, governed beside bare."""
    rows = []
    for setup, concurrency in dict.fromkeys((cell.setup, cell.concurrency) for cell in cells):
        mine = [cell for cell in cells if (cell.setup, cell.concurrency) == (setup, concurrency)]
        bare = [cell for cell in mine if cell.way == "bare"]
        governed = [cell for cell in mine if cell.way == "governed"]
        stages = {stage for cell in governed for stage in cell.stages}
        rates = [cell.calls_per_second for cell in governed]
        row: dict[str, Any] = {
            "setup": setup,
            "concurrency": concurrency,
            "bare_per_second": statistics.median(cell.calls_per_second for cell in bare),
            "governed_per_second": statistics.median(rates),
            "lowest_per_second": min(rates),
            "highest_per_second": max(rates),
            "bare_p50_ms": statistics.median(cell.p50_ms for cell in bare),
            "governed_p50_ms": statistics.median(cell.p50_ms for cell in governed),
            "added_p50_ms": statistics.median(
                two.p50_ms - one.p50_ms for one, two in zip(bare, governed, strict=True)
            ),
            "governed_p99_ms": statistics.median(cell.p99_ms for cell in governed),
            "cpu_ms": statistics.median(cell.cpu_ms for cell in governed),
            "bare_cpu_ms": statistics.median(cell.cpu_ms for cell in bare),
            "server_cpu_ms": statistics.median(cell.server_cpu_ms for cell in governed),
            "stages_ms": {
                stage: statistics.median(cell.stages.get(stage, 0.0) for cell in governed)
                for stage in sorted(stages)
            },
            "errors": sum(cell.errors for cell in mine),
            "first_error": next((cell.first_error for cell in mine if cell.first_error), None),
        }
        rows.append(row)
    return rows


def print_report(group: str, rows: Sequence[dict[str, Any]], rounds: int, console: Console) -> None:
    """Print the rows of a group as a table."""
    title = f"{group}: governed calls beside bare ones, medians of {rounds} rounds; times in ms"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "setup" else "right")
    for row in rows:
        stages = row["stages_ms"]
        table.add_row(
            row["setup"],
            str(row["concurrency"]),
            f"{row['bare_per_second']:.0f}",
            f"{row['governed_per_second']:.0f}",
            f"{row['lowest_per_second']:.0f}-{row['highest_per_second']:.0f}",
            f"{row['bare_p50_ms']:.2f}",
            f"{row['governed_p50_ms']:.2f}",
            f"{row['added_p50_ms']:+.2f}",
            f"{row['governed_p99_ms']:.1f}",
            f"{row['cpu_ms']:.2f}",
            f"{row['server_cpu_ms']:.2f}",
            *(f"{stages.get(stage, 0.0):.2f}" for stage in ("hold", "rate", "dispatch", "settle")),
            str(row["errors"]),
        )
    console.print(table)
    for row in rows:
        if row["first_error"]:
            console.print(f"{row['setup']} at {row['concurrency']}: {row['first_error']}", markup=False)


async def run(groups: Sequence[str], options: Options, console: Console) -> dict[str, Any]:
    """Measure the groups; return everything for JSON."""
    found: dict[str, Any] = {"machine": machine(), "options": asdict(options), "groups": {}}
    for group in groups:
        with console.status(group) as status:
            cells = await run_group(GROUPS[group], options, status.update)
        rows = medians(cells)
        print_report(group, rows, options.rounds, console)
        found["groups"][group] = {"medians": rows, "cells": [asdict(cell) for cell in cells]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--groups", default=",".join(GROUPS), help=", ".join(GROUPS))
    parser.add_argument("--databases", default="sqlite,postgres", help="setups on other ones are left out")
    parser.add_argument("--concurrency", default="1,32,256", help="of all processes together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in the ledger with a past")
    parser.add_argument("--budgets", type=int, default=10_000, help="beside the callers' own, with a past")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    given = parser.parse_args()
    groups = given.groups.split(",")
    if unknown := [name for name in groups if name not in GROUPS]:
        parser.error(f"--groups: {unknown[0]!r} is unknown; there are: {', '.join(GROUPS)}")
    options = Options(
        databases=tuple(given.databases.split(",")),
        concurrencies=tuple(int(part) for part in given.concurrency.split(",")),
        rounds=given.rounds,
        seconds=given.seconds,
        rows=given.rows,
        budgets=given.budgets,
    )
    console = Console() if sys.stdout.isatty() else Console(width=170)
    document = asyncio.run(run(groups, options, console))
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"written: {given.json}")


if __name__ == "__main__":
    main()
