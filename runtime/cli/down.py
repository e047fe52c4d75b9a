"""``admiralty down``: end what ``up`` started in a home, by process ids that were noted then."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console
from admiralty.runtime.serve import environment
from admiralty.runtime.serve.cluster import UpRecord, session_processes, start_time

GRACE_SECONDS = 60.0
"""How long `up` may take to drain and stop before it is killed."""


def run_down(settings: Settings) -> None:
    """Ask `up` to stop; if it was killed or does not stop, end what is left of its Ray."""
    home = settings.resolved_home
    record = UpRecord.read(home)
    if record is None:
        console.print(f"No fleet is up in {home}.", soft_wrap=True)
        return
    if start_time(record.pid) == record.started:
        with console.status("Draining and stopping …"):
            os.kill(record.pid, signal.SIGTERM)
            until = time.monotonic() + GRACE_SECONDS
            while start_time(record.pid) == record.started and time.monotonic() < until:
                time.sleep(0.1)
            if start_time(record.pid) == record.started:
                os.kill(record.pid, signal.SIGKILL)
    else:
        console.print("[yellow]`up` had been killed; ending what it left behind.[/]")
        if record.joined:
            _leave(settings, record.gcs)
    killed = _end_session(record)
    (home / "up.json").unlink(missing_ok=True)
    console.print(f"Stopped{f'; {killed} processes had to be killed' if killed else ''}.")


def _leave(settings: Settings, address: str) -> None:
    """Take the fleet off the Ray that was joined, which goes on."""
    environment.prepare(settings, environment.folders(settings.resolved_home), address=address)
    from admiralty.runtime.serve import cluster
    from admiralty.runtime.serve.app import APP_NAME

    cluster.join(address)
    cluster.leave(APP_NAME)


def _end_session(record: UpRecord) -> int:
    """Kill what still belongs to the record's Ray session; return how many there were."""
    if record.joined:  # those processes are not ours
        return 0
    markers = [marker for marker in (record.session, record.run_folder) if marker.count("/") >= 2]
    killed = 0
    for _ in range(50):
        left = list(session_processes(*markers))
        if not left:
            break
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.2)
    return killed
