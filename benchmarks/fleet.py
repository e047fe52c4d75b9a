"""The desk of the benchmarks as an Admiralty fleet: `admiralty up benchmarks.fleet` from the root.

`benchmarks.fleet:inline` is the same with its agents inside the coordinator.
"""

from dataclasses import replace

from admiralty.agents import Agent, Fleet
from admiralty.tools import tool
from benchmarks.systems import desk

get_order = tool(effect="read")(desk.get_order)

triage = Agent(
    "triage", prompt=desk.TRIAGE_PROMPT, output=desk.Triage, handoffs=["lookup", "reasoning"], tier="small"
)
lookup = Agent("lookup", prompt=desk.LOOKUP_PROMPT, tools=[get_order], tier="small")
reasoning = Agent("reasoning", prompt=desk.REASONING_PROMPT, tier="small")

fleet = Fleet("desk", agents=[triage, lookup, reasoning], entry="triage")
inline = Fleet(
    "desk", agents=[replace(agent, placement="inline") for agent in fleet.agents], entry=fleet.entry
)
