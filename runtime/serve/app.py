"""The Serve application of a fleet: also what ``serve build`` and YAML configuration name.

``admiralty.runtime.serve.app:app`` takes the arguments ``fleet`` (import name) and any setting.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from admiralty.agents import Agent, Autoscale
from admiralty.core.settings import Settings
from admiralty.runtime.composition.fleet import load_fleet
from admiralty.runtime.serve.replicas import FleetSpec
from admiralty.runtime.serve.replicas.agent import AgentReplica
from admiralty.runtime.serve.replicas.gateway import DRAIN_SECONDS, Gateway
from admiralty.runtime.serve.replicas.memory import MemoryReplica
from admiralty.runtime.serve.replicas.scheduler import SchedulerReplica
from admiralty.runtime.serve.secrets import without_keys, without_secrets

APP_NAME = "admiralty"

LIGHT = {"num_cpus": 0.05}
"""What replicas that mostly wait reserve of a node's processors."""

COMMON: dict[str, Any] = {"max_constructor_retry_count": 3}
"""A replica that cannot start says why after three tries; Serve's default of 20 takes minutes to."""

QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Serve's own log of a replica: without this, a line for every call is made and then filtered out."""


def app(args: dict[str, Any]) -> Application:
    """Build the application from plain arguments, as Serve's configuration files give them."""
    values = dict(args)
    fleet = str(values.pop("fleet", "fleets.support"))
    return build_app(FleetSpec(fleet=fleet, settings=Settings.load(**values)))


def build_app(spec: FleetSpec) -> Application:
    """Bind the deployments of a fleet to each other. Only the scheduler is given providers' keys."""
    fleet = load_fleet(spec.fleet)
    keyless = replace(spec, settings=without_keys(spec.settings))
    bare = replace(spec, settings=without_secrets(spec.settings))
    memory = serve.deployment(
        MemoryReplica, name="memory", ray_actor_options=LIGHT, max_ongoing_requests=200, logging_config=QUIET
    ).bind(bare)
    scheduler = serve.deployment(
        SchedulerReplica,
        name="scheduler",
        num_replicas=spec.settings.scheduler_replicas,
        ray_actor_options=LIGHT,
        max_ongoing_requests=2000,
        logging_config=QUIET,
    ).bind(spec, memory)
    agents = {
        agent.name: serve.deployment(AgentReplica, name=agent.name, **_options(agent)).bind(
            bare, agent.name, scheduler, memory
        )
        for agent in fleet.agents
        if agent.placement == "deployment"
    }
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        num_replicas=spec.settings.gateway_replicas,
        ray_actor_options=LIGHT,
        max_ongoing_requests=1000,
        logging_config=QUIET,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        **COMMON,
    )
    return gateway.bind(keyless, agents, scheduler, memory)


def _options(agent: Agent) -> dict[str, Any]:
    resources = agent.resources
    actor: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory_mb is not None:
        actor["memory"] = resources.memory_mb * 1024 * 1024
    options: dict[str, Any] = {
        "ray_actor_options": actor,
        "max_ongoing_requests": 500,
        "logging_config": QUIET,
    }
    if isinstance(agent.replicas, Autoscale):
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=agent.replicas.minimum,
            max_replicas=agent.replicas.maximum,
            target_ongoing_requests=agent.replicas.target_ongoing_requests,
        )
    else:
        options["num_replicas"] = agent.replicas
    return options
