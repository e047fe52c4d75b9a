"""Serve's own configuration of a fleet: what ``serve deploy`` takes, and what GitOps keeps.

``serve build`` cannot write it: it takes no application builders and leaves arguments out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from sqlalchemy.engine import make_url

from admiralty.core.settings import Settings
from admiralty.runtime.composition.fleet import load_fleet

IMPORT_PATH = "admiralty.runtime.serve.app:app"

NOT_WRITTEN = frozenset(
    {"openai_api_key", "anthropic_api_key", "provider_keys", "host", "port", "dashboard_port", "haproxy"}
)
"""Settings that are secrets, or of the cluster rather than of the fleet."""

_HEADER = """\
# Ray Serve configuration of the fleet {fleet}, written by `admiralty build`. Deploy it with
#   serve deploy FILE --address http://HEAD:8265
# Secrets are not in it: give the cluster's nodes OPENAI_API_KEY, ADMIRALTY_PROVIDER_KEYS (accounts and
# their limits), ADMIRALTY_DATABASE_URL ... in their environment. Host and port hold only where Serve does
# not run yet. See docs/operating.md.
"""


def serve_config(
    fleet_name: str, settings: Settings, *, name: str = "admiralty", route_prefix: str = "/"
) -> dict[str, Any]:
    """Return the configuration as plain data. Raises ConfigurationError if there is no such fleet."""
    fleet = load_fleet(fleet_name)
    application: dict[str, Any] = {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": IMPORT_PATH,
        "args": {"fleet": fleet_name, **_arguments(settings)},
    }
    if not _is_shipped(fleet.directory):  # a module of the person's own must be found by the workers
        application["runtime_env"] = {"env_vars": {"PYTHONPATH": os.getcwd()}}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": settings.host, "port": settings.port},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [application],
    }


def render(config: dict[str, Any]) -> str:
    """Return the configuration as YAML, with what a reader must know on top."""
    fleet = config["applications"][0]["args"]["fleet"]
    return _HEADER.format(fleet=fleet) + yaml.safe_dump(config, sort_keys=False)


def _arguments(settings: Settings) -> dict[str, Any]:
    """Return what was set, as plain data; paths absolute, as replicas have a folder of their own."""
    given = {name for name in settings.model_fields_set if name not in NOT_WRITTEN}
    if settings.database_url and make_url(settings.database_url).password:
        given.discard("database_url")
    if settings.redis_url and urlsplit(settings.redis_url).password:
        given.discard("redis_url")
    plain = settings.model_dump(mode="json", include=given | {"home"}, exclude_none=True)
    for name in ("home", "data"):
        if name in plain:
            plain[name] = str(Path(plain[name]).expanduser().resolve())
    return plain


def _is_shipped(directory: Path) -> bool:
    return directory.resolve().is_relative_to(Path(__file__).resolve().parents[2])
