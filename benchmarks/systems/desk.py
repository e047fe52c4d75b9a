"""The small desk that every system serves: prompts, triage's output, one tool; no framework.

A turn is three model calls and one tool call: triage (structured output) hands off to lookup, lookup calls
`get_order`, lookup answers.
"""

from typing import Literal

from pydantic import BaseModel, Field

TRIAGE_PROMPT = (
    "You are the triage agent of a retail support desk. Read the message and decide who answers it. "
    "Questions about an order, a product or an account go to lookup; decisions on returns, exchanges and "
    "cancellations go to reasoning. Give your decision and one sentence of reason. ROUTE:lookup"
)
LOOKUP_PROMPT = (
    "You are the lookup agent of a retail support desk. Answer questions about orders from the database. "
    "Use your tool to read an order before you answer, state only what it returned, and be brief."
)
REASONING_PROMPT = (
    "You are the reasoning agent of a retail support desk. Decide on returns, exchanges and cancellations by "
    "the policy, cite it, and ask the customer to confirm before anything is changed."
)
QUESTIONS = (
    "Hello, where is my order #W1001? It was to arrive yesterday.",
    "And which carrier has it?",
    "Thanks. Is the blue lamp in the same parcel?",
    "Good. Please tell me once more when it comes.",
)


class Triage(BaseModel):
    """Who answers the customer, and why."""

    handoff: Literal["lookup", "reasoning"]
    reason: str = Field(description="One sentence.")


def get_order(order_id: str) -> dict[str, object]:
    """Read an order.

    Args:
        order_id: The order's number, such as #W1001.
    """
    return {
        "order_id": order_id,
        "status": "shipped",
        "carrier": "North Post",
        "expected": "Friday",
        "items": [{"name": "Blue lamp", "price": 49.9}, {"name": "Desk pad", "price": 19.5}],
    }
