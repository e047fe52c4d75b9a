"""The door that every request passes, before its route's own code: first the key, then the body.

A route class, because FastAPI reads bodies before it solves dependencies: a stranger would be told
what is wrong with his JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from admiralty.core.values import Identity
from admiralty.runtime.api.body import CheckedRequest

_IDENTITY = "admiralty.identity"

# These only write the security schemes into the OpenAPI document; the route class checks the keys.
_bearer = HTTPBearer(
    auto_error=False, scheme_name="bearer", description="An API key: `Authorization: Bearer adm_...`"
)
_header = APIKeyHeader(
    name="x-api-key",
    auto_error=False,
    scheme_name="api-key",
    description="The same key, in a header of its own.",
)

Identify = Callable[[Request], Awaitable[Identity]]


def secured_router(
    identify: Identify,
    max_body_bytes: int,
    *,
    admit: Callable[[Request], None] = lambda _: None,
    **options: Any,
) -> APIRouter:
    """Return a router whose routes let nobody in without a key, and no body that is not proper JSON.

    ``admit`` raises for a request that there is no room for, before its body is read.
    """

    class SecuredRoute(APIRoute):
        """Checks key and body, then goes on as FastAPI does."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def secured(request: Request) -> Response:
                request.scope[_IDENTITY] = await identify(request)
                admit(request)
                checked = CheckedRequest(request.scope, request.receive)
                if request.method in ("POST", "PUT", "PATCH"):
                    await checked.load(max_body_bytes)
                return await handle(checked)

            return secured

    return APIRouter(route_class=SecuredRoute, dependencies=[Security(_bearer), Security(_header)], **options)


async def _identity(request: Request) -> Identity:
    identity: Identity = request.scope[_IDENTITY]
    return identity


Me = Annotated[Identity, Depends(_identity)]
"""Parameter of a secured route: on whose behalf it is called."""
