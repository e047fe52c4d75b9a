"""``admiralty up``: start Ray, deploy the fleet, say where it is, drain on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from rich.markup import escape
from rich.panel import Panel

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.keys import with_keys
from admiralty.runtime.cli.output import console
from admiralty.runtime.composition.fleet import data_folder, fleet_context, load_fleet
from admiralty.runtime.serve import environment
from admiralty.runtime.serve.environment import Folders
from admiralty.runtime.storage.keys import ApiKeys

DRAIN_SECONDS = 20.0


def run_up(fleet_name: str, settings: Settings, *, address: str | None, beside: bool) -> None:
    """Run the fleet until a signal. Raises ConfigurationError for whatever would not work."""
    started = time.monotonic()
    home = data_folder(settings)
    settings = settings.model_copy(update={"home": home})
    fleet = load_fleet(fleet_name)
    fleet.documents(fleet_context(settings, fleet))  # a missing file is told now, not in a replica
    places = environment.folders(home)
    _refuse_second(settings)
    if address is None:
        environment.check_machine(settings, places, beside=beside)
    else:
        environment.check_port(settings.host, settings.port, flag="--port", what="The API")
    secret = with_keys(settings, _first_key)
    environment.prepare(settings, places, own_cluster=address is None)

    from admiralty.runtime.serve import cluster
    from admiralty.runtime.serve.app import APP_NAME, build_app
    from admiralty.runtime.serve.replicas import FleetSpec

    spec = FleetSpec(fleet=fleet_name, settings=settings)
    stop = _Stop()
    try:
        with _progress("Starting Ray" if address is None else f"Joining Ray at {address}"):
            addresses = cluster.join(address) if address else cluster.start_own(settings, places)
        stop.listen()
        with _progress(f"Deploying {fleet.name}: gateway, scheduler, memory, {_names(fleet.agents)}"):
            cluster.deploy(settings, lambda: build_app(spec), name=APP_NAME)
        if not stop.wanted:
            record = cluster.UpRecord(
                pid=os.getpid(),
                started=cluster.start_time(os.getpid()) or 0.0,
                fleet=fleet_name,
                url=f"http://{_reachable(settings.host)}:{settings.port}",
                dashboard=f"http://127.0.0.1:{settings.dashboard_port}" if address is None else address,
                session=str(addresses.get("session_dir", "")),
                run_folder=str(places.run),
                host=settings.host,
                port=settings.port,
            )
            record.write(home)
            _welcome(record, fleet.name, secret, time.monotonic() - started, places)
            stop.wait()
        with _progress("Draining: no new requests, running turns are finished"):
            left = cluster.drain(places, lambda: _live_runs(settings), seconds=DRAIN_SECONDS)
        if left:
            console.print(
                f"[yellow]{left} turns were not finished in {DRAIN_SECONDS:g} s; they are marked.[/]"
            )
    finally:
        with _progress("Stopping"):
            if address is None:
                cluster.shut_down()
            else:
                cluster.leave(APP_NAME)
        (home / "up.json").unlink(missing_ok=True)
    console.print("Stopped. Conversations are kept in", str(home), soft_wrap=True)


class _Stop:
    """Waits for the first SIGINT or SIGTERM; a second one does not wait for the drain."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def wanted(self) -> bool:
        return self._event.is_set()

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def wait(self) -> None:
        while not self._event.wait(0.5):
            pass

    def _note(self, _number: int, _frame: object) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


def _refuse_second(settings: Settings) -> None:
    from admiralty.runtime.serve.cluster import UpRecord, start_time

    record = UpRecord.read(settings.resolved_home)
    if record and start_time(record.pid) == record.started:
        raise ConfigurationError(
            f"A fleet is already up in {settings.resolved_home} (pid {record.pid}, {record.url}). "
            "End it with `admiralty down`, or use another --home."
        )


async def _first_key(keys: ApiKeys) -> str | None:
    """Return a new key if there is no valid one yet."""
    if any(key.revoked_at is None for key in await keys.all()):
        return None
    secret, _ = await keys.create(name="first")
    return secret


def _live_runs(settings: Settings) -> int:
    from admiralty.runtime.storage.database import database_url
    from admiralty.runtime.storage.tables import runs

    engine = sa.create_engine(database_url(settings.resolved_database_url))
    try:
        with engine.connect() as connection:
            query = sa.select(sa.func.count()).where(
                runs.c.status == "running", runs.c.lease_until > time.time()
            )
            return int(connection.execute(query).scalar_one())
    except sa.exc.SQLAlchemyError:
        return 0
    finally:
        engine.dispose()


@contextmanager
def _progress(text: str) -> Iterator[None]:
    started = time.monotonic()
    if console.is_terminal:
        with console.status(f"{escape(text)} …"):
            yield
    else:
        yield
    console.print(f"[green]✓[/] {escape(text)} [dim]{time.monotonic() - started:.1f} s[/]", soft_wrap=True)


def _names(agents: Any) -> str:
    return ", ".join(agent.name for agent in agents)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _welcome(record: Any, fleet: str, secret: str | None, seconds: float, places: Folders) -> None:
    shown = secret or "$ADMIRALTY_API_KEY"
    key = (
        f"[bold]Key[/]        {secret}   [yellow](shown once; stored as a digest)[/]"
        if secret
        else "[bold]Key[/]        made earlier; another: `admiralty keys create`"
    )
    lines = [
        f"[bold]API[/]        {record.url}/v1    docs {record.url}/docs",
        f"[bold]Dashboard[/]  {record.dashboard}    token: {escape(str(places.token))}",
        key,
        "",
        "Talk to it from another terminal:",
        f"  export ADMIRALTY_API_KEY={shown}" if secret else "  export ADMIRALTY_API_KEY=adm_…",
        f"  admiralty chat --url {record.url}",
    ]
    body = f'{{"model": "{fleet}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    console.print(Panel("\n".join(lines), title=f"{fleet} is up ({seconds:.0f} s)", expand=False))
    console.print(
        f"curl {record.url}/v1/chat/completions -H 'Authorization: Bearer {shown}' \\\n"
        f"  -H 'Content-Type: application/json' -d '{escape(body)}'",
        soft_wrap=True,
    )
    console.print("Ctrl-C drains and stops.")
