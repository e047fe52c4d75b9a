"""``admiralty approvals``: what waits for a person, decided on the database itself: for the operator."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from admiralty.core.errors import InvalidRequest
from admiralty.core.settings import Settings
from admiralty.runtime.approvals import STATUSES, Approval, ApprovalStatus, ApprovalStore, Decider
from admiralty.runtime.approvals.describe import approval_json
from admiralty.runtime.cli.database import AsJson, Home, Tenant, print_json, with_database
from admiralty.runtime.cli.output import console
from admiralty.runtime.storage import Database

T = TypeVar("T")

app = typer.Typer(help="List, show and decide what waits for a person.", no_args_is_help=True)

ApprovalId = Annotated[str, typer.Argument(help="Id of the approval: see `admiralty approvals list`.")]
By = Annotated[str, typer.Option("--by", help="Who decides, as the record names them.")]


@app.command("list")
def list_approvals(
    status: Annotated[
        str, typer.Option(help=f"{', '.join(STATUSES)}, or all.", metavar="STATUS")
    ] = "pending",
    tenant: Tenant = None,
    conversation: Annotated[str | None, typer.Option(help="Of this conversation only.")] = None,
    agent: Annotated[str | None, typer.Option(help="Of this agent only.")] = None,
    tool: Annotated[str | None, typer.Option(help="Of this tool only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines at most.")] = 100,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List what waits for a person, newest first."""
    wanted = _status(status)

    async def find(store: ApprovalStore) -> list[Approval]:
        return await store.find(
            viewer=Decider(tenant=tenant),
            status=wanted,
            conversation=conversation,
            agent=agent,
            tool=tool,
            limit=limit,
        )

    found = _on_approvals(home, find)
    if as_json:
        print_json([approval_json(one) for one in found])
        return
    table = Table("id", "tool", "asked by", "why", "expires", "state", box=None, header_style="bold")
    for one in found:
        cells = (
            one.id,
            one.tool,
            f"{one.fleet}/{one.agent}",
            _short(one.reason),
            _time(one.expires_at),
            one.status,
        )
        table.add_row(*map(escape, cells))
    console.print(table)


@app.command()
def show(approval_id: ApprovalId, home: Home = None, as_json: AsJson = False) -> None:
    """Show who wants to do what, with which arguments, and why a person is asked."""
    _show(_on_approvals(home, lambda store: store.get(approval_id)), as_json)


@app.command()
def approve(
    approval_id: ApprovalId,
    arguments: Annotated[
        str | None, typer.Option(help="JSON object that the tool is given instead.", metavar="JSON")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept; the answer, where the agent itself asks.")] = "",
    by: By = "operator",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let the tool be called, as it is or with other arguments. The run goes on by itself."""
    _decide(approval_id, "approve", home, as_json, arguments=_object(arguments), reason=reason, by=by)


@app.command()
def reject(
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option(help="What the agent is told.")] = "",
    by: By = "operator",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Forbid the call. The run goes on, and the agent is told the reason."""
    _decide(approval_id, "reject", home, as_json, arguments=None, reason=reason, by=by)


def _decide(
    approval_id: str,
    verdict: Literal["approve", "reject"],
    home: Path | None,
    as_json: bool,
    *,
    arguments: dict[str, Any] | None,
    reason: str,
    by: str,
) -> None:
    name = by.strip()
    if not name or len(name) > 200 or not name.isprintable():
        raise InvalidRequest(f"--by = {by[:50]!r}: give a name of at most 200 printable characters.")

    def work(store: ApprovalStore) -> Awaitable[Approval]:
        return store.decide(approval_id, verdict, arguments=arguments, reason=reason, by=Decider(name=name))

    _show(_on_approvals(home, work), as_json)


def _on_approvals(home: Path | None, work: Callable[[ApprovalStore], Awaitable[T]]) -> T:
    async def run(database: Database) -> T:
        return await work(ApprovalStore(database))

    # Not made here: an empty database would say that nothing waits.
    return with_database(Settings.load(home=home), run, must_exist=True)


def _status(text: str) -> ApprovalStatus | None:
    if text == "all":
        return None
    for status in STATUSES:
        if text == status:
            return status
    raise InvalidRequest(f"--status = {text[:40]!r}: use one of {', '.join(STATUSES)}, or all.")


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"--arguments: no JSON: {error}. Write --arguments '{{\"key\": 1}}'.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("--arguments: no JSON object. Write all of them: --arguments '{\"key\": 1}'.")
    return value


def _show(approval: Approval, as_json: bool) -> None:
    if as_json:
        print_json(approval_json(approval))
        return
    decided = ""
    if approval.decided_at is not None:
        by = f" by {approval.decided_by}" if approval.decided_by else ""
        decided = f"{approval.status}{by}, {_time(approval.decided_at)}"
    rows = {
        "id": approval.id,
        "state": approval.status,
        "tool": approval.tool,
        "arguments": _json(approval.arguments),
        "asked by": f"{approval.fleet}/{approval.agent}, version {approval.agent_version} ({approval.kind})",
        "why": approval.reason,
        "for": " / ".join(part for part in (approval.tenant, approval.user) if part),
        "conversation": approval.conversation_id,
        "run": approval.run_id,
        "asked": _time(approval.created_at),
        "expires": f"{_time(approval.expires_at)}: then {approval.default}",
        "decided": decided,
        "arguments now": "" if approval.edited is None else _json(approval.edited),
        "reason": approval.decision_reason or "",
    }
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    console.print(table)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}\N{HORIZONTAL ELLIPSIS}"


def _time(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
