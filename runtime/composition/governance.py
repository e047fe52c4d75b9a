"""What the scheduler governs by: policy, prices, and the ledger with its journal and alerts."""

from __future__ import annotations

from dataclasses import dataclass

from admiralty.agents import Fleet
from admiralty.core.ports import Clock
from admiralty.core.settings import Settings
from admiralty.runtime.composition.conversations import process_name
from admiralty.runtime.ledger.alerts import record_alerts
from admiralty.runtime.ledger.delivery import AlertDeliverer
from admiralty.runtime.ledger.estimate import Estimator
from admiralty.runtime.ledger.journal import Journal
from admiralty.runtime.ledger.ledger import Ledger
from admiralty.runtime.ledger.prices import PriceBook
from admiralty.runtime.policy import CedarPolicy, ConversationFacts, DecisionLog, PolicyGate
from admiralty.runtime.storage import Database


@dataclass(frozen=True, kw_only=True)
class Money:
    """What calls are paid with."""

    ledger: Ledger
    prices: PriceBook
    estimator: Estimator
    alerts: AlertDeliverer


def build_money(settings: Settings, database: Database, clock: Clock) -> Money:
    """Build the ledger and what it counts with. Ledger and alerts must be started, and closed."""
    owner = process_name()
    # A database in memory dies with its process: there would be nothing to settle from a journal.
    journal = None if database.in_memory else Journal(settings.resolved_home / "journal", owner)
    return Money(
        ledger=Ledger(
            database,
            owner=owner,
            clock=clock,
            journal=journal,
            on_spent=record_alerts,
            lease=settings.hold_lease_seconds,
            max_wait=settings.budget_wait_seconds,
        ),
        prices=PriceBook.from_settings(settings, clock),
        estimator=Estimator(default_output=settings.default_output_tokens),
        alerts=AlertDeliverer(database, clock, allow_private=settings.allow_private_webhooks),
    )


def build_gate(
    settings: Settings, fleet: Fleet, database: Database, clock: Clock
) -> tuple[PolicyGate, DecisionLog]:
    """Build the policy's gate, and the log of its decisions: close it. Raises ConfigurationError."""
    log = DecisionLog(database, clock)
    facts = ConversationFacts(database)
    return PolicyGate(CedarPolicy.of(settings, fleet), log, facts=facts), log
