"""``/v1/policies`` and ``/v1/decisions``: what governs a tenant, and what was decided about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from admiralty.core.values import Action
from admiralty.runtime.api.auth import require_admin
from admiralty.runtime.api.catalog import plausible_id
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import invalid
from admiralty.runtime.api.wire import Shown, json_response
from admiralty.runtime.policy import CedarPolicy, DecisionLog
from admiralty.runtime.policy.describe import bundle_json, decision_json

TAGS: list[Any] = ["governance"]


class PolicyFile(Shown):
    """A file of the bundle."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    layer: Annotated[Literal["default", "fleet", "operator"], Field(alias="from")]
    """Who brings it: Admiralty, the fleet, or the operator."""
    replaces: Literal["default", "fleet", "operator"] | None
    """Whose file of the same name it stands for."""
    sha256: str


class PolicyRule(Shown):
    """A policy."""

    id: str
    effect: Literal["permit", "forbid"]
    file: str
    line: int
    message: str
    """What those are told whom it refuses something."""
    approval: str
    """Why a person is asked whether it may be done all the same; empty where nobody is."""


class PolicyInfo(Shown):
    """The policies that are in effect."""

    bundle: str
    """12 digits of the hash over the files; it stands in each decision and each entry of the ledger."""
    mode: Literal["enforce", "log"]
    """``log``: denials are recorded, but the calls go through."""
    files: list[PolicyFile]
    policies: list[PolicyRule]


class DecisionInfo(Shown):
    """A recorded decision."""

    id: str
    at: float
    """Seconds since the epoch."""
    action: str
    principal: str
    resource: str
    decision: Literal["allow", "deny"]
    enforced: bool
    """Whether a denial refused the call."""
    reasons: list[str]
    """The policies that decided; empty where none permitted it."""
    errors: list[str]
    bundle: str
    call_id: str
    team: str | None
    user: str | None
    conversation_id: str
    run_id: str


class DecisionList(Shown):
    """Decisions, newest first."""

    object: Literal["list"] = "list"
    data: list[DecisionInfo]
    next: str | None
    """Pass it as ``after`` for those behind; ``null`` at the end."""


def add_policy_routes(router: APIRouter, policy: CedarPolicy, log: DecisionLog) -> None:
    """Add ``/v1/policies`` and ``/v1/decisions``."""

    @router.get("/v1/policies", tags=TAGS, summary="Show the policies in effect", response_model=PolicyInfo)
    async def show_policies() -> Response:
        """Return the bundle that this process decides by. A changed bundle takes effect at the next start."""
        return json_response(bundle_json(policy.bundle, policy.mode))

    @router.get("/v1/decisions", tags=TAGS, summary="List decisions", response_model=DecisionList)
    async def list_decisions(
        identity: Me,
        limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100,
        after: Annotated[
            str | None, Query(max_length=48, description="The `next` of the page before.")
        ] = None,
        since: Annotated[float | None, Query(ge=0, description="From this moment on, Unix seconds.")] = None,
        until: Annotated[float | None, Query(ge=0, description="Before this moment, Unix seconds.")] = None,
        decision: Annotated[Literal["allow", "deny"] | None, Query()] = None,
        action: Annotated[Action | None, Query()] = None,
        conversation_id: Annotated[str | None, Query(max_length=40)] = None,
    ) -> Response:
        """Return your tenant's decisions, newest first. Needs an admin key."""
        require_admin(identity)
        for name, given in (("after", after), ("conversation_id", conversation_id)):
            if given is not None and not plausible_id(given):
                raise invalid(f"{name}: {given[:50]!r} is no id.", name)
        found = await log.find(
            tenant=identity.tenant,
            since=since,
            until=until,
            decision=decision,
            action=action,
            conversation=conversation_id,
            after=after,
            limit=limit + 1,
        )
        page = found[:limit]
        following = page[-1].id if len(found) > limit else None
        return json_response(
            {"object": "list", "data": [decision_json(item) for item in page], "next": following}
        )
