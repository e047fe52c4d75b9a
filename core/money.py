"""Money is an integer of nano-dollars (1 USD = 1_000_000_000), so that sums are exact.

A price of $0.15 for a million tokens is 150 nano-dollars a token: every price in use is a whole
number of nano-dollars for a token or for a thousand tokens.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import NewType

Nanos = NewType("Nanos", int)
"""An amount in nano-dollars."""

NANOS_PER_DOLLAR = 1_000_000_000

ZERO = Nanos(0)


def from_dollars(amount: Decimal | str | int) -> Nanos:
    """Return ``amount`` dollars in nano-dollars, rounded up: we never charge less than was spent."""
    return Nanos(int((Decimal(amount) * NANOS_PER_DOLLAR).to_integral_value(ROUND_CEILING)))


def to_dollars(amount: Nanos) -> Decimal:
    """Return ``amount`` nano-dollars as an exact decimal of dollars."""
    return Decimal(amount) / NANOS_PER_DOLLAR


def dollars_text(amount: Nanos) -> str:
    """Return ``amount`` as clients read it: exact decimal dollars, never in scientific notation."""
    return f"{to_dollars(amount):f}"


def format_dollars(amount: Nanos) -> str:
    """Return ``amount`` for people: ``$1.23``, and small amounts in full: ``$0.000045``."""
    dollars = to_dollars(amount)
    if dollars == 0:
        return "$0"
    if abs(dollars) >= 1:
        return f"${dollars:,.2f}"
    return f"${dollars.normalize():f}"
