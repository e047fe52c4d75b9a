"""Where agents run: this process. (The deployments of ``runtime.serve`` are the other adapter.)"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from admiralty.agents import Agent, Fleet
from admiralty.core.ports import AgentHost, VisitStream
from admiralty.core.values import Visit
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.agents.visit import StandardAgent

if TYPE_CHECKING:
    from admiralty.runtime.agents.graph import GraphAgent


def build_agent(fleet: Fleet, agent: Agent, surroundings: Surroundings) -> StandardAgent | GraphAgent:
    """Return what runs visits to ``agent``."""
    if agent.graph is None:
        return StandardAgent(fleet, agent, surroundings)
    # Half a second of imports that most agents can do without.
    from admiralty.runtime.agents.graph import GraphAgent

    return GraphAgent(fleet, agent, surroundings)


class LocalAgentHost:
    """Runs agents of a fleet in this process."""

    def __init__(self, fleet: Fleet, agents: Iterable[Agent], surroundings: Surroundings) -> None:
        self._agents = {agent.name: build_agent(fleet, agent, surroundings) for agent in agents}

    def visit(self, visit: Visit) -> VisitStream:
        return self._agents[visit.caller.agent].visit(visit)


class SplitAgentHost:
    """Sends a visit to ``local`` for the agents named inline, to ``remote`` for the others."""

    def __init__(self, inline: Iterable[str], local: AgentHost, remote: AgentHost) -> None:
        self._inline = frozenset(inline)
        self._local = local
        self._remote = remote

    def visit(self, visit: Visit) -> VisitStream:
        host = self._local if visit.caller.agent in self._inline else self._remote
        return host.visit(visit)
