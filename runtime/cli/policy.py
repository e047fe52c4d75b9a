"""``admiralty policy``: check policies, show them, and try them on what has happened."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from admiralty.core.clock import SystemClock
from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console

app = typer.Typer(help="Check policies, show them, and try them on what has happened.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option(help="Folder for everything that is kept. [.admiralty]")]
FleetName = Annotated[str, typer.Option("--fleet", help="Import name of the fleet that they are for.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder with *.cedar, *.cedarschema, entities.json.")],
    fleet: FleetName = "fleets.support",
) -> None:
    """Check a folder of policies, as it would lie on top of the fleet's and of ours."""
    policy = _policy(Settings.load(policies=path), fleet)
    rules = policy.bundle.rules.values()
    permits = sum(rule.effect == "permit" for rule in rules)
    console.print(
        f"{escape(str(path))} is good: bundle {policy.bundle.hash}, "
        f"{permits} permits, {len(rules) - permits} forbids.",
        soft_wrap=True,
    )


@app.command()
def show(fleet: FleetName = "fleets.support", home: Home = None, as_json: AsJson = False) -> None:
    """Show the policies in effect: files, hash, mode, and each policy with its place."""
    from admiralty.runtime.policy.describe import bundle_json

    settings = Settings.load(home=home)
    bundle = _policy(settings, fleet).bundle
    if as_json:
        _print_json(bundle_json(bundle, settings.policy_mode))
        return
    console.print(f"Bundle [bold]{bundle.hash}[/], mode {settings.policy_mode}")
    files = Table("file", "from", "replaces", "sha256", box=None, header_style="bold")
    for file in bundle.files:
        files.add_row(escape(file.name), file.layer, file.replaces or "-", file.digest[:12])
    console.print(files)
    rules = Table("policy", "effect", "at", "message", box=None, header_style="bold")
    for rule in bundle.rules.values():
        place = f"{rule.file}:{rule.line}"
        asks = f"asks a person: {rule.approval}" if rule.approval else ""
        told = " ".join(text for text in (rule.message, asks) if text)
        rules.add_row(escape(rule.id), rule.effect, escape(place), escape(told) or "-")
    console.print(rules)


@app.command()
def replay(
    bundle: Annotated[
        Path, typer.Option(help="Folder of policies to try, as ADMIRALTY_POLICIES would name it.")
    ],
    since: Annotated[
        str | None, typer.Option(help="Decisions since: 90m, 24h, 7d, or a date and time (UTC). [all]")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Decisions of this tenant only.")] = None,
    fleet: FleetName = "fleets.support",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Ask all recorded questions again, under other policies. Exits with 1 if an answer changes."""
    from admiralty.runtime.policy.describe import replay_json

    settings = Settings.load(home=home)
    policy = _policy(settings.model_copy(update={"policies": bundle}), fleet)
    outcome = asyncio.run(_replay(settings, policy, _moment(since), tenant))
    if as_json:
        _print_json(replay_json(policy.bundle, outcome))
    else:
        _print_replay(replay_json(policy.bundle, outcome))
    if outcome.changes:
        raise typer.Exit(1)


def _policy(settings: Settings, fleet: str) -> Any:
    # Imported late: Cedar and the fleet take their time.
    from admiralty.runtime.composition.fleet import load_fleet
    from admiralty.runtime.policy import CedarPolicy

    return CedarPolicy.of(settings, load_fleet(fleet))


async def _replay(settings: Settings, policy: Any, since: float | None, tenant: str | None) -> Any:
    from admiralty.runtime.policy import DecisionLog
    from admiralty.runtime.policy import replay as again
    from admiralty.runtime.storage import Database

    database = await asyncio.to_thread(Database.of, settings)
    try:
        outcome = again.Replay()
        async for page in again.recorded(DecisionLog(database), tenant=tenant, since=since):
            again.replay(page, policy.decide_at, outcome)
        return outcome
    finally:
        await database.close()


def _moment(text: str | None) -> float | None:
    """Return a moment in seconds since the epoch. Raises ConfigurationError."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if number.isdecimal() and unit in _UNITS:
        return SystemClock().now() - int(number) * _UNITS[unit]
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"since = {text!r}: write a length of time as 90m, 24h or 7d, or a moment as 2026-11-20T08:00."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _print_json(value: Any) -> None:
    console.print_json(json.dumps(value, default=str))


def _print_replay(outcome: Mapping[str, Any]) -> None:
    table = Table("when (UTC)", "tenant", "principal", "action", "resource", "was", "would be", "why")
    for change in outcome["changes"]:
        would = change["would_be"]
        why = "; ".join([*would["errors"], *would["reasons"]]) or "no policy permits it"
        table.add_row(
            dt.datetime.fromtimestamp(change["at"], tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S"),
            *(escape(change[name]) for name in ("tenant", "principal", "action", "resource")),
            change["was"]["decision"],
            would["decision"],
            escape(why),
        )
    if outcome["changes"]:
        console.print(table)
    unread = f", {outcome['unreadable']} unreadable" if outcome["unreadable"] else ""
    console.print(
        f"{outcome['asked']} decisions asked again under {outcome['bundle']}: "
        f"{outcome['changed']} would change{unread}.",
        soft_wrap=True,
    )
