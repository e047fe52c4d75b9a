"""``admiralty budgets``: limits on spending, made and changed on the database itself: for the operator."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from admiralty.core.errors import InvalidRequest
from admiralty.core.money import Nanos, format_dollars
from admiralty.core.settings import Settings
from admiralty.runtime.cli.database import AsJson, Home, Tenant, print_json, with_database
from admiralty.runtime.cli.output import console
from admiralty.runtime.ledger.budgets import Budgets, BudgetState
from admiralty.runtime.ledger.describe import budget_json
from admiralty.runtime.ledger.periods import parse_length
from admiralty.runtime.ledger.viewer import Viewer
from admiralty.runtime.storage import Database

app = typer.Typer(help="Make, list, show and change budgets.", no_args_is_help=True)

BudgetId = Annotated[str, typer.Argument(help="Id of the budget, as `admiralty budgets list` shows it.")]
Thresholds = Annotated[
    list[float] | None,
    typer.Option("--threshold", help="Share of the limit at which to alert, as 0.8; more than once."),
]
Webhook = Annotated[str | None, typer.Option(help="URL that alerts are posted to; '' for none.")]


@app.command()
def create(
    scope: Annotated[
        str, typer.Option(help="What it limits: tenant:acme, user:acme/ann, user:acme/*, tenant:*.")
    ],
    limit: Annotated[str, typer.Option(help="Dollars, as 25 or 0.50.")],
    window: Annotated[str, typer.Option(help="total, day, week, month, or rolling:24h.")] = "month",
    timezone: Annotated[str, typer.Option(help="Of days, weeks and months, as Europe/Berlin.")] = "UTC",
    name: Annotated[str, typer.Option(help="For people.")] = "",
    soft: Annotated[bool, typer.Option("--soft", help="Only alert at the limit, refuse nothing.")] = False,
    threshold: Thresholds = None,
    webhook: Webhook = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Limit what a scope may spend. Counts from now on."""
    kind, seconds = _window(window)

    async def make(budgets: Budgets) -> BudgetState:
        made = await budgets.create(
            scope=scope,
            limit_usd=limit,
            window=kind,
            seconds=seconds,
            timezone=timezone,
            name=name,
            hard=not soft,
            thresholds=[0.5, 0.8, 1.0] if threshold is None else threshold,
            webhook=webhook or None,
        )
        return await budgets.state(made.id)

    _show(_on_budgets(home, make), as_json)


