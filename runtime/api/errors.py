"""What goes wrong, as clients see it: RFC 9457 problem documents, and OpenAI's shape on OpenAI's routes.

Every response of an error status is made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from admiralty.core.errors import AdmiraltyError, InvalidRequest, NotFound
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.problems import TYPE, problem

OPENAI_PATHS = ("/v1/chat/completions", "/v1/models")
"""Routes that speak OpenAI's language, in errors too."""

_OPENAI_TYPES = {402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}

_GENERAL = frozenset({"type", "title", "status", "detail", "code", "run_id", "cost_usd", "unpriced_calls"})
"""Members of a problem document that say nothing of a budget."""

CHALLENGE = 'Bearer realm="admiralty"'


class ModelNotFound(NotFound):
    """The request names a model that this fleet is not."""

    code = "model_not_found"


class UnsupportedMediaType(InvalidRequest):
    """The body is not JSON by its own account."""

    status = 415
    code = "unsupported_media_type"


def invalid(message: str, param: str | None = None, **details: Any) -> InvalidRequest:
    """Return the error of a request whose part ``param`` is wrong."""
    return InvalidRequest(message, **({} if param is None else {"param": param}), **details)


def problem_response(
    document: Mapping[str, Any], scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem document as a response, in the shape that the route's clients understand."""
    status = int(document["status"])
    given = dict(headers or {})
    if status == 401:
        given["WWW-Authenticate"] = CHALLENGE
    if (seconds := document.get("retry_after")) is not None:
        given["Retry-After"] = str(math.ceil(seconds))
    if speaks_openai(scope):
        return json_response({"error": openai_error(document)}, status=status, headers=given)
    return json_response(document, status=status, headers=given, media_type="application/problem+json")


def speaks_openai(scope: Scope) -> bool:
    """Tell whether the request is for one of OpenAI's routes."""
    path = _route_path(scope)
    return path in OPENAI_PATHS or path.startswith("/v1/models/")


def _route_path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def openai_error(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem document as the ``error`` object of OpenAI's API."""
    status = document["status"]
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {
        "message": document["detail"],
        "type": kind,
        "param": document.get("param"),
        "code": "invalid_api_key" if status == 401 else document["code"],
    }
    if status == 402:  # which budget, and what it would take: no client can act without it
        error["details"] = {name: value for name, value in document.items() if name not in _GENERAL}
    return error


def add_error_handlers(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make every error of the app a problem document; ``routes`` tell which methods there are."""

    async def ours(request: Request, error: Exception) -> Response:
        return problem_response(problem(error), request.scope)

    async def http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request, routes))
        return problem_response(_http_problem(request, error), request.scope, headers)

    async def validation(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        return problem_response(problem(_invalid(error)), request.scope)

    app.add_exception_handler(AdmiraltyError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(Exception, ours)


def _methods(request: Request, routes: Sequence[BaseRoute]) -> list[str]:
    """Return the methods of a path: the framework names only those of the first route that fits."""
    path = _route_path(request.scope)
    fitting = [route for route in routes if isinstance(route, Route) and route.path_regex.match(path)]
    return sorted({method for route in fitting for method in route.methods or ()})


def _http_problem(request: Request, error: HTTPException) -> dict[str, Any]:
    """Return the problem of an error that the framework found: no such route, no such method."""
    title = HTTPStatus(error.status_code).phrase
    code = title.lower().replace(" ", "_").replace("-", "_")
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path[:200]}. See /docs for what there is."
    elif error.status_code == 405:
        detail = f"{request.method[:20]} is not possible here: see the Allow header."
    return {
        "type": f"{TYPE}{code}",
        "title": title,
        "status": error.status_code,
        "detail": detail,
        "code": code,
    }


def _invalid(error: RequestValidationError) -> InvalidRequest:
    """Return our error for what pydantic found: its first finding as the message, all in ``errors``."""
    found = [{"param": _path(item["loc"]), "message": str(item["msg"])} for item in error.errors()[:20]]
    first = found[0]
    where = f"{first['param']}: " if first["param"] else "The body: "
    return invalid(f"{where}{first['message']}.", first["param"] or None, errors=found)


def _path(location: tuple[Any, ...]) -> str:
    """Return pydantic's location as people write it: ``messages[0].content``."""
    path = ""
    for part in location[1:] if location[:1] in (("body",), ("query",), ("path",), ("header",)) else location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{str(part)[:100]}" if path else str(part)[:100]
    return path
