"""``admiralty runs``: turns that wait, failed or are parked, on the database itself: for the operator.

Running fleets hear of what is done here within a second.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.markup import escape
from rich.table import Table

from admiralty.core.clock import SystemClock
from admiralty.core.errors import InvalidRequest
from admiralty.core.settings import Settings
from admiralty.runtime.cli.database import AsJson, Home, Tenant, print_json, with_database
from admiralty.runtime.cli.output import console
from admiralty.runtime.durable.describe import run_json
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import Run, RunStatus
from admiralty.runtime.effects import EffectBook, EffectRow
from admiralty.runtime.effects.describe import effect_json
from admiralty.runtime.storage import Database

T = TypeVar("T")

STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)

app = typer.Typer(help="List, show, cancel, retry and clear up turns.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="Id of the run: see `admiralty runs list`.")]
By = Annotated[str, typer.Option("--by", help="Who does it, as the record names them.")]


@app.command("list")
def list_runs(
    status: Annotated[
        str | None, typer.Option(help=f"Only those: {', '.join(STATUSES)}.", metavar="STATUS")
    ] = None,
    tenant: Tenant = None,
    after: Annotated[str | None, typer.Option(help="Those made before this run.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines at most.")] = 50,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List turns, newest first; --status parked for those that wait for somebody like you."""
    if status is not None and status not in STATUSES:
        raise InvalidRequest(f"--status = {status[:40]!r}: use one of {', '.join(STATUSES)}.")
    found = _on_runs(
        home, lambda runs, _: runs.recent(tenant=tenant, status=status, after=after, limit=limit)
    )
    if as_json:
        print_json([run_json(run, operator=True) for run in found])
        return
    columns = ("id", "tenant", "conversation", "turn", "state", "attempt", "begun", "message")
    table = Table(*columns, box=None, header_style="bold")
    for run in found:
        cells = (
            run.id,
            run.tenant,
            run.conversation_id,
            str(run.turn),
            run.status,
            str(run.attempt),
            _time(run.started_at),
            _short(run.message),
        )
        table.add_row(*map(escape, cells))
    console.print(table)


@app.command()
def show(run_id: RunId, home: Home = None, as_json: AsJson = False) -> None:
    """Show how a turn stands, why earlier executions broke off, and what its tools did."""

    async def find(runs: RunStore, effects: EffectBook) -> tuple[Run, list[EffectRow]]:
        return await runs.find(run_id), await effects.of_run(run_id)

    run, rows = _on_runs(home, find)
    if as_json:
        print_json(run_json(run, operator=True) | {"effects": [effect_json(row) for row in rows]})
        return
    _show(run)
    if rows:
        table = Table("call", "tool", "arguments", "state", "by", "result", box=None, header_style="bold")
        for row in rows:
            result = str(effect_json(row)["result"] or "")
            cells = (row.call_id, row.tool, _json(row.arguments), row.status, row.resolved_by or "", result)
            table.add_row(*(escape(_short(cell)) for cell in cells))
        console.print(table)


@app.command()
def cancel(run_id: RunId, home: Home = None, as_json: AsJson = False) -> None:
    """Have a turn end, wherever it is executed; one that has ended stays as it is."""
    _tell(_on_runs(home, lambda runs, _: runs.stop(run_id)), as_json)


@app.command()
def retry(run_id: RunId, by: By = "operator", home: Home = None, as_json: AsJson = False) -> None:
    """Queue a turn again that failed, was cancelled or is parked. What it had done is not done again."""
    _tell(_on_runs(home, lambda runs, _: runs.retry(run_id, by=_name(by))), as_json)


@app.command()
def resolve(
    run_id: RunId,
    call_id: Annotated[str, typer.Argument(help="Id of the call: see `admiralty runs show`.")],
    done: Annotated[
        bool | None, typer.Option("--done/--not-done", help="Whether it was carried out.")
    ] = None,
    result: Annotated[str | None, typer.Option(help="What the model reads, if it was.")] = None,
    digest: Annotated[str | None, typer.Option(help="Which one, where several calls have one id.")] = None,
    by: By = "operator",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what came of a tool call of which nobody knows; then retry its run. Look first."""
    if done is None:
        raise InvalidRequest("Say --done or --not-done: a retry takes its result, or carries it out.")
    if result is not None and not done:
        raise InvalidRequest("--result is of a call that was carried out: say --done with it.")
    name = _name(by)
    row = _on_runs(
        home,
        lambda _, effects: effects.resolve(run_id, call_id, done=done, result=result, digest=digest, by=name),
    )
    if as_json:
        print_json(effect_json(row))
        return
    console.print(
        f"{row.tool}: {row.status}. Now: admiralty runs retry {run_id}", markup=False, soft_wrap=True
    )


def _on_runs(home: Path | None, work: Callable[[RunStore, EffectBook], Awaitable[T]]) -> T:
    clock = SystemClock()

    async def run(database: Database) -> T:
        return await work(RunStore(database, owner="cli", clock=clock), EffectBook(database, clock))

    # Not made here: an empty database would say that nothing waits.
    return with_database(Settings.load(home=home), run, must_exist=True)


def _tell(run: Run, as_json: bool) -> None:
    if as_json:
        print_json(run_json(run, operator=True))
        return
    being = " and is being stopped" if run.status == "running" else ""
    console.print(f"{run.id} is {run.status}{being}.", markup=False, soft_wrap=True)


def _show(run: Run) -> None:
    told = run_json(run, operator=True)
    ended = "" if run.finished_at is None else f"{_time(run.finished_at)}, after {told['seconds']:g} s"
    error = told["error"]
    rows = {
        "id": run.id,
        "state": run.status,
        "of": " / ".join(part for part in (run.tenant, told["user"]) if part),
        "conversation": f"{run.conversation_id}, turn {run.turn}, fleet {run.fleet}",
        "message": run.message,
        "answer": run.answer or "",
        "begun": _time(run.started_at),
        "ended": ended,
        "attempt": str(run.attempt),
        "broke off": "\n".join(
            f"{one['attempt']}. {_time(one['at'])}: {one['reason']}" for one in run.attempts
        ),
        "error": "" if error is None else f"{error['code']}: {error.get('detail', '')}",
    }
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    console.print(table)


def _name(by: str) -> str:
    name = by.strip()
    if not name or len(name) > 200 or not name.isprintable():
        raise InvalidRequest(f"--by = {by[:50]!r}: give a name of at most 200 printable characters.")
    return name


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}\N{HORIZONTAL ELLIPSIS}"


def _time(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
