"""Starts a Ray of our own, deploys the fleet, and takes both down again; or joins one by address.

Call ``environment.prepare`` first. Everything that touches Ray's private parts is in this file and
in ``loopback.py``, guarded, so that another version of Ray fails in one known place.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.serve.environment import Folders

OBJECT_STORE_BYTES = 100 * 2**20
"""Ray's shared memory. Values go by gRPC, so the smallest store that Ray accepts comfortably is enough."""

POLL_SECONDS, LONG_POLL_SECONDS = 0.25, 1.0
"""Serve's status costs it and us 30 ms of processor time: looked at often only when it is nearly there."""

INGRESS_SECONDS = 30.0
"""How long the ingress may take to route to replicas that are ready."""

LISTENER_SECONDS = 2.0
"""How long after the last turn has ended requests may still be under way."""


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
    """Folder of our own Ray's session; empty on a Ray that is not ours."""
    run_folder: str
    gcs: str
    """Where Ray's head listens, for ``--address`` of others."""
    joined: bool
    """Whether that Ray is not ours."""

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

    _adjust_node()
    places.ray.mkdir(exist_ok=True)
    _forget_old_sessions(places.ray)
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


def refuse_taken(name: str, address: str) -> None:
    """Raise ConfigurationError if the joined Ray runs an application ``name``: it would be replaced."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    found = serve.status().applications.get(name)
    if found is not None and found.status != "DELETING":
        raise ConfigurationError(
            f"address = {address!r}: an application {name!r} runs there already ({found.status}). "
            "End it first (`admiralty down` in its home), or add a fleet beside it with `admiralty build "
            "--name NAME --route-prefix /NAME` and `serve deploy`."
        )


def deploy(
    settings: Settings,
    build: Callable[[], Any],
    *,
    name: str,
    address: str | None = None,
    report: Callable[[Mapping[str, bool]], None] = lambda _: None,
) -> str:
    """Deploy the application that ``build`` returns; return the API's URL when it answers.

    ``report`` is told now and then which deployments are ready. Raises ConfigurationError, with the
    reason that Serve gives, if a replica cannot start.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        http_options={"host": settings.host, "port": settings.port},
        proxy_location="HeadOnly",
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    # Serve's own waiting looks once a second only, and tells nobody.
    target = serve.RunTarget(target=build(), name=name, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    _wait_until_running(name, report)
    host, port = reachable(settings.host), settings.port
    if address is not None:  # where Serve ran already, it keeps its port
        host, port = address.rpartition(":")[0], _serve_port(default=port)
    _wait_until_answering(host, port)
    return f"http://{host}:{port}"


def _wait_until_running(name: str, report: Callable[[Mapping[str, bool]], None]) -> None:
    from ray import serve

    while True:
        application = serve.status().applications.get(name)
        ready: dict[str, bool] = {}
        if application is not None:
            ready = {part: state.status == "HEALTHY" for part, state in application.deployments.items()}
            report(ready)
            if application.status == "RUNNING":
                return
            if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                messages = {part: state.message for part, state in application.deployments.items()}
                raise ConfigurationError(f"The fleet was not deployed: {_why(application.message, messages)}")
        time.sleep(POLL_SECONDS if any(ready.values()) else LONG_POLL_SECONDS)


def _why(message: str, messages: Mapping[str, str]) -> str:
    """Return what the replicas raised, by deployment, out of Serve's tracebacks."""
    found = []
    for part, text in messages.items():
        raised = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception): .+)$", text, re.MULTILINE)
        if raised:
            found.append(f"{part}: {raised[-1]}")
    return "; ".join(found) or message.strip()


def _wait_until_answering(host: str, port: int) -> None:
    """Wait until the ingress knows the replicas: their being ready is not enough."""
    until = time.monotonic() + INGRESS_SECONDS
    while time.monotonic() < until:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        time.sleep(POLL_SECONDS)
    raise ConfigurationError(
        f"The fleet runs, but its API does not answer at {host}:{port} after {INGRESS_SECONDS:g} s. "
        "The ingress's logs are in Ray's session folder, under logs/serve."
    )


def _serve_port(*, default: int) -> int:
    from ray.serve import context

    with contextlib.suppress(Exception):  # private: another version of Ray may not have it
        return int(context._get_global_client().http_config.port)
    return default


