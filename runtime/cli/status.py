"""``admiralty status``: is a fleet up in this home, and how are its parts."""

from __future__ import annotations

import httpx
import typer
from rich.markup import escape

from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console
from admiralty.runtime.serve.cluster import UpRecord, start_time


def run_status(settings: Settings) -> None:
    """Print it; exit with 1 if no fleet is up or it is not ready."""
    record = UpRecord.read(settings.resolved_home)
    if record is None or start_time(record.pid) != record.started:
        console.print(f"No fleet is up in {settings.resolved_home}.", soft_wrap=True)
        if record is not None:
            console.print("It was killed; `admiralty down` ends what it left behind.")
        raise typer.Exit(1)
    console.print(f"[bold]{record.fleet}[/] is up (pid {record.pid})")
    console.print(f"API        {record.url}/v1\nDashboard  {record.dashboard}", soft_wrap=True)
    try:
        answer = httpx.get(f"{record.url}/readyz", timeout=10)
    except httpx.HTTPError as error:
        console.print(f"Ready      [red]no[/]: {error or type(error).__name__}", soft_wrap=True)
        raise typer.Exit(1) from None
    if answer.status_code != 200:
        console.print(
            f"Ready      [red]no[/]: {escape(_why(answer))}\nLogs       {record.session}/logs/serve"
        )
        raise typer.Exit(1)
    console.print("Ready      [green]yes[/]")


def _why(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
