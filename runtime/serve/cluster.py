"""Starts a Ray of our own, deploys the fleet, and takes both down again; or joins one by address.

Call ``environment.prepare`` first. Everything that touches Ray's private parts is in this file and
in ``loopback.py``, guarded, so that another version of Ray fails in one known place.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.serve.environment import Folders

OBJECT_STORE_BYTES = 100 * 2**20
"""Ray's shared memory. Values go by gRPC, so the smallest store that Ray accepts comfortably is enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpRecord:
    """What ``down`` and ``status`` must know of a running fleet; kept in ``home/up.json``."""

    pid: int
    started: float
    """Start time of process ``pid``, so that a reused number is not taken for it."""
    fleet: str
    url: str
    dashboard: str
    session: str
    run_folder: str
    host: str
    port: int

    def write(self, home: Path) -> None:
        """Store the record, readable by the owner only."""
        path = home / "up.json"
        path.write_text(json.dumps(asdict(self), indent=1))
        path.chmod(0o600)

    @classmethod
    def read(cls, home: Path) -> UpRecord | None:
        """Return the record in ``home`` if there is one that can be read."""
        try:
            return cls(**json.loads((home / "up.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None


def start_own(settings: Settings, places: Folders) -> dict[str, Any]:
    """Start a Ray that nobody else uses, on loopback only; return its addresses."""
    import ray

    _use_any_agent_port()
    places.ray.mkdir(exist_ok=True)
    try:
        context = ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            _temp_dir=str(places.ray),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=settings.dashboard_port,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="admiralty",
        )
    except Exception as error:
        raise ConfigurationError(f"Ray did not start: {error}. Its logs: {places.ray}") from error
    _silence()
    return dict(context.address_info)


def join(address: str) -> dict[str, Any]:
    """Connect to a running Ray at ``HOST:PORT``, with the token that RAY_AUTH_TOKEN_PATH names."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"address = {address!r}: write HOST:PORT of the cluster's head.")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigurationError(f"address = {address!r}: {error}. Is the cluster's head there?") from error
    import ray

    options: dict[str, Any] = {}
    if host.startswith("127."):
        options["_node_ip_address"] = host
    try:
        context = ray.init(
            address=address, namespace="admiralty", log_to_driver=False, logging_level="ERROR", **options
        )
    except Exception as error:
        raise ConfigurationError(
            f"address = {address!r}: Ray refused: {error}. If it wants a token, set RAY_AUTH_TOKEN_PATH."
        ) from error
    _silence()
    return dict(context.address_info)


def deploy(settings: Settings, build: Callable[[], Any], *, name: str) -> None:
    """Deploy the application that ``build`` returns, and return when all its replicas are ready."""
    from ray import serve
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        http_options={"host": settings.host, "port": settings.port},
        proxy_location="HeadOnly",
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    try:
        serve.run(build(), name=name, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(name)
        why = status.message if status else str(error)
        raise ConfigurationError(f"The fleet was not deployed: {why.strip()}") from error


def drain(places: Folders, live_runs: Callable[[], int], *, seconds: float) -> int:
    """Take no new requests, wait for the running ones and for running turns; return what is left."""
    until = time.monotonic() + seconds
    for path in _admin_sockets(places):
        _haproxy(path, "disable frontend http_frontend")
    while time.monotonic() < until:
        left = live_runs() + sum(_in_flight(path) for path in _admin_sockets(places))
        if not left:
            return 0
        time.sleep(0.2)
    return live_runs()


def shut_down() -> None:
    """End the application, Serve and, if it is ours, Ray."""
    import ray
    from ray import serve

    with contextlib.suppress(Exception):
        serve.shutdown()
    ray.shutdown()


def leave(name: str) -> None:
    """End the application on a cluster that is not ours, and go."""
    import ray
    from ray import serve

    with contextlib.suppress(Exception):
        serve.delete(name)
    ray.shutdown()


def start_time(pid: int) -> float | None:
    """Return when process ``pid`` started, in clock ticks since boot; ``None`` if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else float(fields[19])


def session_processes(*markers: str) -> Iterator[int]:
    """Yield the processes whose command line or open files lie below one of ``markers``."""
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if any(f"{marker}/" in command for marker in markers) or _has_open(entry, markers):
                yield int(entry.name)


def _has_open(process: Path, markers: tuple[str, ...]) -> bool:
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if any(target.startswith(f"{marker}/") for marker in markers):
                return True
    return False


def _admin_sockets(places: Folders) -> list[Path]:
    return list(places.run.glob("*/a"))


def _haproxy(path: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(2)
        connection.connect(str(path))
        connection.sendall(f"{command}\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer.decode()
    return ""


def _in_flight(path: Path) -> int:
    lines = _haproxy(path, "show stat").splitlines()
    if not lines:
        return 0
    names = lines[0].lstrip("# ").split(",")
    rows = (dict(zip(names, line.split(","), strict=False)) for line in lines[1:])
    ours = (row for row in rows if row.get("svname") == "BACKEND" and row["pxname"].startswith("http_"))
    return sum(int(row.get("scur") or 0) for row in ours)


def _use_any_agent_port() -> None:
    """Let the dashboard's agent take a free port.

    ``ray.init`` has no option for it, and beside another Ray ours would lose its agent: `ray job
    submit` would then find none.
    """
    from ray._private.parameter import RayParams

    original = RayParams.__init__
    if getattr(original, "_admiralty", False):
        return

    def with_any_port(self: Any, *arguments: Any, **options: Any) -> None:
        options.setdefault("dashboard_agent_listen_port", 0)
        original(self, *arguments, **options)

    with_any_port._admiralty = True  # type: ignore[attr-defined]
    RayParams.__init__ = with_any_port


def _silence() -> None:
    """Keep the processes' logs in their files: the terminal belongs to the person at it."""
    import ray._private.worker as worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False
