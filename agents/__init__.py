"""Agents and fleets: frozen definitions, checked at construction, that say nothing of where they run."""

from admiralty.agents.agent import Agent, Autoscale, Resources
from admiralty.agents.fleet import Fleet, FleetContext, Limits
from admiralty.agents.prompt import Prompt, inline_prompt

__all__ = ["Agent", "Autoscale", "Fleet", "FleetContext", "Limits", "Prompt", "Resources", "inline_prompt"]
