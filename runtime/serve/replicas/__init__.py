"""What runs in the replicas: a class for each kind, each in a module that imports only what it needs.

The classes build their part with the composition root and have no logic of their own. In throughput
mode user code shares Serve's event loop, so nothing here may block: what blocks at construction
(opening databases, loading models) runs in threads. Constructors are coroutines, which Serve awaits.
"""

from __future__ import annotations

from dataclasses import dataclass

from admiralty.core.settings import Settings
from admiralty.runtime.serve.loopback import bind_replicas_to_loopback

bind_replicas_to_loopback()  # before Serve opens the replica's port, which is after this import


@dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """What every replica needs to build its part: the fleet's import name, and the settings."""

    fleet: str
    settings: Settings
