"""Turns per second and latency of a three-agent turn, system beside system.

    python -m benchmarks.turns [--systems bare,plain] [--concurrency 1,16,64] [--rounds 3] [--json FILE]

A turn is three model calls and one tool call (triage, lookup's tool call, lookup's answer) against the mock
provider without delay. The first system named is the baseline of the ratios. `admiralty@FOLDER` is the code
of another checkout (`git worktree add FOLDER COMMIT`), beside this one's in the same run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Plan, run
from benchmarks.processes import kind_of
from benchmarks.systems.catalog import SYSTEMS, AdmiraltyLocal, System

COLUMNS: Final = (
    *("system", "clients", "turns/s", "range", "p50 ms", "p99 ms", "first ms", "CPU ms"),
    *("calls", "errors", "x rate", "+ p50"),
)


def main() -> None:
    options = _parse()
    console = Console() if sys.stdout.isatty() else Console(width=110)
    plan = Plan(
        concurrencies=options.concurrency,
        rounds=options.rounds,
        seconds=options.seconds,
        max_turns=options.turns,
        turns_per_conversation=options.conversation,
        delay_ms=options.delay_ms,
    )
    systems = [_system(name) for name in options.systems]
    with console.status("starting") as status:
        document = run(systems, plan, status.update)
    print_report(document, console)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"written: {options.json}")


def print_report(document: dict[str, Any], console: Console) -> None:
    """Print the document of `harness.run` as tables."""
    relative = {(row["system"], row["concurrency"]): row for row in document["ratios"]}
    baseline = document["ratios"][0]["baseline"]
    title = f"Three-call turns, medians of {document['plan']['rounds']} rounds"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "system" else "right")
    for row in sorted(document["medians"], key=lambda row: int(row["concurrency"])):
        ratio = relative[row["system"], row["concurrency"]]
        table.add_row(
            row["system"],
            str(row["concurrency"]),
            f"{row['turns_per_second']:.0f}",
            f"{row['lowest_turns_per_second']:.0f}-{row['highest_turns_per_second']:.0f}",
            _milliseconds(row["p50_ms"]),
            f"{row['p99_ms']:.0f}",
            _milliseconds(row["first_byte_p50_ms"]),
            f"{row['system_cpu_ms']:.1f}",
            f"{row['provider_calls']:.2f}",
            str(row["errors"]),
            f"{ratio.get('turns_per_second', 0):.2f}",
            f"{ratio['p50_more_ms']:+.0f}",
        )
    console.print(table)
    console.print(f"CPU: of all the system's processes, a turn. x rate, + p50: against {baseline}.")
    for row in document["medians"]:
        if len(row["cpu_by_kind"]) > 1:
            shares = (f"{kind} {used:.1f}" for kind, used in row["cpu_by_kind"].items() if used >= 0.1)
            console.print(f"{row['system']} at {row['concurrency']}, CPU ms a turn: {', '.join(shares)}")
    for name, start in document["start_up"].items():
        processes = document["processes"][name]
        console.print(
            f"{name}: first answer after {start['first_answer_seconds']:.1f} s; idle "
            f"{document['idle'][name] * 100:.1f}% of a core; {len(processes)} process(es), "
            f"{sum(use['pss_mb'] for use in processes):.0f} MB (PSS); RSS: {_by_kind(processes)}"
        )
    for concurrency, own in document["load_generator"].items():
        console.print(
            f"load generator at {concurrency}: {own['requests_per_second']:.0f} requests/s, "
            f"p50 {own['p50_ms']:.2f} ms, {own['client_cpu_ms']:.3f} ms CPU a request"
        )
    for row in document["medians"]:
        if row["first_error"]:
            console.print(f"[red]{row['system']} at {row['concurrency']}: {row['first_error']}")


def _by_kind(processes: list[dict[str, Any]]) -> str:
    kinds: dict[str, list[float]] = {}
    for use in processes:
        kinds.setdefault(kind_of(use["name"]), []).append(use["rss_mb"])
    shown = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    return ", ".join(
        f"{kind} {len(sizes)} x {sum(sizes) / len(sizes):.0f}" if len(sizes) > 1 else f"{kind} {sizes[0]:.0f}"
        for kind, sizes in shown
    )


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--systems", type=_systems, default=["bare", "plain"], help=", ".join(SYSTEMS))
    parser.add_argument("--concurrency", type=_numbers, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=5000, help="at most, in each measurement")
    parser.add_argument("--conversation", type=int, default=4, help="turns of each conversation")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="of each of the provider's answers")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args()


def _systems(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        base, _, folder = name.partition("@")
        if base not in SYSTEMS or (folder and not issubclass(SYSTEMS[base], AdmiraltyLocal)):
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(SYSTEMS)}")
    return names


def _system(name: str) -> System:
    base, _, folder = name.partition("@")
    kind = SYSTEMS[base]
    return kind.of_checkout(Path(folder)) if folder and issubclass(kind, AdmiraltyLocal) else kind()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
