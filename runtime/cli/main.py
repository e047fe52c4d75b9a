"""``admiralty``: the commands, and how errors look. Each command's work is in a file of its own.

Imports are kept light here: a wrong flag should not cost the second that Ray takes to import.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from admiralty.core.errors import AdmiraltyError
from admiralty.core.settings import EMBEDDED_MODEL, Settings
from admiralty.core.values import TIERS
from admiralty.runtime.cli import approvals, budgets, keys, ledger, policy, runs, state
from admiralty.runtime.cli.database import AsJson, Since, Tenant, Until
from admiralty.runtime.cli.output import console, failure

app = typer.Typer(
    name="admiralty",
    help="Run fleets of LLM agents, with the governance built in.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(keys.app, name="keys")
app.add_typer(policy.app, name="policy")
app.add_typer(budgets.app, name="budgets")
app.add_typer(approvals.app, name="approvals")
app.add_typer(runs.app, name="runs")
app.add_typer(state.app, name="state")
app.add_typer(ledger.app, name="ledger")

Home = Annotated[Path | None, typer.Option(help="Folder for everything that is kept. [.admiralty]")]
FleetName = Annotated[str, typer.Argument(help="Import name of the fleet: module or module:name.")]
Url = Annotated[str | None, typer.Option(help="Where the API is; by default where `up` in this home put it.")]
Key = Annotated[str | None, typer.Option(envvar="ADMIRALTY_API_KEY", help="API key.")]


def main() -> None:
    """Run the command line; errors of ours are one message, not a traceback."""
    try:
        app()
    except AdmiraltyError as error:
        failure(error)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        console.print(importlib.metadata.version("admiralty"))
        raise typer.Exit


@app.command()
def up(
    fleet: FleetName = "fleets.support",
    data: Annotated[
        Path | None, typer.Option(help="Data for the fleet, e.g. a folder with users, orders, products.")
    ] = None,
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Interface of the API. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API. [8000]")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Port of Ray's dashboard. [8265]")] = None,
    address: Annotated[
        str | None, typer.Option(help="Deploy onto the Ray at HOST:PORT instead of starting one.")
    ] = None,
    beside_other_ray: Annotated[
        bool, typer.Option("--beside-other-ray", help="Start even though another Ray runs here.")
    ] = False,
) -> None:
    """Start a fleet: Ray, its deployments, the API. Runs until Ctrl-C, then drains."""
    from admiralty.runtime.cli.up import run_up

    settings = Settings.load(data=data, home=home, host=host, port=port, dashboard_port=dashboard_port)
    run_up(fleet, settings, address=address, beside=beside_other_ray)


@app.command()
def down(home: Home = None) -> None:
    """End the fleet that `up` started in this home, and nothing else."""
    from admiralty.runtime.cli.down import run_down

    run_down(Settings.load(home=home))


@app.command()
def status(home: Home = None) -> None:
    """Say whether a fleet is up in this home, where, and how its parts are."""
    from admiralty.runtime.cli.status import run_status

    run_status(Settings.load(home=home))


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="Say this and stop; without it, talk.")] = None,
    url: Url = None,
    key: Key = None,
    conversation: Annotated[str | None, typer.Option(help="Go on with this conversation.")] = None,
    agent: Annotated[str | None, typer.Option(help="Begin at this agent, not at the fleet's entry.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show answers only, no steps.")] = False,
    home: Home = None,
) -> None:
    """Talk to a running fleet; shows steps, tools and cost as they happen."""
    from admiralty.runtime.cli.chat import run_chat

    run_chat(
        Settings.load(home=home),
        message,
        url=url,
        key=key,
        conversation=conversation,
        agent=agent,
        quiet=quiet,
    )


@app.command()
def agents(fleet: FleetName = "fleets.support") -> None:
    """List the agents of a fleet, with tiers, tools and versions. Needs nothing to run."""
    from admiralty.runtime.cli.agents import run_agents

    run_agents(fleet)


@app.command()
def spend(
    by: Annotated[
        str, typer.Option(help="What to group by: agent,model, or tenant, team, user, tool, tag:project ...")
    ] = "agent,model",
    since: Since = None,
    until: Until = None,
    interval: Annotated[
        Literal["hour", "day", "month"] | None, typer.Option(help="Split by intervals of UTC.")
    ] = None,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines at most.")] = 100,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what was spent, by whom and on what."""
    from admiralty.runtime.cli.spend import run_spend

    run_spend(
        home,
        by=by,
        since=since,
        until=until,
        interval=interval,
        tenant=tenant,
        limit=limit,
        as_json=as_json,
    )


@app.command()
def prune(
    days: Annotated[float | None, typer.Option(min=0.0, help="Remove turns that ended longer ago.")] = None,
    turns: Annotated[
        int | None, typer.Option(min=1, help="Keep so many latest turns of each conversation.")
    ] = None,
    home: Home = None,
) -> None:
    """Remove old turns with their events; what agents remember and the ledger are kept."""
    from admiralty.runtime.cli.prune import run_prune

    run_prune(home, days=days, turns=turns)


@app.command()
def doctor(
    fleet: FleetName = "fleets.support",
    home: Home = None,
    port: Annotated[int | None, typer.Option(help="Port of the API. [8000]")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Port of Ray's dashboard. [8265]")] = None,
    beside_other_ray: Annotated[bool, typer.Option("--beside-other-ray", help="As for `up`.")] = False,
) -> None:
    """Check the environment and say what is missing. Exits with 1 if `up` would fail."""
    from admiralty.runtime.cli.doctor import run_doctor

    settings = Settings.load(home=home, port=port, dashboard_port=dashboard_port)
    run_doctor(fleet, settings, beside=beside_other_ray)


@app.command()
def build(
    fleet: FleetName = "fleets.support",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default standard output.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the Serve application.")] = "admiralty",
    route_prefix: Annotated[str, typer.Option(help="Path below which it answers.")] = "/",
    data: Annotated[Path | None, typer.Option(help="Data for the fleet.")] = None,
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Interface of the API. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API. [8000]")] = None,
) -> None:
    """Write a fleet as Ray Serve's YAML, for `serve deploy`. Needs nothing to run."""
    from admiralty.runtime.cli.build import run_build

    settings = Settings.load(data=data, home=home, host=host, port=port)
    run_build(fleet, settings, output=output, name=name, route_prefix=route_prefix)


@app.command()
def demo(
    home: Home = None,
    port: Annotated[int | None, typer.Option(help="Port of the API. [8000, or a free one]")] = None,
    dashboard_port: Annotated[
        int | None, typer.Option(help="Port of Ray's dashboard. [8265, or a free one]")
    ] = None,
) -> None:
    """Start the support fleet on the embedded default, hold a conversation, show its trace and cost."""
    from admiralty.runtime.cli.demo import run_demo

    settings = Settings.load(
        home=home, port=port, dashboard_port=dashboard_port, models=dict.fromkeys(TIERS, EMBEDDED_MODEL)
    )
    run_demo(settings.model_copy(update={"home": settings.resolved_home / "demo"}))