def reachable(host: str) -> str:
    """Return an address of this machine at which something that is bound to ``host`` answers."""
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def drain(places: Folders, live_runs: Callable[[], int], *, seconds: float) -> int:
    """Take no new requests, wait for the running ones and for running turns; return how many turns are left.

    Whoever only listens, to what waits for a person or to a conversation, would listen for ever: they are
    cut off once nothing runs any more, and come back later.
    """
    until = time.monotonic() + seconds
    for path in _admin_sockets(places):
        _haproxy(path, "disable frontend http_frontend")
    idle_since: float | None = None
    while (now := time.monotonic()) < until:
        running = live_runs()
        if not running and not sum(_in_flight(path) for path in _admin_sockets(places)):
            return 0
        idle_since = None if running else idle_since or now
        if idle_since is not None and now - idle_since >= LISTENER_SECONDS:
            break
        time.sleep(0.2)
    left = live_runs()
    if not left:  # else their replicas hand the turns on, and say so to their clients
        for path in _admin_sockets(places):
            _hang_up(path)
    return left


def shut_down() -> None:
    """End the application, Serve and the Ray that is ours."""
    import ray

    if not ray.is_initialized():
        return  # Serve would start a Ray, to have one to look at
    from ray import serve

    with contextlib.suppress(Exception):
        serve.shutdown()
    ray.shutdown()


def leave(name: str | None) -> None:
    """End the application ``name``, if one is given, on a Ray that is not ours, and go."""
    import ray

    if not ray.is_initialized():
        return
    from ray import serve

    if name is not None:
        with contextlib.suppress(Exception):
            serve.delete(name)
    ray.shutdown()


def _forget_old_sessions(folder: Path) -> None:
    """Keep the logs of the latest session; each takes megabytes, and nobody else clears them."""
    sessions = sorted(path for path in folder.glob("session_2*") if path.is_dir())
    for path in sessions[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def start_time(pid: int) -> float | None:
    """Return when process ``pid`` started, in clock ticks since boot; ``None`` if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else float(fields[19])


_RAY_PROGRAM = re.compile(r"ray|gcs_server|haproxy|python|setpriv|sh$")


def session_processes(*markers: str) -> Iterator[int]:
    """Yield the processes whose command line or open files lie below one of ``markers``."""
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            # Only what Ray starts: somebody may be reading a log with `less` or `tail`.
            if not _RAY_PROGRAM.match(command.partition("\0")[0].rpartition("/")[2]):
                continue
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
    return sum(int(row.get("scur") or 0) for row in _backends(path) if row["svname"] == "BACKEND")


def _hang_up(path: Path) -> None:
    """End the connections of all clients: replicas then wait for nobody."""
    for row in _backends(path):
        if row["svname"] not in ("BACKEND", "FRONTEND"):
            _haproxy(path, f"shutdown sessions server {row['pxname']}/{row['svname']}")


def _backends(path: Path) -> list[dict[str, str]]:
    """Return HAProxy's figures of the API: of each replica, and of all of them as ``BACKEND``."""
    lines = _haproxy(path, "show stat").splitlines()
    if not lines:
        return []
    names = lines[0].lstrip("# ").split(",")
    rows = (dict(zip(names, line.split(","), strict=False)) for line in lines[1:])
    return [row for row in rows if row.get("svname") and row["pxname"].startswith("http_")]


def _adjust_node() -> None:
    """Set what ``ray.init`` has no options for.

    The dashboard's agent takes a free port: beside another Ray ours would lose its agent, and `ray
    job submit` would then find none. The log monitor, a process that only copies workers' logs to
    the driver's terminal, is left out, as the terminal is not for them.
    """
    from ray._private.parameter import RayParams

    original = RayParams.__init__
    if getattr(original, "_admiralty", False):
        return

    def adjusted(self: Any, *arguments: Any, **options: Any) -> None:
        options.setdefault("dashboard_agent_listen_port", 0)
        options.setdefault("include_log_monitor", False)
        original(self, *arguments, **options)

    adjusted._admiralty = True  # type: ignore[attr-defined]
    RayParams.__init__ = adjusted


def _silence() -> None:
    """Keep the processes' logs in their files: the terminal belongs to the person at it."""
    import ray._private.worker as worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False
