"""``admiralty agents``: what a fleet consists of."""

from __future__ import annotations

from rich.table import Table

from admiralty.agents import Autoscale
from admiralty.runtime.cli.output import console
from admiralty.runtime.composition.fleet import load_fleet
from admiralty.tools import Tool


def run_agents(fleet_name: str) -> None:
    """Print the fleet's agents."""
    fleet = load_fleet(fleet_name)
    table = Table(
        "agent", "tier", "version", "prompt", "runs as", "tools", "hands off to", header_style="bold"
    )
    for agent in fleet.agents:
        tools = [
            f"{tool.name}{'' if tool.effect == 'read' else f' ({tool.effect})'}"
            for tool in agent.tools
            if isinstance(tool, Tool)
        ]
        scale = agent.replicas
        replicas = f"{scale.minimum}-{scale.maximum}" if isinstance(scale, Autoscale) else str(scale)
        table.add_row(
            agent.name + (" (entry)" if agent.name == fleet.entry else ""),
            agent.tier,
            agent.version,
            f"{agent.instructions.source} v{agent.instructions.version}",
            "inline" if agent.placement == "inline" else f"deployment x{replicas}",
            "\n".join(tools) or "-",
            ", ".join(agent.handoffs) or "-",
        )
    console.print(f"[bold]{fleet.name}[/] {fleet.description}")
    console.print(table)
