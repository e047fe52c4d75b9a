"""``admiralty state``: what agents share, read and changed on the database itself: for the operator."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from admiralty.core.errors import InvalidRequest, NotFound
from admiralty.core.settings import Settings
from admiralty.core.state import NAMESPACE, StateChange, Writer
from admiralty.core.values import Identity
from admiralty.runtime.cli.database import AsJson, Home, print_json, with_database
from admiralty.runtime.cli.output import console
from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.state.describe import change_json, value_json
from admiralty.runtime.storage import Database
from admiralty.tools import SharedState

T = TypeVar("T")

app = typer.Typer(help="Read and change what agents share.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(help="The value's key.")]
Namespace = Annotated[str, typer.Option(help="Where it lies.")]
TenantName = Annotated[str, typer.Option(help="Whose state it is.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Lines at most.")]
By = Annotated[str, typer.Option("--by", help="Who changes it, as the history names them.")]


@app.command()
def get(
    key: Key,
    namespace: Namespace = NAMESPACE,
    tenant: TenantName = "default",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show a value; with --json its version and time, too."""
    found = _on_state(home, tenant, namespace, lambda state: state.get(key))
    if found is None:
        raise NotFound(f"There is nothing under {key!r} in {namespace!r} of tenant {tenant!r}.")
    print_json(value_json(found) if as_json else found.value)


@app.command("set")
def set_value(
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON, as 4, '\"text\"' or '{\"open\": []}'.")],
    expected: Annotated[
        int | None, typer.Option(help="Only over this version; 0: only if there is none.")
    ] = None,
    namespace: Namespace = NAMESPACE,
    tenant: TenantName = "default",
    by: By = "operator",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a value; agents see it with their next look."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"value = {value[:80]!r}: this is no JSON. Text is written '\"so\"'.") from None

    async def write(state: SharedState) -> int:
        if expected is None:
            return await state.put(key, parsed)
        return await state.compare_and_set(key, parsed, expected)

    _told(_on_state(home, tenant, namespace, write, by=by), key, as_json)


@app.command()
def delete(
    key: Key,
    expected: Annotated[int | None, typer.Option(help="Only this version.")] = None,
    namespace: Namespace = NAMESPACE,
    tenant: TenantName = "default",
    by: By = "operator",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Delete a value; its history is kept."""
    version = _on_state(home, tenant, namespace, lambda state: state.delete(key, expected=expected), by=by)
    if not version:
        raise NotFound(f"There is nothing under {key!r} in {namespace!r} of tenant {tenant!r}.")
    _told(version, key, as_json)


@app.command("list")
def list_values(
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    namespace: Namespace = NAMESPACE,
    tenant: TenantName = "default",
    limit: Limit = 100,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List a namespace's values, by key."""
    found = _on_state(home, tenant, namespace, lambda state: state.find(prefix, limit=limit))
    if as_json:
        print_json([value_json(one) for one in found])
        return
    table = Table("key", "version", "written", "value", box=None, header_style="bold")
    for one in found:
        table.add_row(escape(one.key), str(one.version), _time(one.updated_at), escape(_short(one.value)))
    console.print(table)


@app.command()
def history(
    key: Key,
    namespace: Namespace = NAMESPACE,
    tenant: TenantName = "default",
    limit: Limit = 100,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of a value that are kept, latest first, with who wrote them."""
    found: list[StateChange] = _on_state(
        home, tenant, namespace, lambda state: state.history(key, limit=limit)
    )
    if as_json:
        print_json([change_json(one) for one in found])
        return
    table = Table("version", "written", "by", "run", "value", box=None, header_style="bold")
    for one in found:
        value = "(deleted)" if one.deleted else _short(one.value)
        cells = (str(one.version), _time(one.at), _name(one.writer), one.writer.run_id, value)
        table.add_row(*map(escape, cells))
    console.print(table)


def _on_state(
    home: Path | None,
    tenant: str,
    namespace: str,
    work: Callable[[SharedState], Awaitable[T]],
    *,
    by: str = "operator",
) -> T:
    settings = Settings.load(home=home)
    who = Identity(tenant=tenant, user=by)

    async def run(database: Database) -> T:
        store = SqlStateStore(database, history=settings.state_history)
        return await work(SharedState(store, lambda: who, namespace))

    return with_database(settings, run)


def _told(version: int, key: str, as_json: bool) -> None:
    if as_json:
        print_json({"key": key, "version": version})
    else:
        console.print(f"{escape(key)}: version {version}", highlight=False)


def _name(writer: Writer) -> str:
    agent = f"{writer.fleet}/{writer.agent}@{writer.agent_version}" if writer.agent else ""
    return ", ".join(part for part in (agent, writer.user or "", writer.key_id or "") if part)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _time(at: float) -> str:
    return dt.datetime.fromtimestamp(at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
