"""The ledger as files: CSV, JSON lines and FOCUS. Pure: writes the pages that it is given.

Amounts are exact decimal dollars, never floats. Text that a spreadsheet would take for a formula is
marked as text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import RowMapping

from admiralty.core.money import Nanos, dollars_text
from admiralty.runtime.ledger.focus import FOCUS_COLUMNS, focus_cells, is_charge
from admiralty.runtime.ledger.periods import iso
from admiralty.runtime.ledger.rows import TOKENS

ExportFormat = Literal["csv", "jsonl", "focus"]

COLUMNS = (
    "id", "at", "kind", "corrects", "status", "tenant", "team", "user", "fleet", "agent", "agent_version",
    "conversation_id", "run_id", "call_id", "model", "tier", "tool", *TOKENS, "cost_usd", "held_usd",
    "debt_usd", "estimated", "seconds", "price_book", "policy", "tags", "error",
)  # fmt: skip
"""Of CSV; a JSON line has ``charges`` besides."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """How entries are written in one of the formats."""

    media_type: str
    suffix: str
    """Of a file's name."""
    head: Callable[[], str]
    body: Callable[[Sequence[RowMapping]], str]


def entry_values(row: RowMapping) -> dict[str, Any]:
    """Return an entry as JSON shows it."""
    values = {name: row[name] for name in COLUMNS if name in row}
    return values | {
        "at": iso(row["at"]),
        "cost_usd": _dollars(row["cost_nanos"]),
        "held_usd": _dollars(row["held_nanos"]),
        "debt_usd": _dollars(row["debt_nanos"]),
        "estimated": bool(row["estimated"]),
        "tags": dict(row["tags"]),
        "charges": [list(charge) for charge in row["charges"]],
    }


def safe_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _csv_cells(row: RowMapping) -> list[Any]:
    values = entry_values(row)
    values["estimated"] = "true" if values["estimated"] else "false"
    values["tags"] = compact(values["tags"])
    # Amounts are ours and may be negative: they stay numbers.
    return [values[name] if name.endswith("_usd") else safe_cell(values[name]) for name in COLUMNS]


def _focus_cells(row: RowMapping) -> list[Any]:
    cells = focus_cells(row)
    return [
        cells[name] if kind == "number" else safe_cell(cells[name]) for name, kind in FOCUS_COLUMNS.items()
    ]


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def compact(value: Mapping[str, Any]) -> str:
    """Return a mapping as JSON on one line, its keys in order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _json_lines(rows: Sequence[RowMapping]) -> str:
    return "".join(
        json.dumps(entry_values(row), ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows
    )


def _dollars(nanos: int | None) -> str | None:
    return None if nanos is None else dollars_text(Nanos(nanos))


FORMATS: Mapping[ExportFormat, Written] = {
    "csv": Written(
        media_type="text/csv; charset=utf-8",
        suffix="csv",
        head=lambda: _csv([COLUMNS]),
        body=lambda rows: _csv(_csv_cells(row) for row in rows),
    ),
    "jsonl": Written(
        media_type="application/jsonl; charset=utf-8", suffix="jsonl", head=lambda: "", body=_json_lines
    ),
    "focus": Written(
        media_type="text/csv; charset=utf-8",
        suffix="focus.csv",
        head=lambda: _csv([list(FOCUS_COLUMNS)]),
        body=lambda rows: _csv(_focus_cells(row) for row in rows if is_charge(row)),
    ),
}
