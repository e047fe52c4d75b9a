"""Conversations by the thousand while workers are killed and stopped: what is lost, doubled, overspent?

    python -m benchmarks.chaos [--conversations 1000] [--database both] [--kills-per-minute 30] [--json FILE]

Two fleets, one after the other: the support desk, where each customer has an order cancelled or sent
elsewhere; and the till (`benchmarks.chaos_fleet`), half as many, whose tools would do anything twice. Workers
are whole runtimes without Ray behind the real API, on one database. They are killed (SIGKILL) at random
moments and at named points of a turn, and stopped (SIGSTOP) beyond their lease; on PostgreSQL the server is
killed too, and the Redis that keeps the rates. Ends with code 1 if anything is lost, doubled, overspent or
told wrongly.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.chaos_audit import BAD, Figures
from benchmarks.chaos_load import ROOMY, TIGHT, Breaker, in_parallel, support_jobs, till_jobs
from benchmarks.chaos_provider import CALL_PRICE, NAME
from benchmarks.chaos_run import Scene, open_scene
from benchmarks.harness import machine
from benchmarks.services import Postgres, Redis, Service

SHOWN: Final = {
    "conversations": "conversations",
    "turns": "turns asked",
    "done": "turns done",
    "failed": "turns failed (too little money)",
    "cancelled": "turns cancelled (a newer message)",
    "refused": "messages refused (busy)",
    "parked": "turns that a person had to help with",
    "lost": "turns lost",
    "unexpected": "turns that ended otherwise for no reason",
    "effects": "effects that took place",
    "distinct": "distinct effects",
    "doubled": "effects doubled",
    "missing": "effects missing",
    "forbidden": "effects that nobody wanted",
    "unsettled": "effects unsettled",
    "spent": "spent, $",
    "limit": "limit, $",
    "overspend": "overspent, $",
    "unbilled": "charged, and not in the ledger, $",
    "holds": "holds left",
    "problems": "problems that `ledger verify` finds",
    "events": "events",
    "event_gaps": "conversations with gaps",
    "answers": "answers delivered",
    "wrong_answers": "wrong answers",
    "client_gaps": "clients that missed an event",
    "breaks": "connections that broke",
    "died": "workers killed",
    "stopped": "workers stopped",
    "hits": "of both, at a point of a turn",
    "servers": "database and Redis killed",
    "takeovers": "takeovers",
    "broke_off": "executions that broke off",
    "model_calls": "model calls",
    "asked_again": "model calls repeated",
    "open_runs": "runs left open",
    "seconds": "seconds",
}
DOLLARS: Final = ("spent", "limit", "overspend", "unbilled")


def main() -> None:
    options = _parse()
    console = Console() if sys.stdout.isatty() else Console(width=110)
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    fleets = ["support", "till"] if options.fleet == "both" else [options.fleet]
    found: dict[str, Figures] = {}
    with console.status("starting") as status:
        for database in databases:
            for fleet in fleets:
                status.update(f"{fleet} on {database}")
                found[f"{fleet}, {database}"] = asyncio.run(run(fleet, database, options))
                if options.json:  # after each: a run takes long
                    options.json.write_text(json.dumps(_document(found), indent=1) + "\n")
    _print(found, console)
    sys.exit(0 if all(figures.is_right for figures in found.values()) else 1)


async def run(fleet: str, database: str, options: argparse.Namespace) -> Figures:
    """Lead the conversations of a fleet on a database, and break what can be broken."""
    conversations = options.conversations if fleet == "support" else max(1, options.conversations // 2)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="admiralty-chaos-", dir=options.keep))
        if options.keep is None:
            stack.callback(_remove, folder)
        services: list[Service] = []
        url = None
        settings: dict[str, Any] = {"run_attempts": 4, "max_live_runs": 64}
        if database == "postgresql":
            server = Postgres()
            stack.callback(server.stop)
            url = server.create("chaos")
            redis = Redis()
            stack.callback(redis.stop)
            services = [server, redis]
            settings |= _with_redis(redis.url, options.workers, fleet)
        calls = conversations * 2 * 3 if fleet == "till" else conversations * 12
        async with open_scene(
            folder,
            fleet=fleet,
            database_url=url,
            workers=options.workers,
            customers=conversations if fleet == "support" else 0,
            # A tenth of the conversations are the tight tenant's, and half of what these ask is paid for.
            budgets={ROOMY: "1000", TIGHT: f"{calls * float(CALL_PRICE) / 10 / 2:.3f}"},
            token_seconds=0.003,
            settings=settings,
            patience=options.patience,
            lease=options.lease,
        ) as scene:
            breaker = Breaker(scene=scene, per_minute=options.kills_per_minute, services=services)
            jobs = (support_jobs if fleet == "support" else till_jobs)(scene, conversations)
            figures = await _under_fire(scene, breaker, options.clients, jobs)
            if not figures.is_right and options.keep is not None:
                (folder / "notes.txt").write_text("\n".join(figures.notes))
            return figures


async def _under_fire(scene: Scene, breaker: Breaker, clients: int, jobs: Any) -> Figures:
    began = time.monotonic()
    breaking = asyncio.create_task(breaker.work())
    try:
        await in_parallel(clients, jobs)
    finally:
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
        scene.points.disarm()
    seconds = time.monotonic() - began
    figures = await scene.figures()
    counts = figures.counts
    counts["seconds"] = round(seconds)
    counts["servers"] = counts["Postgres kills"] = breaker.counts["Postgres kills"]
    counts["servers"] += breaker.counts["Redis kills"]
    counts["refused"] = sum(count for name, count in counts.items() if name.startswith("refused "))
    return figures


def _with_redis(url: str, workers: int, fleet: str) -> Mapping[str, Any]:
    """Keep the rates in Redis: each account has limits, far above what is asked."""
    provider = NAME if fleet == "till" else "extractive"
    account = {"name": "default", "requests_per_minute": 600_000, "tokens_per_minute": 600_000_000}
    return {"redis_url": url, "scheduler_replicas": workers, "provider_keys": {provider: [account]}}


def _document(found: Mapping[str, Figures]) -> dict[str, Any]:
    """Return all counts, and what was bad, for JSON."""
    return {
        "machine": machine(),
        "counts": {name: dict(figures.counts) for name, figures in found.items()},
        "notes": {name: figures.notes for name, figures in found.items()},
    }


def _print(found: Mapping[str, Figures], console: Console) -> None:
    table = Table(title="Under fire", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for key, text in SHOWN.items():
        values = [figures.counts[key] for figures in found.values()]
        shown = [f"{value / 1e9:.3f}" if key in DOLLARS else str(value) for value in values]
        bad = key in BAD and any(values)
        table.add_row(f"[red]{text}" if bad else text, *shown)
    console.print(table)
    for name, figures in found.items():
        for note in figures.notes:
            console.print(f"[red]{name}: {note}", soft_wrap=True)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--conversations", type=int, default=1000, help="of the support desk")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--fleet", choices=["support", "till", "both"], default="both")
    parser.add_argument("--kills-per-minute", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16, help="conversations at once")
    parser.add_argument("--lease", type=float, default=3.0, help="of runs, in seconds")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds until a turn counts as lost")
    parser.add_argument("--keep", type=Path, help="folder to keep databases and logs in")
    parser.add_argument("--json", type=Path, help="write all counts to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
