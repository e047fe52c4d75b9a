"""The composition root: the one place that builds the parts of a fleet and hands them to each other.

Each function builds what one kind of process needs. In one process all of them are called
(``runtime.local``); on Ray each deployment calls its own (``runtime.serve``).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from admiralty.agents import Fleet, FleetContext
from admiralty.core.clock import SystemClock
from admiralty.core.errors import ConfigurationError
from admiralty.core.ids import new_id
from admiralty.core.ports import AgentHost, Memory, ModelProvider
from admiralty.core.settings import Settings
from admiralty.memory import Knowledge, open_embedder
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.providers.extractive import ExtractiveProvider
from admiralty.runtime.providers.langchain import LangChainProvider
from admiralty.runtime.scheduler import LocalScheduler, default_stages
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import open_checkpointer
from admiralty.runtime.storage.conversations import ConversationStore
from admiralty.runtime.storage.usage import ModelCallLog


def load_fleet(reference: str) -> Fleet:
    """Import a fleet: ``package.module`` or ``package.module:name`` (by default ``fleet``).

    The working folder is searched first, then the fleets that ship with Admiralty.

    Raises ConfigurationError, naming what was looked for and where.
    """
    module_name, _, attribute = reference.partition(":")
    attribute = attribute or "fleet"
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    for name in (module_name, f"admiralty.{module_name}"):
        if not _exists(name):
            continue
        module = importlib.import_module(name)
        fleet = getattr(module, attribute, None)
        if not isinstance(fleet, Fleet):
            raise ConfigurationError(
                f"fleet = {reference!r}: {name} has no Fleet named {attribute!r}. "
                f"Define `{attribute} = Fleet(...)` in it, or name another as {module_name}:NAME."
            )
        return fleet
    raise ConfigurationError(
        f"fleet = {reference!r}: there is no module {module_name!r} in {folder} or among Admiralty's fleets. "
        "Try fleets.support, or run where your module lies."
    )


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def fleet_context(settings: Settings, fleet: Fleet) -> FleetContext:
    """Return what the fleet's ``setup`` and ``knowledge`` are given."""
    home = settings.resolved_home / "fleets" / fleet.name
    home.mkdir(parents=True, exist_ok=True)
    data = settings.data
    if data is not None:
        data = data.expanduser().resolve()
        if not data.exists():
            raise ConfigurationError(f"data = {str(data)!r}: no such folder. Check --data.")
    return FleetContext(home=home, data=data)


def open_database(settings: Settings) -> Database:
    """Open and migrate the database."""
    return Database(settings.resolved_database_url, synchronous=settings.sqlite_synchronous)


async def build_memory(settings: Settings, fleet: Fleet) -> Knowledge:
    """Build the fleet's memory: its embedder, and its documents indexed."""
    embedder = await asyncio.to_thread(open_embedder, settings.embedder)
    return await Knowledge.build(embedder, fleet.documents(fleet_context(settings, fleet)))


def build_providers(settings: Settings, fleet: Fleet, memory: Memory) -> Sequence[ModelProvider]:
    """Build a provider for every one that the settings' models name."""
    clock = SystemClock()
    examples = {agent.name: agent.example_texts for agent in fleet.agents}
    named = {model.partition(":")[0] for model in settings.tier_models.values()}
    vendors = [
        LangChainProvider(name, clock, **_provider_options(settings, name))
        for name in sorted(named - {"extractive"})
    ]
    return [ExtractiveProvider(memory, examples, clock), *vendors]


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


def build_scheduler(settings: Settings, fleet: Fleet, memory: Memory, database: Database) -> LocalScheduler:
    """Build the pipeline that every model call passes."""
    return LocalScheduler(
        default_stages(
            tier_models=settings.tier_models,
            providers=build_providers(settings, fleet, memory),
            add_record=ModelCallLog(database).add,
            clock=SystemClock(),
        )
    )


def setup_resources(settings: Settings, fleet: Fleet) -> Any:
    """Open what the fleet's tools need, in this process."""
    return fleet.setup(fleet_context(settings, fleet)) if fleet.setup else None


def process_name() -> str:
    """Return a name that no other process has, now or later: who owns a run."""
    return f"{socket.gethostname()[:30]}-{os.getpid()}-{new_id('p')[-8:]}"


async def build_conversations(
    fleet: Fleet,
    host: AgentHost,
    database: Database,
    stack: AsyncExitStack,
) -> Conversations:
    """Build the coordinator of the fleet's conversations; ``stack`` closes what it opens."""
    clock = SystemClock()
    checkpointer: BaseCheckpointSaver[Any] = await stack.enter_async_context(open_checkpointer(database.url))
    return Conversations(
        fleet=fleet,
        host=host,
        store=ConversationStore(database, owner=process_name(), clock=clock),
        calls=ModelCallLog(database),
        checkpointer=checkpointer,
        clock=clock,
    )


def data_folder(settings: Settings) -> Path:
    """Return the home folder, made if it is not there."""
    home = settings.resolved_home
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"home = {str(home)!r}: {error.strerror}. Set ADMIRALTY_HOME.") from error
    return home
