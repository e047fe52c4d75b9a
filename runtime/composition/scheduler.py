"""The scheduler: its providers and its stages."""

from __future__ import annotations

from typing import Any

from admiralty.agents import Fleet
from admiralty.core.accounts import ProviderKey
from admiralty.core.clock import SystemClock
from admiralty.core.ports import Memory, Metrics, ModelProvider
from admiralty.core.settings import Settings
from admiralty.runtime.composition.governance import build_gate, build_money
from admiralty.runtime.composition.rates import (
    accounts_of,
    build_breakers,
    build_rate,
    build_route,
    providers_in_use,
)
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.providers.extractive import ExtractiveProvider
from admiralty.runtime.scheduler import LocalScheduler, default_stages
from admiralty.runtime.scheduler.access import AccessControl
from admiralty.runtime.scheduler.dispatch import DEFAULT_KEY, Dispatch, Providers, by_account
from admiralty.runtime.scheduler.hold import Hold
from admiralty.runtime.scheduler.journal import StepJournal
from admiralty.runtime.scheduler.policy import PolicyStage
from admiralty.runtime.scheduler.record import Record
from admiralty.runtime.scheduler.settle import Settle
from admiralty.runtime.storage import Database


def build_providers(settings: Settings, fleet: Fleet, memory: Memory) -> Providers:
    """Build a provider for every account of those that the settings' models and fallbacks name."""
    clock = SystemClock()
    examples = {agent.name: agent.example_texts for agent in fleet.agents}
    providers: dict[tuple[str, str], ModelProvider] = dict(
        by_account([ExtractiveProvider(memory, examples, clock)])
    )
    named = [name for name in providers_in_use(settings) if (name, DEFAULT_KEY) not in providers]
    if not named:
        return providers
    # A second of imports that the embedded default can do without.
    from admiralty.runtime.providers.langchain import LangChainProvider

    for name in named:
        for account in accounts_of(settings, name):
            options = _provider_options(settings, name, account)
            providers[name, account.name] = LangChainProvider(name, clock, **options)
    return providers


def _provider_options(settings: Settings, name: str, account: ProviderKey) -> dict[str, Any]:
    own = {
        "openai": (settings.openai_api_key, settings.openai_base_url),
        "anthropic": (settings.anthropic_api_key, None),
    }
    key, url = own.get(name, (None, None))
    key, url = account.api_key or key, account.base_url or url
    options: dict[str, Any] = {"timeout": settings.provider_timeout, "base_url": url}
    options["api_key"] = key.get_secret_value() if key else None
    if name == "openai":
        options["stream_usage"] = True
        if key is None and url:  # a server of one's own wants no key, but the client insists on some text
            options["api_key"] = "none"
    return {option: value for option, value in options.items() if value is not None}


def build_scheduler(
    settings: Settings,
    fleet: Fleet,
    memory: Memory,
    database: Database,
    metrics: Metrics | None = None,
    providers: Providers | None = None,
) -> LocalScheduler:
    """Build the pipeline that every model call passes. It must be started, and closed.

    ``metrics`` take measurements of it; ``providers`` stand in for those that the settings name. Raises
    ConfigurationError for a policy that does not hold together.
    """
    clock = SystemClock()
    money = build_money(settings, database, clock)
    gate, decisions = build_gate(settings, fleet, database, clock)
    if providers is None:
        providers = build_providers(settings, fleet, memory)
    breakers = build_breakers(settings, clock)
    stages = default_stages(
        record=Record(metrics, clock),
        route=build_route(settings, clock),
        policy=PolicyStage(gate),
        hold=Hold(money.ledger, money.prices, money.estimator, clock),
        settle=Settle(
            money.ledger,
            money.prices,
            money.estimator,
            clock,
            on_disconnect=settings.on_disconnect,
            drain_seconds=settings.drain_seconds,
        ),
        journal=StepJournal(database, clock),
        rate=build_rate(settings, providers, breakers, clock),
        dispatch=Dispatch(providers, clock, breakers),
    )
    access = AccessControl(
        gate=gate,
        ledger=money.ledger,
        clock=clock,
        effects=EffectBook(database, clock),
        metrics=metrics,
    )
    return LocalScheduler(stages, access, services=[money.ledger, money.alerts, access, decisions])
