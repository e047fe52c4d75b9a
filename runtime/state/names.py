"""What may be a name and what may be a value, and how values are written as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from admiralty.core.errors import InvalidRequest, TooLarge
from admiralty.core.state import Who
from admiralty.core.values import Caller, Identity
from admiralty.runtime.storage.tables import storable

MAX_NAME = 200
"""Characters of a namespace or key."""

MAX_BYTES = 1_000_000
"""Of a value, as compact JSON in UTF-8."""

MAX_DEPTH = 30
"""Levels of objects and arrays in a value."""

Slot = tuple[str, str, str]
"""Tenant, namespace, key."""

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def identity_of(who: Who) -> Identity:
    """Return on whose behalf ``who`` acts."""
    return who.identity if isinstance(who, Caller) else who


def slot_of(who: Who, namespace: str, key: str) -> Slot:
    """Return where a value of ``who``'s tenant lies. Raises InvalidRequest for names that are none."""
    return (tenant_of(who), checked_name("namespace", namespace), checked_name("key", key))


def tenant_of(who: Who) -> str:
    """Return the one tenant whose state ``who`` reaches."""
    return storable(identity_of(who).tenant)


def checked_name(what: str, name: str) -> str:
    """Return ``name`` if it may be a ``what``. Raises InvalidRequest.

    Names stand in URLs, where a slash, or a dot alone, would mean something else.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        shown = repr(name)[:80]
        raise InvalidRequest(f"{what} = {shown}: a name is 1 to {MAX_NAME} printable characters.", param=what)
    if "/" in name or name in (".", ".."):
        raise InvalidRequest(
            f"{what} = {name[:80]!r}: a name has no slash and is not . or .. alone. Write : or - instead.",
            param=what,
        )
    return name


def encode(value: Any) -> str:
    """Return a value as JSON text. Raises InvalidRequest for what is no JSON, TooLarge.

    Whole numbers stay exact. NUL and half surrogate pairs in text become U+FFFD, as everywhere.
    """
    try:
        text = _dumps(_plain(value, 0))
    except ValueError as error:  # a whole number of thousands of digits, which nobody could read back
        raise InvalidRequest(f"value: {error}.", param="value") from None
    if len(text) > MAX_BYTES or (len(text) * 4 > MAX_BYTES and len(text.encode()) > MAX_BYTES):
        raise TooLarge(f"value: larger than the limit of {MAX_BYTES} bytes.", limit=MAX_BYTES)
    return text


def decode(text: str) -> Any:
    """Return the value of a text that :func:`encode` has made."""
    return json.loads(text)


def _plain(value: Any, depth: int) -> Any:
    """Return a value of JSON's own types only."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(str(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"value: {value} is no JSON number.", param="value")
        return float(value)
    if depth >= MAX_DEPTH:
        raise InvalidRequest(f"value: nested deeper than {MAX_DEPTH} levels.", param="value")
    if isinstance(value, Mapping):
        return _plain_object(value, depth)
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    raise InvalidRequest(
        f"value: {type(value).__name__} is no JSON. Give dicts, lists, text, numbers, booleans or None; "
        "models go through a typed view.",
        param="value",
    )


def _plain_object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise InvalidRequest(f"value: the name {name!r} in an object is no text.", param="value")
        found[storable(str(name))] = _plain(item, depth + 1)
    if len(found) < len(value):
        raise InvalidRequest(
            "value: two names in an object differ only by what cannot be stored.", param="value"
        )
    return found
