"""The ingress replica: API and conversations together; a hop between them would cost a third of the rate."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from admiralty.core.clock import SystemClock
from admiralty.runtime.agents.hosts import LocalAgentHost, SplitAgentHost
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.api import ApiParts, create_app
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.composition.conversations import build_conversations, process_name
from admiralty.runtime.composition.fleet import load_fleet, setup_resources
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.figures import Figures
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.policy import CedarPolicy, DecisionLog
from admiralty.runtime.serve.remote import RemoteAgentHost, RemoteMemory, RemoteScheduler
from admiralty.runtime.serve.replicas import FleetSpec
from admiralty.runtime.serve.replicas.stopping import POLL_SECONDS, told_to_stop
from admiralty.runtime.serve.secrets import forget_keys
from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.keys import ApiKeys

DRAIN_SECONDS = 20.0
"""How long after it was told to stop a replica is killed."""

FINISH_SECONDS = 15.0
"""How long of that it waits for the turns that it is executing; then it hands them on."""


class Gateway:
    """The ingress: API and conversations, in one replica."""

    async def __init__(  # type: ignore[misc]
        self,
        spec: FleetSpec,
        agents: dict[str, DeploymentHandle],
        scheduler: DeploymentHandle,
        memory: DeploymentHandle,
    ) -> None:
        forget_keys(os.environ, spec.settings)  # inline agents run here
        fleet, settings = load_fleet(spec.fleet), spec.settings
        database = self._database = await asyncio.to_thread(Database.of, settings)
        remote_scheduler, remote_memory = RemoteScheduler(scheduler), RemoteMemory(memory)
        inline = [agent for agent in fleet.agents if agent.name not in agents]
        resources = None
        if inline:
            resources = await asyncio.to_thread(setup_resources, settings, fleet)
        state = SqlStateStore(database, history=settings.state_history)
        local = LocalAgentHost(
            fleet,
            inline,
            Surroundings(scheduler=remote_scheduler, memory=remote_memory, resources=resources, state=state),
        )
        host = SplitAgentHost([agent.name for agent in inline], local, RemoteAgentHost(agents))
        self._conversations = await build_conversations(fleet, host, database, settings)
        self._leaving = asyncio.create_task(_leave_in_time(self._conversations))
        self._parts = ApiParts(
            conversations=self._conversations,
            keys=ApiKeys(database),
            reports=Reports(database),
            budgets=Budgets(database, allow_private_webhooks=settings.allow_private_webhooks),
            figures=Figures(database, SystemClock()),
            effects=EffectBook(database, SystemClock()),
            settings=settings,
            version=importlib.metadata.version("admiralty"),
            process=process_name(),
            policy=CedarPolicy.of(settings, fleet),
            decisions=DecisionLog(database),
            approvals=ApprovalStore(database),
            state=state,
            readiness=lambda: _ready({"memory": remote_memory.ready, "scheduler": remote_scheduler.ready}),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app, built after the constructor: Serve calls this."""
        app: FastAPI = create_app(self._parts)
        return app

    async def __del__(self) -> None:
        """Finish the running turns, which outlive the requests that Serve waits for; Serve awaits this."""
        await self._conversations.drain(FINISH_SECONDS)
        self._leaving.cancel()
        await self._database.close()


async def _leave_in_time(conversations: Conversations) -> None:
    """Drain as soon as this replica is told to stop, so that those who follow turns do not hold it up."""
    while not told_to_stop():  # noqa: ASYNC110 - Serve has no event for it
        await asyncio.sleep(POLL_SECONDS)
    await conversations.drain(FINISH_SECONDS)


async def _ready(parts: Mapping[str, Callable[[], Awaitable[bool]]]) -> Mapping[str, bool]:
    """Ask the parts that every turn needs. Agents are not asked: that would wake those scaled to zero."""
    answers = await asyncio.gather(*(ready() for ready in parts.values()), return_exceptions=True)
    return {name: answer is True for name, answer in zip(parts, answers, strict=True)}
