"""A retail shop's support desk: triage, lookup and reasoning agents over a shop of records and a policy.

``fleet`` is what the command line and the tests run. Without data of the operator's own it works on
the shop that ships with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from admiralty.agents import Fleet, FleetContext, Limits
from admiralty.fleets.support.agents import Triage, lookup, reasoning, triage
from admiralty.fleets.support.shop import Shop, find_policy, open_shop
from admiralty.fleets.support.tools import POLICY_CORPUS

__all__ = ["Desk", "Triage", "fleet", "lookup", "reasoning", "triage"]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the tools work with."""

    shop: Shop


def open_desk(context: FleetContext) -> Desk:
    """Open the shop of ``--data``, or the shipped one; its state is kept in the fleet's home."""
    return Desk(shop=open_shop(context.data, context.home))


def policy_documents(context: FleetContext) -> dict[str, list[Path]]:
    """Return the desk's documents: the policy of ``--data`` if it has one, else the shipped one."""
    return {POLICY_CORPUS: [find_policy(context.data)]}


fleet = Fleet(
    "support",
    description="The support desk of a retail shop.",
    agents=[triage, lookup, reasoning],
    entry="triage",
    knowledge=policy_documents,
    setup=open_desk,
    limits=Limits(steps=40, history=120),
)
