"""JSON as it goes out: compact, UTF-8, and never a reason for a 500.

What models and tools say is not ours to choose: a lone surrogate or a NaN in it must not break the
answer that carries it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from admiralty.runtime.storage.tables import storable


class Shown(BaseModel):
    """Base of what goes out; the docstrings under its fields become the API's documentation."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Given(BaseModel):
    """Base of what comes in. Strict: a number in quotes is no number."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str).encode


def dump(value: Any) -> bytes:
    """Return ``value`` as JSON; what JSON cannot hold becomes ``null`` or U+FFFD."""
    try:
        text = _encode(value)
    except ValueError:
        text = _encode(_finite(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return storable(text).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def json_response(
    content: BaseModel | Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """Return a response with a JSON body."""
    value = content.model_dump() if isinstance(content, BaseModel) else content
    return Response(dump(value), status_code=status, headers=headers, media_type=media_type)
