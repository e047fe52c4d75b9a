"""Budgets as pydantic models: what comes in, and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from admiralty.runtime.api.wire import Given, Shown

_EXAMPLE: dict[str, Any] = {
    "scope": "user:acme/*",
    "limit_usd": "2.50",
    "window": "day",
    "timezone": "Europe/Berlin",
}

WindowKind = Literal["total", "day", "week", "month", "rolling"]


class NewBudget(Given):
    """A limit on what a scope may spend in a window."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    scope: Annotated[str, Field(max_length=500)]
    """``tenant:acme``, ``team:acme/blue``, ``user:acme/ann``, ``agent:acme/desk.clerk``,
    ``conversation:acme/conv_...``, ``tag:acme/project=alpha``; with ``*`` for the name, or a tag's value, it
    applies to each of them by itself."""
    limit_usd: Annotated[str, Field(max_length=40)]
    """Dollars as a decimal in text, at most 9 digits behind the point."""
    window: WindowKind
    """On the calendar of ``timezone``, or ``rolling`` over the last ``seconds``."""
    seconds: float | None = None
    """Length of a rolling window: 60 to 31622400."""
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    """IANA name."""
    name: Annotated[str, Field(max_length=200)] = ""
    hard: bool = True
    """Whether calls wait and are refused at the limit; a soft budget only tells."""
    thresholds: Annotated[list[float], Field(max_length=10, default_factory=lambda: [0.5, 0.8, 1.0])]
    """Shares of the limit at which an alert goes out, once in each window."""
    webhook: str | None = None
    """URL that alerts are posted to."""


class BudgetChange(Given):
    """What is to be changed of a budget; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"limit_usd": "40"}})

    limit_usd: Annotated[str, Field(max_length=40)] = ""
    name: Annotated[str, Field(max_length=200)] = ""
    thresholds: Annotated[list[float], Field(max_length=10, default_factory=list)]
    webhook: str | None = None
    """``null`` for none."""
    hard: bool = True
    archived: bool = False
    if_updated_at: float | None = None
    """The ``updated_at`` that you saw: if somebody has changed the budget since, the answer is 409."""


class SubjectInfo(Shown):
    """How one of many stands, of a budget that applies to each."""

    subject: str
    spent_usd: str
    held_usd: str
    left_usd: str


class BudgetInfo(Shown):
    """A budget, and how it stands. Times are seconds since the epoch, amounts decimals in text."""

    id: str
    object: Literal["budget"]
    scope: str
    name: str
    limit_usd: str
    window: WindowKind
    seconds: float | None
    timezone: str
    hard: bool
    thresholds: list[float]
    webhook: str | None
    """To keys that are no admin's only where it leads."""
    created_at: float
    updated_at: float
    archived_at: float | None
    current_window: str
    """``2026-11``, ``2026-W47``, ``2026-11-22``, ``total``; of a rolling window its last part."""
    spent_usd: str
    """In the current window; of a budget for each, all of them together."""
    held_usd: str
    """Set aside for calls under way."""
    left_usd: str | None
    """What nobody has claimed; below zero after debts. ``null`` for a budget for each: see ``subjects``."""
    resets_at: float | None
    """From when nothing spent until now counts any more; ``null``: never."""
    subject_count: int
    """How many have spent of a budget for each."""
    subjects: list[SubjectInfo]
    """Those of them that spent most, at most 20; in lists none."""


class BudgetList(Shown):
    """Budgets, oldest first."""

    object: Literal["list"]
    data: list[BudgetInfo]
    has_more: bool
    """Whether there are more: ask with ``after`` = the last id."""
