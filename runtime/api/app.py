"""Builds the HTTP application out of its parts: one app for each process, nothing at import."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request

from admiralty.runtime.api.approval_routes import add_approval_routes
from admiralty.runtime.api.auth import Authenticator
from admiralty.runtime.api.budget_routes import add_budget_routes
from admiralty.runtime.api.catalog import Catalog, add_catalog_routes
from admiralty.runtime.api.chat_routes import add_chat_routes
from admiralty.runtime.api.conversation_routes import add_conversation_routes
from admiralty.runtime.api.door import secured_router
from admiralty.runtime.api.errors import add_error_handlers
from admiralty.runtime.api.event_routes import add_event_routes
from admiralty.runtime.api.ledger_routes import add_ledger_routes
from admiralty.runtime.api.listeners import Listeners
from admiralty.runtime.api.metrics import HttpMetrics, Measured
from admiralty.runtime.api.operations import add_health_routes, add_metrics_route
from admiralty.runtime.api.parts import ApiParts
from admiralty.runtime.api.policy_routes import add_policy_routes
from admiralty.runtime.api.run_routes import add_run_routes
from admiralty.runtime.api.state_routes import add_state_routes
from admiralty.runtime.api.turns import begins_turn

_DESCRIPTION = """
Talk to a fleet of agents. Every model call and tool call behind these doors passes one scheduler.

- **OpenAI's way**: point any OpenAI client at `/v1`; the model is the fleet's name, or `fleet/agent`.
- **The native way**: conversations, with every step, tool call and cent as typed server-sent events.

All routes but `/healthz` and `/readyz` need an API key: `Authorization: Bearer adm_...`. The key decides
the tenant; name your end user with `user` or the header `X-End-User`. Errors are RFC 9457 problem
documents, and in OpenAI's shape on OpenAI's routes.
"""

_TAGS = [
    {"name": "OpenAI-compatible", "description": "For OpenAI's clients and whatever speaks their language."},
    {"name": "conversations", "description": "Conversations, turns and what happened in them."},
    {"name": "state", "description": "What agents know together: values with versions."},
    {"name": "fleet", "description": "Who answers."},
    {"name": "money", "description": "What may be spent, and what was."},
    {"name": "approvals", "description": "What waits for a person, and what they decide."},
    {"name": "governance", "description": "What is permitted, what was decided."},
    {"name": "operations", "description": "For whoever runs it."},
]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, text in (("4XX", "What is wrong with the request."), ("5XX", "What failed; see Retry-After."))
}


def create_app(parts: ApiParts) -> FastAPI:
    """Return the application. It holds its parts, but does not close them."""
    http = HttpMetrics(parts.process, parts.version)
    app = FastAPI(
        title="Admiralty",
        version=parts.version,
        summary=f"The fleet {parts.conversations.fleet.name}",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        redirect_slashes=False,
        middleware=[Middleware(Measured, metrics=http)],
    )
    authenticator = Authenticator(parts.keys.find, parts.clock)
    catalog = Catalog(parts.conversations.fleet, created=int(parts.clock.now()))

    def admit(request: Request) -> None:
        if request.method == "POST" and begins_turn(request.url.path):
            parts.conversations.check_room()

    secured = secured_router(
        authenticator.identify, parts.settings.max_message_bytes, admit=admit, responses=_PROBLEMS
    )
    listeners = Listeners(parts.settings.max_listeners)
    add_chat_routes(secured, parts, catalog, listeners)
    add_conversation_routes(secured, parts, listeners)
    add_event_routes(secured, parts, listeners)
    add_run_routes(secured, parts)
    add_catalog_routes(secured, catalog)
    add_budget_routes(secured, parts.budgets)
    add_ledger_routes(secured, parts.reports, parts.clock)
    if parts.approvals is not None:
        add_approval_routes(secured, parts.approvals, parts.conversations)
    if parts.state is not None:
        add_state_routes(secured, parts.state, parts.keep_alive, listeners)
    add_metrics_route(secured, parts, http)
    if parts.policy is not None and parts.decisions is not None:
        add_policy_routes(secured, parts.policy, parts.decisions)
    app.include_router(secured)

    opened = APIRouter(responses={"5XX": _PROBLEMS["5XX"]})
    add_health_routes(opened, parts)
    app.include_router(opened)
    add_error_handlers(app, [*secured.routes, *opened.routes])
    return app
