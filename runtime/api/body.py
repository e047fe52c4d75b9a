"""The body of a request, read and checked before anything else looks at it.

Refuses whatever would only fail further in, where it is nobody's fault any more: PostgreSQL takes no
NUL, no database takes a lone surrogate, and a deep tree ends Python's stack.
"""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.requests import ClientDisconnect, Request

from admiralty.core.errors import InvalidRequest, TooLarge
from admiralty.runtime.api.errors import UnsupportedMediaType

MAX_DEPTH = 32
"""Levels of objects and arrays that a body may have."""


class CheckedRequest(Request):
    """A request whose body was read and parsed; FastAPI takes both from here."""

    raw: bytes = b""
    value: Any = None

    async def body(self) -> bytes:
        return self.raw

    async def json(self) -> Any:
        return self.value

    async def load(self, limit: int) -> None:
        """Read the body, at most ``limit`` bytes, and parse it as JSON; an empty one stays empty.

        Raises TooLarge, UnsupportedMediaType, InvalidRequest.
        """
        self.raw = await _read(self, limit)
        if self.raw:
            _check_headers(self)
            self.value = parse(self.raw)


async def _read(request: Request, limit: int) -> bytes:
    too_large = TooLarge(f"The body is larger than the limit of {limit} bytes.", limit=limit)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:  # a chunked body does not say its length before
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect:
        raise InvalidRequest("The client left before its request was complete.") from None
    return b"".join(chunks)


def _check_headers(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(
            f"The body is {kind[:80] or 'of no declared type'}: "
            "send JSON, with Content-Type: application/json."
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")


def parse(raw: bytes) -> Any:
    """Return the value of a JSON text that every part of the system can hold. Raises InvalidRequest."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is not.") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number that Python will not read: too many digits, or no number
        raise InvalidRequest(f"The body is not JSON that can be read: {str(error)[:200]}.") from None
    _check(value, escaped="\\u" in text)
    return value


def _check(value: Any, *, escaped: bool) -> None:
    """Raise InvalidRequest for a value too deep, or with text that no database takes.

    Only escapes can bring such text, since the body was strict UTF-8 and JSON allows no raw NUL.
    """
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            _check_text(item)
            continue
        if depth > MAX_DEPTH:
            raise _too_deep()
        children: Any = item
        if isinstance(item, dict):
            children = [*item.values(), *item] if escaped else list(item.values())
        kinds = (str, dict, list) if escaped else (dict, list)
        if isinstance(children, list):
            waiting.extend((child, depth + 1) for child in children if isinstance(child, kinds))


def _check_text(text: str) -> None:
    if "\0" in text:
        raise InvalidRequest("The body holds a NUL character (\\u0000), which cannot be stored.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("The body holds half of a surrogate pair (\\ud800 to \\udfff).") from None


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
