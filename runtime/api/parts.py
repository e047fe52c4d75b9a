"""What the API is built from. The composition root fills it in, in whatever process serves HTTP."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from admiralty.core.clock import SystemClock
from admiralty.core.ports import Clock, StateStore
from admiralty.core.settings import Settings
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.figures import Figures
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.policy import CedarPolicy, DecisionLog
from admiralty.runtime.storage.keys import ApiKeys

Readiness = Callable[[], Awaitable[Mapping[str, bool]]]
"""Returns for each part that a turn needs, by name, whether it is ready."""


async def always_ready() -> Mapping[str, bool]:
    """Return no parts: there is nothing to wait for where all of them are in this process."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ApiParts:
    """The services behind the HTTP doors."""

    conversations: Conversations
    keys: ApiKeys
    reports: Reports
    budgets: Budgets
    figures: Figures
    effects: EffectBook
    settings: Settings
    version: str
    """Version of Admiralty, as ``/healthz`` and the OpenAPI document tell it."""
    process: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Tells this process's own metrics from those of its replicas: a label of theirs."""
    policy: CedarPolicy | None = None
    """By what this process decides; without it, and without ``decisions``, no door shows policies."""
    decisions: DecisionLog | None = None
    approvals: ApprovalStore | None = None
    """What waits for persons; without it, no door shows or decides that."""
    state: StateStore | None = None
    """What agents share; without it, no door leads to it."""
    readiness: Readiness = always_ready
    clock: Clock = field(default_factory=SystemClock)
    keep_alive: float = 10.0
    """Seconds of silence after which a stream sends a comment, so that nothing between us and the
    client takes it for dead."""
