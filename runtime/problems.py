"""Errors as RFC 9457 problem documents: what a client may know, and no more."""

from __future__ import annotations

from typing import Any

from admiralty.core.errors import AdmiraltyError, Retryable

TYPE = "urn:admiralty:problem:"


def problem(error: Exception, *, code: str | None = None, status: int | None = None) -> dict[str, Any]:
    """Return the problem document of an error; one that is not ours tells nothing of its inside."""
    if not isinstance(error, AdmiraltyError):
        error = AdmiraltyError("Something went wrong inside; the operator's log has the details.")
    name = code or error.code
    document: dict[str, Any] = {
        "type": f"{TYPE}{name}",
        "title": name.replace("_", " ").capitalize(),
        "status": status or error.status,
        "detail": error.message,
        "code": name,
    }
    if isinstance(error, Retryable) and error.retry_after is not None:
        document["retry_after"] = error.retry_after
    return document | {key: value for key, value in error.details.items() if key not in document}
