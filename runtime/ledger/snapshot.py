"""Writes the price snapshot that is kept in the repository, from an installed genai-prices.

``python -m admiralty.runtime.ledger.snapshot`` after ``pip install -U genai-prices``. A tool for
developers: nothing at run time imports it, and genai-prices is not needed to run.

The file has a line for each model: its id, the rule that names match it by, and its prices. A price
is dollars per million tokens as text, or a list: the base price, then [tokens, price] for inputs of
more than so many. Several prices of a model carry when they hold: from a date, or between two times
of the day (UTC); the last one that holds counts. No price (``null``): the model is known, but not sold
by text tokens, or its price is not known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import types
from genai_prices.data import providers

from admiralty.runtime.ledger.catalog import FILE

_FIELDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
    "reasoning": "output_reasoning_mtok",
}
_PICTURES = {
    "input": ("input_image_mtok", "input_video_mtok"),
    "output": ("output_image_mtok", "output_video_mtok"),
}
"""Tokens that no usage tells apart from text: where they cost more, all are charged as they are."""


def rule(clause: Any) -> Any:
    """Return a matching rule as JSON; a bare string is what the name must equal."""
    if isinstance(clause, types.ClauseEquals):
        return clause.equals.lower()
    if isinstance(clause, types.ClauseOr):
        return {"or": [rule(part) for part in clause.or_]}
    if isinstance(clause, types.ClauseAnd):
        return {"and": [rule(part) for part in clause.and_]}
    if isinstance(clause, types.ClauseRegex):
        return {"regex": clause.regex}
    for name in ("starts_with", "ends_with", "contains"):
        if (text := getattr(clause, name, None)) is not None:
            return {name: text.lower()}
    raise TypeError(
        f"genai-prices has a new kind of rule: {type(clause).__name__}. Teach catalog.py to match it."
    )


def rates(model: str, prices: types.ModelPrice) -> dict[str, Any] | None:
    """Return the prices of a model as JSON; ``None`` where input or output has none."""
    told: dict[str, Any] = {key: value for key, value in prices.__dict__.items() if value is not None}
    if not told and model.endswith(":free"):
        return {"input": "0", "output": "0"}
    if "input_mtok" not in told or "output_mtok" not in told:
        return None
    for name, pictures in _PICTURES.items():
        known = [told[key] for key in (_FIELDS[name], *pictures) if key in told]
        if len(known) > 1:
            told[_FIELDS[name]] = max(known)
    result = {name: _price(told[key]) for name, key in _FIELDS.items() if key in told}
    if "requests_kcount" in told:
        result["request"] = _text(told["requests_kcount"] / 1000)
    return result


def _price(price: Decimal | types.TieredPrices) -> Any:
    if isinstance(price, Decimal):
        return _text(price)
    return [_text(price.base), *([tier.start, _text(tier.price)] for tier in price.tiers)]


def _text(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _when(constraint: Any) -> Any:
    if constraint is None:
        return None
    if isinstance(constraint, types.StartDateConstraint):
        return constraint.start_date.isoformat()
    if isinstance(constraint, types.TimeOfDateConstraint):
        return [_utc(constraint.start_time), _utc(constraint.end_time)]
    raise TypeError(f"genai-prices has a new kind of condition: {type(constraint).__name__}.")


def _utc(moment: time) -> str:
    whole = datetime.combine(date(2000, 1, 1), moment)
    return (whole.astimezone(UTC) if whole.tzinfo else whole).time().isoformat()


def _dated(model: types.ModelInfo) -> list[list[Any]]:
    if isinstance(model.prices, types.ModelPrice):
        return [[None, rates(model.id, model.prices)]]
    return [[_when(dated.constraint), rates(model.id, dated.prices)] for dated in model.prices]


def lines() -> Iterator[str]:
    """Yield the lines of the snapshot."""
    head = {
        "source": "genai-prices",
        "version": version("genai-prices"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    yield f'{{"head":{_json(head)},"providers":['
    for number, provider in enumerate(providers):
        about = {
            "match": None if provider.provider_match is None else rule(provider.provider_match),
            "fallback": provider.fallback_model_providers or [],
        }
        yield f'{"," if number else ""}{{"id":{_json(provider.id)},"about":{_json(about)},"models":['
        models = [_json([model.id, rule(model.match), _dated(model)]) for model in provider.models]
        yield ",\n".join(models)
        yield "]}"
    yield "]}"


def _json(value: Mapping[str, Any] | list[Any] | str) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def main(path: Path = FILE) -> None:
    """Write the snapshot to ``path``."""
    path.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
