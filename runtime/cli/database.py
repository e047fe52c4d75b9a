"""Commands that work on the database itself, whether a fleet is up or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy.engine import make_url

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console
from admiralty.runtime.storage import Database

T = TypeVar("T")

Home = Annotated[Path | None, typer.Option(help="Folder for everything that is kept. [.admiralty]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant only.")]
Since = Annotated[str | None, typer.Option(help="From when: 7d, 24h, 2026-11-22, 2026-11-22T10:00Z.")]
Until = Annotated[str | None, typer.Option(help="Until before when. [now]")]


def with_database(
    settings: Settings, work: Callable[[Database], Awaitable[T]], *, must_exist: bool = False
) -> T:
    """Run ``work`` on the settings' database.

    Raises ConfigurationError where it ``must_exist`` and does not: an empty one would say that all is well.
    """
    url = make_url(settings.resolved_database_url)
    if must_exist and url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise ConfigurationError(
            f"database_url = {url.render_as_string()!r}: there is no such file. "
            "Check --home, or start a fleet."
        )

    async def run() -> T:
        database = await asyncio.to_thread(Database.of, settings)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def print_json(value: Any) -> None:
    """Print a value as JSON, as it is: no markup, no wrapping."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    console.print(text, markup=False, emoji=False, soft_wrap=True)
