"""``admiralty up``: start Ray, deploy the fleet, say where it is, drain on Ctrl-C."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from rich.markup import escape
from rich.panel import Panel

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.keys import with_keys
from admiralty.runtime.cli.output import console
from admiralty.runtime.composition.fleet import check_fleet, data_folder, load_fleet
from admiralty.runtime.composition.memory import check_embedder
from admiralty.runtime.serve import environment
from admiralty.runtime.serve.environment import Folders
from admiralty.runtime.storage.keys import ApiKeys

if TYPE_CHECKING:
    from admiralty.runtime.serve.cluster import UpRecord

DRAIN_SECONDS = 20.0


class Stop:
    """Waits for the first SIGINT or SIGTERM; a second one does not wait for the drain."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        """Ask for the end, from any thread."""
        self._event.set()

    @property
    def wanted(self) -> bool:
        return self._event.is_set()

    def listen(self) -> None:
        """Take the signals. Only after Ray has started, which sets a handler of its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def wait(self) -> None:
        while not self._event.wait(0.5):
            pass

    def _note(self, _number: int, _frame: object) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


WhenUp = Callable[["UpRecord", Stop], None]
"""Called once the fleet is up, in a thread of its own."""


def run_up(
    fleet_name: str,
    settings: Settings,
    *,
    address: str | None,
    beside: bool,
    fresh: bool = False,
    when_up: WhenUp | None = None,
) -> None:
    """Run the fleet until a signal; ``fresh`` forgets what fleets kept in this home before.

    Raises ConfigurationError for whatever would not work.
    """
    started = time.monotonic()
    home = data_folder(settings)
    settings = settings.model_copy(update={"home": home})
    fleet = load_fleet(fleet_name)
    places = environment.folders(home)
    _refuse_second(settings)
    _lock(home)
    if fresh:  # only under the lock: a fleet that is up in this home keeps its data
        shutil.rmtree(home / "fleets", ignore_errors=True)
    check_fleet(settings, fleet)
    check_embedder(settings)
    if address is None:
        environment.check_machine(settings, places, beside=beside)
    with_keys(settings, lambda keys: keys.all())  # a database that does not answer is told now
    environment.prepare(settings, places, address=address)

    from admiralty.runtime.serve import cluster

    stop = Stop()
    ours: str | None = None  # the application, once it is ours to end
    try:
        with _progress("Starting Ray" if address is None else f"Joining Ray at {address}"):
            imports = _import_meanwhile()
            found = _connect(settings, places, address)
            stop.listen()
            imports.join()

        from admiralty.runtime.serve.app import APP_NAME, build_app
        from admiralty.runtime.serve.replicas import FleetSpec

        if address is not None:
            cluster.refuse_taken(APP_NAME, address)
        ours = APP_NAME
        spec = FleetSpec(fleet=fleet_name, settings=settings)
        with _progress(f"Deploying {fleet.name}") as note:
            url = cluster.deploy(
                settings,
                lambda: build_app(spec),
                name=APP_NAME,
                address=address,
                report=lambda parts: _report(parts, stop, note),
            )
        record = cluster.UpRecord(
            pid=os.getpid(),
            started=cluster.start_time(os.getpid()) or 0.0,
            fleet=fleet_name,
            url=url,
            dashboard=f"http://127.0.0.1:{settings.dashboard_port}" if address is None else address,
            session="" if address else str(found.get("session_dir", "")),
            run_folder=str(places.run),
            gcs=address or str(found.get("gcs_address", "")),
            joined=address is not None,
        )
        record.write(home)
        secret = with_keys(settings, _first_key)  # only now: a key that is not shown is lost
        _welcome(record, fleet.name, secret, time.monotonic() - started, places)
        if when_up is not None:
            threading.Thread(target=when_up, args=(record, stop), name="when-up", daemon=True).start()
        stop.wait()
        _drain(settings, places)
    finally:
        with _progress("Stopping"):
            if address is None:
                cluster.shut_down()
            else:
                cluster.leave(ours)
        (home / "up.json").unlink(missing_ok=True)
    console.print("Stopped. Conversations are kept in", str(home), soft_wrap=True)


def _import_meanwhile() -> threading.Thread:
    """Import what deploying needs while Ray's processes start: a second that nobody has to wait for."""
    import ray  # noqa: F401 - in this thread first: the others wait for it

    def work() -> None:
        importlib.import_module("admiralty.runtime.serve.app")

    thread = threading.Thread(target=work, name="imports", daemon=True)
    thread.start()
    return thread


def _connect(settings: Settings, places: Folders, address: str | None) -> dict[str, Any]:
    from admiralty.runtime.serve import cluster

    return cluster.start_own(settings, places) if address is None else cluster.join(address)


def _report(parts: Mapping[str, bool], stop: Stop, note: Callable[[str], None]) -> None:
    if stop.wanted:
        raise KeyboardInterrupt
    missing = [name for name, ready in parts.items() if not ready]
    note(f"{len(parts) - len(missing)} of {len(parts)} ready, waiting for {', '.join(missing) or 'the API'}")


def _drain(settings: Settings, places: Folders) -> None:
    from admiralty.runtime.serve import cluster

    with _progress("Draining: no new requests, running turns are finished"):
        left = cluster.drain(places, lambda: _live_runs(settings), seconds=DRAIN_SECONDS)
    if left:
        late = f"{left} turns were not finished in {DRAIN_SECONDS:g} s; the next start goes on with them."
        console.print(f"[yellow]{late}[/]", soft_wrap=True)


def _refuse_second(settings: Settings) -> None:
    from admiralty.runtime.serve.cluster import UpRecord, start_time

    record = UpRecord.read(settings.resolved_home)
    if record and start_time(record.pid) == record.started:
        raise ConfigurationError(
            f"A fleet is already up in {settings.resolved_home} (pid {record.pid}, {record.url}). "
            "End it with `admiralty down`, or use another --home."
        )


def _lock(home: Path) -> None:
    """Hold the home for as long as this process lives. Raises ConfigurationError if another one does."""
    descriptor = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigurationError(
            f"Another `admiralty up` is starting or stopping in {home}. Wait for it, or use another --home."
        ) from None


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
def _progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show ``text`` while the block runs, and how long it took; yields what shows more beside it."""
    started = time.monotonic()
    if console.is_terminal:
        with console.status(f"{escape(text)} …") as status:
            yield lambda more: status.update(f"{escape(text)} … [dim]{escape(more)}[/]")
    else:
        yield lambda _: None
    console.print(f"[green]✓[/] {escape(text)} [dim]{time.monotonic() - started:.1f} s[/]", soft_wrap=True)


def _welcome(record: Any, fleet: str, secret: str | None, seconds: float, places: Folders) -> None:
    shown = secret or "$ADMIRALTY_API_KEY"  # in double quotes below, so that a shell fills it in
    key = (
        f"[bold]Key[/]        {secret}   [yellow](shown once)[/]"
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
        f'curl {record.url}/v1/chat/completions -H "Authorization: Bearer {shown}" \\\n'
        f"  -H 'Content-Type: application/json' -d '{escape(body)}'",
        soft_wrap=True,
    )
    console.print("Ctrl-C drains and stops.")