@app.command("list")
def list_budgets(
    tenant: Tenant = None,
    scope: Annotated[str | None, typer.Option(help="Only those of this scope.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List budgets and how they stand."""

    async def find(budgets: Budgets) -> list[BudgetState]:
        found: list[BudgetState] = []
        while True:
            page = await budgets.states(
                viewer=Viewer(tenant=tenant),
                scope=scope,
                archived=archived,
                after=found[-1].budget.id if found else None,
                limit=200,
            )
            found += page
            if len(page) < 200:
                return found

    states = _on_budgets(home, find)
    if as_json:
        print_json([budget_json(state) for state in states])
        return
    columns = ("id", "scope", "name", "window", "limit", "spent", "held", "left", "resets", "state")
    table = Table(*columns, box=None, header_style="bold")
    for state in states:
        table.add_row(*map(escape, _cells(state)))
    console.print(table)


@app.command()
def show(budget_id: BudgetId, home: Home = None, as_json: AsJson = False) -> None:
    """Show a budget, how it stands, and who spent most of it."""
    _show(_on_budgets(home, lambda budgets: budgets.state(budget_id)), as_json)


@app.command("set")
def change(
    budget_id: BudgetId,
    limit: Annotated[str | None, typer.Option(help="Dollars, as 25 or 0.50.")] = None,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    hard: Annotated[
        bool | None, typer.Option("--hard/--soft", help="Refuse at the limit, or only alert.")
    ] = None,
    threshold: Thresholds = None,
    webhook: Webhook = None,
    archived: Annotated[
        bool | None, typer.Option("--archive/--revive", help="End it, or take it up again.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change a budget; running schedulers heed it with their next call."""
    given: dict[str, Any] = {
        "limit_usd": limit,
        "name": name,
        "hard": hard,
        "thresholds": threshold,
        "webhook": webhook,
        "archived": archived,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise InvalidRequest(
            "Say what to change: --limit, --name, --hard, --threshold, --webhook, --archive."
        )
    if "webhook" in changes:
        changes["webhook"] = changes["webhook"] or None
    _change(budget_id, changes, home, as_json)


@app.command()
def archive(budget_id: BudgetId, home: Home = None, as_json: AsJson = False) -> None:
    """End a budget: it limits and counts no more, but is kept."""
    _change(budget_id, {"archived": True}, home, as_json)


def _change(budget_id: str, changes: dict[str, Any], home: Any, as_json: bool) -> None:
    async def work(budgets: Budgets) -> BudgetState:
        await budgets.change(budget_id, changes)
        return await budgets.state(budget_id)

    _show(_on_budgets(home, work), as_json)


def _on_budgets(home: Any, work: Any) -> Any:
    settings = Settings.load(home=home)

    async def run(database: Database) -> Any:
        return await work(Budgets(database, allow_private_webhooks=settings.allow_private_webhooks))

    return with_database(settings, run)


def _window(text: str) -> tuple[str, float | None]:
    kind, _, length = text.partition(":")
    if kind != "rolling":
        return text, None
    seconds = parse_length(length)
    if seconds is None:
        raise InvalidRequest(f"--window = {text!r}: write its length, as rolling:24h or rolling:30d.")
    return kind, seconds


def _show(state: BudgetState, as_json: bool) -> None:
    if as_json:
        print_json(budget_json(state))
        return
    budget = state.budget
    told = budget_json(state)
    rows = {
        "id": budget.id,
        "scope": budget.scope,
        "name": budget.name,
        "limit": f"${told['limit_usd']}, {'hard' if budget.hard else 'soft'}",
        "window": f"{_window_text(state)}, {budget.timezone}: now {state.window}",
        "spent": f"${told['spent_usd']}",
        "held": f"${told['held_usd']}",
        "left": f"each its own: {state.subject_count} have spent"
        if state.left is None
        else f"${told['left_usd']}",
        "resets": _time(state.resets_at),
        "alerts": " ".join(f"{round(100 * share, 6):g}%" for share in budget.thresholds) or "none",
        "webhook": budget.webhook or "",
        "state": _state(state),
    }
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    console.print(table)
    if state.subjects:
        most = Table("who", "spent", "held", "left", box=None, header_style="bold")
        for one in told["subjects"]:
            most.add_row(
                escape(one["subject"]), *(f"${one[key]}" for key in ("spent_usd", "held_usd", "left_usd"))
            )
        console.print(most)


def _cells(state: BudgetState) -> list[str]:
    budget = state.budget
    amounts = [budget.limit, state.spent, state.held]
    left = "each" if state.left is None else _dollars(state.left)
    return [
        budget.id,
        budget.scope,
        budget.name,
        _window_text(state),
        *(_dollars(amount) for amount in amounts),
        left,
        _time(state.resets_at),
        _state(state),
    ]


def _window_text(state: BudgetState) -> str:
    budget = state.budget
    return budget.window if budget.seconds is None else f"rolling {dt.timedelta(seconds=budget.seconds)}"


def _state(state: BudgetState) -> str:
    if state.budget.archived_at is not None:
        return "archived"
    if state.left is not None and state.budget.limit <= state.spent:
        return "spent"
    return "hard" if state.budget.hard else "soft"


def _dollars(amount: Nanos) -> str:
    return format_dollars(amount)


def _time(moment: float | None) -> str:
    if moment is None:
        return "never"
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
