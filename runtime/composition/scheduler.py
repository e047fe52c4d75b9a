"""The scheduler: its providers and its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from admiralty.agents import Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.ports import Memory, Metrics, ModelProvider
from admiralty.core.settings import Settings
from admiralty.runtime.providers.extractive import ExtractiveProvider
from admiralty.runtime.scheduler import LocalScheduler, default_stages
from admiralty.runtime.scheduler.record import Record
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.usage import ModelCallLog
from admiralty.runtime.testing import open_access


def build_providers(settings: Settings, fleet: Fleet, memory: Memory) -> Sequence[ModelProvider]:
    """Build a provider for every one that the settings' models name."""
    clock = SystemClock()
    examples = {agent.name: agent.example_texts for agent in fleet.agents}
    embedded = ExtractiveProvider(memory, examples, clock)
    named = {model.partition(":")[0] for model in settings.tier_models.values()} - {"extractive"}
    if not named:
        return [embedded]
    # A second of imports that the embedded default can do without.
    from admiralty.runtime.providers.langchain import LangChainProvider

    return [
        embedded,
        *(LangChainProvider(name, clock, **_provider_options(settings, name)) for name in sorted(named)),
    ]


def _provider_options(settings: Settings, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": settings.provider_timeout}
    if name == "openai":
        options["stream_usage"] = True
        if settings.openai_base_url:
            options["base_url"] = settings.openai_base_url
        key = settings.openai_api_key
        # A server of one's own wants no key, but the client insists on some text.
        options["api_key"] = key.get_secret_value() if key else "none" if settings.openai_base_url else None
    elif name == "anthropic" and settings.anthropic_api_key:
        options["api_key"] = settings.anthropic_api_key.get_secret_value()
    return {key: value for key, value in options.items() if value is not None}


def build_scheduler(
    settings: Settings, fleet: Fleet, memory: Memory, database: Database, metrics: Metrics | None = None
) -> LocalScheduler:
    """Build the pipeline that every model call passes. ``metrics`` take measurements of it."""
    clock = SystemClock()
    stages = default_stages(
        tier_models=settings.tier_models,
        providers=build_providers(settings, fleet, memory),
        add_record=ModelCallLog(database).add,
        clock=clock,
    )
    # Access is open until policy and ledger are wired.
    return LocalScheduler([Record(metrics, clock), *stages], open_access())
