"""``admiralty keys``: make, list and revoke API keys."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.keys import ApiKeys, checked_tags

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
T = TypeVar("T")
Home = Annotated[Path | None, typer.Option(help="Folder for everything that is kept. [.admiralty]")]


def with_keys(settings: Settings, work: Callable[[ApiKeys], Awaitable[T]]) -> T:
    """Run ``work`` on the keys of the settings' database."""

    async def run() -> T:
        database = await asyncio.to_thread(Database.of, settings)
        try:
            return await work(ApiKeys(database))
        finally:
            await database.close()

    return asyncio.run(run())


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    tenant: Annotated[str, typer.Option(help="Tenant that its holder acts for.")] = "default",
    team: Annotated[str | None, typer.Option(help="Team that its holder acts for.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag of its spending, as project=alpha; more than once.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Its holder may change budgets.")] = False,
    home: Home = None,
) -> None:
    """Make a key and print it. It is stored as a digest only: it cannot be shown again."""
    pairs = [text.partition("=") for text in tag or []]
    tags = checked_tags([(name, value) for name, _, value in pairs], "--tag")
    secret, key = with_keys(
        Settings.load(home=home),
        lambda keys: keys.create(tenant=tenant, name=name, team=team, tags=tags, admin=admin),
    )
    console.print(secret, soft_wrap=True)
    whose = f"tenant {key.tenant}" + (f", team {key.team}" if key.team else "") + (", admin" if admin else "")
    console.print(f"[dim]{key.id}, {escape(whose)}. Shown once: keep it now.[/]", soft_wrap=True)


@app.command("list")
def list_keys(home: Home = None) -> None:
    """List the keys, without the keys themselves."""
    columns = ("id", "begins", "tenant", "team", "name", "tags", "role", "made", "state")
    table = Table(*columns, box=None, header_style="bold")
    for key in with_keys(Settings.load(home=home), lambda keys: keys.all()):
        made = dt.datetime.fromtimestamp(key.created_at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M")
        tags = " ".join(f"{name}={value}" for name, value in sorted(key.tags.items()))
        cells = [key.id, f"{key.hint}…", key.tenant, key.team or "", key.name, tags]
        cells += ["admin" if key.admin else "", made, "revoked" if key.revoked_at else "valid"]
        table.add_row(*map(escape, cells))
    console.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `admiralty keys list` shows it.")],
    home: Home = None,
) -> None:
    """Make a key invalid for good; running replicas notice within seconds."""
    with_keys(Settings.load(home=home), lambda keys: keys.revoke(key_id))
    console.print(f"{key_id} is revoked.")
