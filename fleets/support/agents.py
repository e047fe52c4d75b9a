"""The desk's agents: triage reads, lookup answers, reasoning changes things by the policy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from admiralty.agents import Agent, Autoscale
from admiralty.fleets.support.tools import READ_TOOLS, TOOLS, transfer_to_human_agents

Intent = Literal[
    "order_status",
    "product_question",
    "account_question",
    "policy_question",
    "cancel",
    "modify_order",
    "modify_account_address",
    "return",
    "exchange",
    "human",
    "smalltalk",
]

CHANGES: tuple[Intent, ...] = ("cancel", "modify_order", "modify_account_address", "return", "exchange")
"""Intents that need an agent which may write."""
QUESTIONS: tuple[Intent, ...] = (
    "order_status",
    "product_question",
    "account_question",
    "policy_question",
    "human",
    "smalltalk",
)

_BY_INTENT: dict[str, Any] = {
    "x-depends": {
        "intent": dict.fromkeys(QUESTIONS, "lookup") | dict.fromkeys(CHANGES, "reasoning"),
    }
}


class Triage(BaseModel):
    """What the customer wants, and who goes on."""

    intent: Intent = Field(description="What the latest message is about, in the light of the conversation.")
    handoff: Literal["lookup", "reasoning"] = Field(
        description="Who goes on: lookup for questions, reasoning for anything to be changed.",
        json_schema_extra=_BY_INTENT,
    )
    confidence: float = Field(ge=0.0, le=1.0, description="How sure this is, 0 to 1.")


# The limits leave room for the tokens that reasoning models spend before they answer; and no temperature is
# set, since several of them refuse any but their own.
triage = Agent(
    "triage",
    description="Reads each message first and decides who goes on.",
    prompt="prompts/triage.md",
    tier="small",
    output=Triage,
    handoffs=["lookup", "reasoning"],
    examples="examples/triage.yaml",
    replicas=Autoscale(minimum=1, maximum=4),
    max_output_tokens=2_000,
)

lookup = Agent(
    "lookup",
    description="Answers questions about orders, products, profiles and policy. Changes nothing.",
    prompt="prompts/lookup.md",
    tier="small",
    tools=[*READ_TOOLS, transfer_to_human_agents],
    handoffs=["reasoning"],
    replicas=Autoscale(minimum=1, maximum=4),
    max_output_tokens=8_000,
    max_steps=24,
)

reasoning = Agent(
    "reasoning",
    description=(
        "Makes changes as the policy allows: cancels and modifies orders, arranges returns and exchanges, "
        "changes addresses and payments."
    ),
    prompt="prompts/reasoning.md",
    tier="mid",
    tools=TOOLS,
    replicas=Autoscale(minimum=1, maximum=4),
    max_output_tokens=12_000,
    max_steps=30,
)
