"""How far a budget is overspent, lost or left unused, against a provider that counts by itself.

    python -m benchmarks.overspend [--database sqlite|postgres|both] [--cases NAME,NAME] [--quick]

Each case: budgets of a tenant (worth exactly 50 calls), its teams, users and conversations; 500 calls at once
over 4 processes, each with a scheduler of its own, as a fleet's replicas have; the mock provider over HTTP.
What the provider billed is the truth. A run of the whole table takes some minutes.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.harness import MockProvider, machine
from benchmarks.overspend_cases import CASES, Case
from benchmarks.overspend_run import LEASE_SECONDS, Result, run_case
from benchmarks.services import Postgres

COLUMNS: Final = (
    *("case", "database", "asked", "billed", "overspent", "unused", "unused %", "shown-true", "estimated"),
    *("wrong", "refused", "false", "hung", "s", "holds s", ""),
)


async def run(cases: list[Case], databases: list[str], console: Console, keep: Path | None) -> list[Result]:
    """Run every case on every database."""
    provider = MockProvider()
    server = Postgres() if "postgres" in databases else None
    results = []
    try:
        for database in databases:
            for case in cases:
                if case.kill == "postgres" and database != "postgres":
                    continue
                with console.status(f"{case.name} on {database}"):
                    result = await run_case(
                        case, provider, server if database == "postgres" else None, keep=keep
                    )
                results.append(result)
                tell(result, console)
    finally:
        provider.group.stop()
        if server is not None:
            server.stop()
    return results


def tell(result: Result, console: Console) -> None:
    """Print what is wrong with a result, as soon as it is known."""
    found = result.audit
    console.print(f"{result.case.name} on {result.database}: {dict(found.outcomes)}")
    for text in [*result.problems, *([] if result.is_right else found.examples)]:
        console.print(f"  {text[:700]}", markup=False)


def print_table(results: list[Result], console: Console) -> None:
    """Print the table."""
    title = "A budget worth N calls, many times as many calls at once"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("case", "database") else "right")
    for result in results:
        table.add_row(*cells(result))
    console.print(table)
    console.print(
        "asked: requests that the provider got; billed: answers that it charged for, the truth. overspent, "
        "unused, shown-true (ledger minus truth): in calls. estimated: entries so marked (and by how much "
        "they are above the truth). wrong: calls of which the ledger shows less than was billed, or, without "
        "an estimate, anything else. "
        f"false: refused though money was left in the end. Holds' lease {LEASE_SECONDS:.0f} s, 30 by default."
    )


def cells(result: Result) -> list[str]:
    """Return a result as the table's row."""
    found, price = result.audit, result.case.price
    return [
        f"{result.case.name} ({result.case.worth} of {result.case.calls}, {result.case.processes} p.)",
        result.database,
        str(found.asked),
        str(found.answered),
        f"{found.overspent / price:g}",
        f"{found.unused / price:.3g}",
        f"{found.unused / found.limit * 100:.1f}",
        f"{found.shown_minus_true / price:+.3g}",
        f"{found.estimated_rows} ({found.estimated_more / price:+.3g})",
        str(found.wrong_calls + found.short_calls),
        str(found.refused),
        str(found.false_refusals),
        str(result.hung),
        f"{result.seconds:.1f}",
        f"{result.drained_seconds:.1f}",
        "right" if result.is_right else "WRONG",
    ]


def document(results: list[Result]) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        "machine": machine(),
        "hold_lease_seconds": LEASE_SECONDS,
        "results": [{**dataclasses.asdict(result), "is_right": result.is_right} for result in results],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = ", ".join(case.name for case in CASES).replace("%", "%%")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--cases", help=f"by name, with commas: {names}")
    parser.add_argument("--processes", type=int, help="in place of each case's own number")
    parser.add_argument("--quick", action="store_true", help="60 calls on a budget worth 10, two processes")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--logs", type=Path, help="folder for what the workers wrote to stderr")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=190)
    databases = ["sqlite", "postgres"] if options.database == "both" else [options.database]
    results = asyncio.run(run(_chosen(parser, options), databases, console, options.logs))
    print_table(results, console)
    if options.json:
        options.json.write_text(json.dumps(document(results), indent=1) + "\n")
    sys.exit(0 if all(result.is_right for result in results) else 1)


def _chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Case]:
    cases = list(CASES)
    if options.cases:
        known = {case.name: case for case in CASES}
        names = options.cases.split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--cases: {unknown[0]!r} is unknown; there are: {', '.join(known)}")
        cases = [known[name] for name in names]
    if options.quick:
        cases = [case.quick() for case in cases]
    if options.processes:
        cases = [dataclasses.replace(case, processes=options.processes) for case in cases]
    return cases


if __name__ == "__main__":
    main()
