"""A ledger entry as a row of FOCUS 1.2, the FinOps Open Cost and Usage Specification. Pure.

One row is one call. Its price is made up of several (input, cached input, output, reasoning), so the
priced unit is the request: unit price times quantity is the cost exactly, as FOCUS wants, and the tokens
stand in ConsumedQuantity and in columns of ours, which begin with ``x_``. A correction within its month
is an ordinary row of negative quantity where it gives back; one of an earlier month has the ChargeClass
Correction.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import RowMapping

from admiralty.core.money import Nanos, dollars_text

CellKind = Literal["text", "number"]

FOCUS_COLUMNS: Mapping[str, CellKind] = {
    "BilledCost": "number", "BillingAccountId": "text", "BillingAccountName": "text",
    "BillingAccountType": "text", "BillingCurrency": "text", "BillingPeriodEnd": "text",
    "BillingPeriodStart": "text", "ChargeCategory": "text", "ChargeClass": "text",
    "ChargeDescription": "text", "ChargeFrequency": "text", "ChargePeriodEnd": "text",
    "ChargePeriodStart": "text", "ConsumedQuantity": "number", "ConsumedUnit": "text",
    "ContractedCost": "number", "ContractedUnitPrice": "number", "EffectiveCost": "number",
    "InvoiceIssuerName": "text", "ListCost": "number", "ListUnitPrice": "number", "PricingCategory": "text",
    "PricingQuantity": "number", "PricingUnit": "text", "ProviderName": "text", "PublisherName": "text",
    "RegionId": "text", "RegionName": "text", "ResourceId": "text", "ResourceName": "text",
    "ResourceType": "text", "ServiceCategory": "text", "ServiceName": "text", "ServiceSubcategory": "text",
    "SkuId": "text", "SkuPriceId": "text", "SubAccountId": "text", "SubAccountName": "text",
    "SubAccountType": "text", "Tags": "text",
    "x_AgentVersion": "text", "x_CachedTokens": "number", "x_CacheWriteTokens": "number", "x_CallId": "text",
    "x_ConversationId": "text", "x_Corrects": "text", "x_DebtCost": "number", "x_DurationSeconds": "number",
    "x_EntryId": "text", "x_Estimated": "text", "x_HeldCost": "number", "x_InputTokens": "number",
    "x_Kind": "text", "x_OutputTokens": "number", "x_PolicyBundle": "text", "x_PriceBook": "text",
    "x_ReasoningTokens": "number", "x_RunId": "text", "x_Status": "text", "x_Tier": "text", "x_User": "text",
}  # fmt: skip
"""The columns in their order, and whether a cell is a number or text."""


def is_charge(row: RowMapping) -> bool:
    """Tell whether an entry is a charge at all: a call that failed before it used anything is none."""
    return bool(row["cost_nanos"] or row["input_tokens"] or row["output_tokens"])


def focus_cells(row: RowMapping) -> dict[str, Any]:
    """Return the cells of an entry by their columns; ``None`` is null. ``corrected_at`` is in the row too."""
    nanos = row["cost_nanos"] or 0
    cost = dollars_text(Nanos(nanos))
    cells: dict[str, Any] = dict.fromkeys(FOCUS_COLUMNS)
    cells |= {
        "BilledCost": cost,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "PricingCategory": "Standard",
        "ServiceCategory": "AI and Machine Learning",
        "Tags": json.dumps(dict(row["tags"]), ensure_ascii=False, separators=(",", ":"), sort_keys=True),
    }
    return cells | _account(row) | _when(row) | _what(row) | _how_much(row, nanos) | _ours(row)


def _account(row: RowMapping) -> dict[str, Any]:
    return {
        "BillingAccountId": row["tenant"],
        "BillingAccountName": row["tenant"],
        "BillingAccountType": "Tenant",
        "SubAccountId": row["team"],
        "SubAccountName": row["team"],
        "SubAccountType": "Team" if row["team"] else None,
        "ResourceId": f"{row['fleet']}.{row['agent']}",
        "ResourceName": row["agent"],
        "ResourceType": "Agent",
    }


def _when(row: RowMapping) -> dict[str, Any]:
    second = dt.datetime.fromtimestamp(int(row["at"]), dt.UTC)
    month = second.replace(day=1, hour=0, minute=0, second=0)
    following = (month + dt.timedelta(days=32)).replace(day=1)
    corrected = row["corrected_at"]
    earlier = corrected is not None and corrected < month.timestamp()
    return {
        "ChargePeriodStart": _text(second),
        "ChargePeriodEnd": _text(second + dt.timedelta(seconds=1)),
        "BillingPeriodStart": _text(month),
        "BillingPeriodEnd": _text(following),
        "ChargeClass": "Correction" if earlier else None,
    }


def _what(row: RowMapping) -> dict[str, Any]:
    if row["tool"]:
        name, who, service = row["tool"], row["fleet"], "Tool calls"
        described = f"Call of tool {name} by agent {row['agent']}"
        subcategory = "Other (AI and Machine Learning)"
    else:
        name, who, service = row["model"], row["model"].partition(":")[0], "Model inference"
        described = f"Call of model {name} by agent {row['agent']}"
        subcategory = "Generative AI"
    if row["kind"] == "correction":
        described = f"Correction: {described[0].lower()}{described[1:]}"
    if row["estimated"]:
        described += " (estimated)"
    return {
        "ChargeDescription": described,
        "ProviderName": who,
        "PublisherName": who,
        "InvoiceIssuerName": who,
        "ServiceName": service,
        "ServiceSubcategory": subcategory,
        "SkuId": name,
        "SkuPriceId": name,
    }


def _how_much(row: RowMapping, nanos: int) -> dict[str, Any]:
    tokens = row["input_tokens"] + row["output_tokens"]
    price = dollars_text(Nanos(abs(nanos)))
    if tokens > 0:
        consumed: tuple[int | None, str | None] = (tokens, "Tokens")
    elif row["kind"] == "correction":
        consumed = (None, None)
    else:
        consumed = (1, "Requests")
    return {
        "ConsumedQuantity": consumed[0],
        "ConsumedUnit": consumed[1],
        # Prices are not negative in FOCUS; quantities may be.
        "PricingQuantity": -1 if nanos < 0 else 1,
        "PricingUnit": "Requests",
        "ListUnitPrice": price,
        "ContractedUnitPrice": price,
    }


def _ours(row: RowMapping) -> dict[str, Any]:
    return {
        "x_AgentVersion": row["agent_version"],
        "x_CachedTokens": row["cached_tokens"],
        "x_CacheWriteTokens": row["cache_write_tokens"],
        "x_CallId": row["call_id"],
        "x_ConversationId": row["conversation_id"],
        "x_Corrects": row["corrects"],
        "x_DebtCost": dollars_text(Nanos(row["debt_nanos"])),
        "x_DurationSeconds": f"{row['seconds']:.6f}",
        "x_EntryId": row["id"],
        "x_Estimated": "true" if row["estimated"] else "false",
        "x_HeldCost": dollars_text(Nanos(row["held_nanos"])),
        "x_InputTokens": row["input_tokens"],
        "x_Kind": row["kind"],
        "x_OutputTokens": row["output_tokens"],
        "x_PolicyBundle": row["policy"] or None,
        "x_PriceBook": row["price_book"] or None,
        "x_ReasoningTokens": row["reasoning_tokens"],
        "x_RunId": row["run_id"],
        "x_Status": row["status"],
        "x_Tier": row["tier"] or None,
        "x_User": row["user"],
    }


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
