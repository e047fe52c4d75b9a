"""What it costs a turn that it is kept: off, exit, sync, on both databases, beside DBOS.

    python -m benchmarks.durability [--dbos-python PYTHON] [--before FOLDER] [--database both] [--json FILE]

The turn has three steps: a model call, a tool that writes, a model call; all of them cost nothing, so that
the rest is what is measured. `off` is Admiralty with its database in memory, which keeps nothing over the
process's end; what a turn takes above it is `added`. DBOS makes the same three steps as a workflow, without
agents, policy, money, events and conversation: all of its turn is `added`. It needs an environment that has
it (`python -m venv ENV && ENV/bin/pip install dbos`). `--before FOLDER` is an older checkout of ours.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.durability_run import Cell, medians, run
from benchmarks.harness import machine

COLUMNS: Final = (
    *("system", "database", "callers", "turns/s", "p50 ms", "range", "p95 ms"),
    *("added", "over before", "CPU ms"),
)


def main() -> None:
    options = _parse()
    console = Console() if sys.stdout.isatty() else Console(width=110)
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    with console.status("starting") as status:
        cells = run(
            databases,
            rounds=options.rounds,
            seconds=options.seconds,
            callers=options.callers,
            say=status.update,
            python=options.dbos_python,
            before=options.before,
        )
    rows = with_added(medians(cells))
    _print(rows, console, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(_document(rows, cells), indent=1) + "\n")
        console.print(f"written: {options.json}")


def with_added(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row what its p50 lies above that of `off`, and of `before` on its database.

    DBOS's turn is nothing but what it adds.
    """
    known = {(row["system"], row["database"], row["callers"]): row["p50_ms"] for row in rows}
    found = []
    for row in rows:
        off = known["off", "memory", row["callers"]]
        before = known.get(("before", row["database"], row["callers"]))
        ours = not row["system"].startswith("dbos")
        added = row["p50_ms"] - (off if ours else 0.0)
        more = row["p50_ms"] - before if ours and before is not None else None
        found.append({**row, "added_ms": added, "over_before_ms": more})
    return found


def _print(rows: Sequence[dict[str, Any]], console: Console, rounds: int) -> None:
    title = f"A turn of three steps, medians of {rounds} rounds"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("system", "database") else "right")
    for row in sorted(rows, key=lambda row: (row["callers"], row["database"])):
        table.add_row(
            row["system"],
            row["database"],
            str(row["callers"]),
            f"{row['turns_per_second']:.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['lowest_p50_ms']:.1f}-{row['highest_p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['added_ms']:+.1f}",
            "" if row["over_before_ms"] is None else f"{row['over_before_ms']:+.1f}",
            f"{row['cpu_ms']:.1f}",
        )
    console.print(table)
    for database in dict.fromkeys(row["database"] for row in rows if row["database"] != "memory"):
        mine = [row for row in rows if row["database"] == database and row["callers"] == rows[0]["callers"]]
        rivals = [row for row in mine if row["system"].startswith("dbos")]
        if not rivals:
            continue
        fastest = min(rivals, key=lambda row: row["p50_ms"])
        for row in mine:
            if row["system"] in ("exit", "sync"):
                console.print(
                    f"{row['system']} on {database} adds {row['added_ms']:.1f} ms, "
                    f"{row['added_ms'] / fastest['added_ms']:.2f} of {fastest['system']}; "
                    f"its whole turn is {row['p50_ms'] / fastest['p50_ms']:.2f} of it"
                )


def _document(rows: Sequence[dict[str, Any]], cells: Sequence[Cell]) -> dict[str, Any]:
    return {"machine": machine(), "medians": rows, "cells": [vars(cell) for cell in cells]}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--dbos-python", type=Path, help="a Python that has DBOS, else it is left out")
    parser.add_argument("--before", type=Path, help="an older checkout, as `before`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--callers", type=_numbers, default=[1, 16])
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
