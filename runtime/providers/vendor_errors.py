"""Vendors' errors as ours: what can be done about them, what they may have cost, how long to wait. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from admiralty.core.errors import AdmiraltyError, ProviderRejected, ProviderUnavailable, RateLimited
from admiralty.runtime.providers.rate_headers import rate_limits, retry_after

NOT_SENT = frozenset(
    {
        "ConnectError",  # httpx
        "ConnectTimeout",
        "PoolTimeout",
        "UnsupportedProtocol",
        "ClientConnectorError",  # aiohttp
        "ConnectionTimeoutError",
        "ConnectionRefusedError",  # the standard library
        "gaierror",
        "EndpointConnectionError",  # botocore
        "ConnectTimeoutError",
        "NewConnectionError",  # urllib3
    }
)
"""Names of errors after which the request cannot have reached the provider."""


def translate(error: Exception, model: str, now: float, *, begun: bool = False) -> AdmiraltyError:
    """Return one of our errors for a vendor's, judged by HTTP status where it has one.

    ``begun`` says whether a part of the answer had come. ``details``: ``billed`` is ``"unknown"`` where
    the provider may charge for the call all the same; ``rate_limits``, where headers told it, is what
    ``rate_headers.rate_limits`` returns. ``now`` is seconds since the epoch.
    """
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    text = f"{model}: {type(error).__name__}: {error}"
    # An error that comes inside of an answer can carry the status of the answer: 200.
    refused = isinstance(status, int) and status >= 400 and not begun
    details: dict[str, Any] = {} if refused or _not_sent(error) else {"billed": "unknown"}
    if limits := rate_limits(headers, now):
        details["rate_limits"] = limits
    if status == 429:
        return RateLimited(text, retry_after=retry_after(headers, now), **details)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 409):
        return ProviderRejected(text, provider_status=status, **details)
    if isinstance(status, int):
        return ProviderUnavailable(text, retry_after=retry_after(headers, now), **details)
    if any("Timeout" in kind.__name__ for kind in type(error).__mro__):
        return ProviderUnavailable(f"{model} did not answer in time: {error}", **details)
    if isinstance(error, httpx.TransportError) or "Connection" in type(error).__name__:
        return ProviderUnavailable(f"{model} cannot be reached: {error} Is its server running?", **details)
    # Whatever else the client trips over is an answer that is none.
    return ProviderUnavailable(text, **details)


def _not_sent(error: BaseException) -> bool:
    return any(kind.__name__ in NOT_SENT for cause in _causes(error) for kind in type(cause).__mro__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):  # a chain can be a ring
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
