"""The ledger as files: all of it, exactly, and nothing in it that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest

from admiralty.core.values import Usage
from admiralty.runtime.ledger.export import COLUMNS, FORMATS, ExportFormat
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.ledger.values import Charge
from admiralty.runtime.ledger.viewer import OPERATOR, Viewer
from admiralty.runtime.storage import Database

from .conftest import NOON, caller, entry, put_entries, tool_entry

MANDATORY = [
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
]  # fmt: skip
"""Of FOCUS 1.2, in every dataset."""

NULLABLE = {"ChargeClass", "BillingAccountName"}


async def exported(
    database: Database, form: ExportFormat, *, viewer: Viewer = OPERATOR, page: int = 1000, **time: float
) -> str:
    written = FORMATS[form]
    pages = [rows async for rows in Reports(database).entries(viewer=viewer, page=page, **time)]
    return written.head() + "".join(written.body(rows) for rows in pages)


async def table(database: Database, form: ExportFormat, **values: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(await exported(database, form, **values), newline="")))


@pytest.mark.requirement("money.export")
async def test_every_entry_is_exported_once_whatever_the_pages(database: Database) -> None:
    # Many at the same moment, in an order of ids that is not that of their times.
    await put_entries(
        database,
        [
            entry(number, number, at=NOON + number % 3, caller=caller(tenant=f"t{number % 2}"))
            for number in range(25)
        ],
    )
    whole = [line["id"] for line in await table(database, "csv")]
    assert sorted(whole) == [f"call_{number:06d}" for number in range(25)]
    for page in (1, 2, 7, 25):
        assert [line["id"] for line in await table(database, "csv", page=page)] == whole
    part = await table(database, "csv", page=2, since=NOON + 1, until=NOON + 2)
    assert {line["at"] for line in part} == {"2026-11-22T12:00:01.000000Z"}


@pytest.mark.requirement("money.export")
async def test_a_tenant_exports_its_own_and_a_team_its_own(database: Database) -> None:
    await put_entries(
        database,
        [entry(1), entry(2, caller=caller(team="red")), entry(3, caller=caller(tenant="rival"))],
    )
    for viewer, ids in (
        (OPERATOR, [1, 2, 3]),
        (Viewer(tenant="acme"), [1, 2]),
        (Viewer(tenant="acme", team="red"), [2]),
    ):
        found = await table(database, "csv", viewer=viewer, page=1)
        assert [line["id"] for line in found] == [f"call_{number:06d}" for number in ids]


@pytest.mark.requirement("money.export")
async def test_a_json_line_says_everything_with_exact_amounts(database: Database) -> None:
    charges = [Charge("budget_1", "", "2026-11")]
    await put_entries(
        database,
        [entry(1, 2**60 + 1, charges=charges, estimated=True), entry(2, None, error="x\ny", status="error")],
    )
    first, second = (json.loads(line) for line in (await exported(database, "jsonl")).splitlines())
    assert set(first) == {*COLUMNS, "charges"}
    assert first["cost_usd"] == "1152921504.606846977"
    assert (first["estimated"], first["tags"], first["input_tokens"]) == (True, {"project": "alpha"}, 100)
    assert first["charges"] == [["budget_1", "", "2026-11"]]
    assert (second["cost_usd"], second["error"]) == (None, "x\ny")


@pytest.mark.requirement("money.export_formulas")
@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")']
)
@pytest.mark.parametrize("form", ["csv", "focus"])
async def test_text_that_looks_like_a_formula_is_marked_as_text(
    sqlite_url: str, text: str, form: ExportFormat
) -> None:
    database = Database(sqlite_url)
    try:
        tagged = {"k": text}
        await put_entries(
            database,
            [entry(1, -5, caller=caller(tenant=text, team=text, user=text, tags=tagged), error=text)],
        )
        (line,) = await table(database, form)
        cells = [cell for cell in line.values() if cell.endswith(text)]
        assert cells
        assert set(cells) == {f"'{text}"}
        assert line["cost_usd" if form == "csv" else "BilledCost"] == "-0.000000005"
        assert text in json.loads(line["tags" if form == "csv" else "Tags"])["k"]
    finally:
        await database.close()


@pytest.mark.requirement("money.focus")
async def test_focus_has_every_mandatory_column_filled_and_its_arithmetic_is_exact(
    database: Database,
) -> None:
    await put_entries(
        database,
        [
            entry(1, 123_456_789_012_345_678),
            tool_entry(2, 500),
            entry(3, 7, usage=Usage(), estimated=True, status="expired"),
            entry(4, -3, kind="correction", corrects="call_000003", usage=Usage()),
            entry(5, 0, usage=Usage(), status="error"),  # no charge
        ],
    )
    lines = await table(database, "focus")
    assert len(lines) == 4
    for line in lines:
        assert set(MANDATORY) <= set(line)
        assert not [name for name in MANDATORY if name not in NULLABLE and not line[name]]
        assert all(name.isalnum() or name.startswith("x_") for name in line)
        cost = Decimal(line["BilledCost"])
        assert cost == Decimal(line["EffectiveCost"]) == Decimal(line["ContractedCost"])
        assert Decimal(line["ListUnitPrice"]) * Decimal(line["PricingQuantity"]) == Decimal(line["ListCost"])
        assert Decimal(line["ListUnitPrice"]) >= 0
        assert "E" not in line["BilledCost"].upper()
        assert line["BillingCurrency"] == "USD"
        assert line["ServiceCategory"] == "AI and Machine Learning"
        assert (line["ChargeCategory"], line["ChargeFrequency"]) == ("Usage", "Usage-Based")
        assert json.loads(line["Tags"]) == {"project": "alpha"}
        assert (line["SubAccountId"] == "") == (line["SubAccountType"] == "")
    model, tool, expired, correction = lines
    assert model["BilledCost"] == "123456789.012345678"
    assert (model["ConsumedQuantity"], model["ConsumedUnit"]) == ("120", "Tokens")
    assert (model["ProviderName"], model["SkuId"]) == ("openai", "openai:gpt-5.4-nano")
    assert (tool["ConsumedQuantity"], tool["ConsumedUnit"], tool["SkuId"]) == ("1", "Requests", "lookup")
    assert expired["x_Estimated"] == "true"
    assert (correction["PricingQuantity"], correction["ChargeClass"]) == ("-1", "")


@pytest.mark.requirement("money.focus")
async def test_focus_says_which_month_is_billed_and_marks_corrections_of_earlier_ones(
    database: Database,
) -> None:
    december = NOON + 9 * 86400
    await put_entries(
        database,
        [
            entry(1, 10, at=NOON + 0.9),
            entry(2, 5, kind="correction", corrects="call_000001", at=december),
            entry(3, 5, kind="correction", corrects="call_000002", at=december + 1),
        ],
    )
    first, late, soon = await table(database, "focus")
    assert (first["ChargePeriodStart"], first["ChargePeriodEnd"]) == (
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:00:01Z",
    )
    assert (first["BillingPeriodStart"], first["BillingPeriodEnd"]) == (
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    assert [line["ChargeClass"] for line in (first, late, soon)] == ["", "Correction", ""]
    assert late["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
