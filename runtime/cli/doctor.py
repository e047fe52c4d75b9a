"""``admiralty doctor``: everything that ``up`` needs, checked without starting anything."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec

import typer
from rich.markup import escape

from admiralty.core.errors import AdmiraltyError, ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console
from admiralty.runtime.composition.fleet import check_fleet, data_folder, load_fleet
from admiralty.runtime.composition.memory import check_embedder
from admiralty.runtime.serve import environment
from admiralty.runtime.storage import Database

MIN_FREE_BYTES = 2 * 2**30


class Warned(Exception):
    """Not fatal, but the person should know."""


def run_doctor(fleet_name: str, settings: Settings, *, beside: bool) -> None:
    """Print one line for each check; exit with 1 if one failed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("Python", _python),
        ("Packages", _packages),
        ("Home folder", lambda: _home(settings)),
        ("Database", lambda: _database(settings)),
        ("Fleet", lambda: _fleet(fleet_name, settings)),
        ("Models", lambda: _models(settings)),
        ("Embedder", lambda: _embedder(settings)),
        ("HAProxy", lambda: str(environment.haproxy_binary()) if settings.haproxy else "off by setting"),
        ("Ports", lambda: _ports(settings)),
        ("Other Rays", lambda: _other_rays(settings, beside)),
        ("Memory", _memory),
        ("Disk", lambda: _disk(settings)),
    ]
    failed = warned = 0
    for name, check in checks:
        try:
            mark, text = "[green]ok[/]     ", check()
        except Warned as warning:
            mark, text, warned = "[yellow]warning[/]", str(warning), warned + 1
        except AdmiraltyError as error:
            mark, text, failed = "[red]failed[/] ", error.message, failed + 1
        console.print(f"{mark} {name:<12} {escape(text)}", soft_wrap=True)
    if failed:
        console.print(f"\n[red]{failed} of {len(checks)} checks failed.[/]")
        raise typer.Exit(1)
    rest = f" Mind the {warned} warnings." if warned else ""
    console.print(f"\n`admiralty up` will start.{rest}")


def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def _packages() -> str:
    return ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("admiralty", "ray", "langgraph")
    )


def _home(settings: Settings) -> str:
    home = data_folder(settings)
    environment.folders(home)
    return str(home)


def _database(settings: Settings) -> str:
    import asyncio

    database = Database.of(settings)
    asyncio.run(database.close())
    return database.url.render_as_string()


def _fleet(name: str, settings: Settings) -> str:
    fleet = load_fleet(name)
    check_fleet(settings, fleet)
    return f"{fleet.name}: {', '.join(agent.name for agent in fleet.agents)}"


def _models(settings: Settings) -> str:
    models = settings.tier_models
    text = ", ".join(f"{tier} {model}" for tier, model in models.items())
    for provider in {model.partition(":")[0] for model in models.values()} - {"extractive"}:
        if find_spec(f"langchain_{provider}") is None:
            raise ConfigurationError(
                f"{text}; but its package is missing. Run: pip install langchain-{provider}"
            )
    if set(models.values()) == {models["none"]}:
        raise Warned(f"{models['none']} only (no key is set): answers are composed by rules")
    return text


def _embedder(settings: Settings) -> str:
    check_embedder(settings)
    if settings.embedder == "auto" and find_spec("sentence_transformers") is None:
        raise Warned("hashing; better: pip install 'admiralty[memory]'")
    return settings.embedder


def _ports(settings: Settings) -> str:
    environment.check_port(settings.host, settings.port, flag="--port", what="The API")
    environment.check_port(
        "127.0.0.1", settings.dashboard_port, flag="--dashboard-port", what="Ray's dashboard"
    )
    return f"{settings.port} and {settings.dashboard_port} are free"


def _other_rays(settings: Settings, beside: bool) -> str:
    if others := environment.other_rays(environment.folders(settings.resolved_home).run):
        if beside:
            raise Warned(f"another Ray runs here ({', '.join(others)})")
        raise ConfigurationError(
            f"another Ray runs here ({', '.join(others)}): `up` wants --beside-other-ray or --address"
        )
    return "none"


def _memory() -> str:
    with open("/proc/meminfo") as file:
        values = dict(line.split(":", 1) for line in file)
    free = int(values["MemAvailable"].split()[0]) * 1024
    if free < MIN_FREE_BYTES:
        raise Warned(f"{free / 2**30:.1f} GiB free; a fleet of three agents takes about 2")
    return f"{free / 2**30:.1f} GiB free"


def _disk(settings: Settings) -> str:
    free = shutil.disk_usage(data_folder(settings)).free
    if free < MIN_FREE_BYTES:
        raise Warned(f"{free / 2**30:.1f} GiB free in {settings.resolved_home}")
    return f"{free / 2**30:.0f} GiB free"
