"""Budgets and spending as JSON, for the API and the command line. Amounts are exact decimals in text."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from admiralty.core.money import dollars_text
from admiralty.runtime.ledger.budgets import BudgetState
from admiralty.runtime.ledger.reports import Spend, SpendLine


def budget_json(state: BudgetState, *, secrets: bool = True) -> dict[str, Any]:
    """Return a budget and how it stands; without ``secrets`` of its webhook only where it leads."""
    budget = state.budget
    return {
        "id": budget.id,
        "object": "budget",
        "scope": budget.scope,
        "name": budget.name,
        "limit_usd": dollars_text(budget.limit),
        "window": budget.window,
        "seconds": budget.seconds,
        "timezone": budget.timezone,
        "hard": budget.hard,
        "thresholds": list(budget.thresholds),
        "webhook": budget.webhook if secrets else _masked(budget.webhook),
        "created_at": budget.created_at,
        "updated_at": budget.updated_at,
        "archived_at": budget.archived_at,
        "current_window": state.window,
        "spent_usd": dollars_text(state.spent),
        "held_usd": dollars_text(state.held),
        "left_usd": None if state.left is None else dollars_text(state.left),
        "resets_at": state.resets_at,
        "subject_count": state.subject_count,
        "subjects": [
            {
                "subject": one.subject,
                "spent_usd": dollars_text(one.spent),
                "held_usd": dollars_text(one.held),
                "left_usd": dollars_text(one.left(budget.limit)),
            }
            for one in state.subjects
        ],
    }


def spend_json(spend: Spend) -> dict[str, Any]:
    """Return a report of spending."""
    return {
        "object": "spend",
        "group_by": list(spend.group_by),
        "data": [
            {"period": line.period, "group": dict(zip(spend.group_by, line.groups, strict=True))}
            | _measures(line)
            for line in spend.lines
        ],
        "total": _measures(spend.total),
        "truncated": spend.truncated,
    }


def _measures(line: SpendLine) -> dict[str, Any]:
    usage = line.usage
    return {
        "calls": line.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": dollars_text(line.cost),
        "estimated_usd": dollars_text(line.estimated),
        "debt_usd": dollars_text(line.debt),
    }


def _masked(webhook: str | None) -> str | None:
    """Return where a webhook leads; the rest of its address is often all that protects it."""
    if webhook is None:
        return None
    parts = urlsplit(webhook)
    return f"{parts.scheme}://{parts.hostname}/…"
