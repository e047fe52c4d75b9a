"""``/v1/approvals``: tool calls that wait for a person. Admin keys of their tenant decide, others look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ValidationError
from starlette.responses import Response

from admiralty.agents import Fleet
from admiralty.core.errors import NotFound
from admiralty.runtime.api.approval_schema import ApprovalInfo, ApprovalList, NewDecision
from admiralty.runtime.api.auth import require_admin
from admiralty.runtime.api.catalog import plausible_id
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import invalid
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.approvals import Approval, ApprovalStatus, ApprovalStore, Decider
from admiralty.runtime.approvals.describe import approval_json
from admiralty.runtime.conversations import Conversations
from admiralty.tools import Tool
from admiralty.tools.executor import explain

TAGS: list[Any] = ["approvals"]


def add_approval_routes(router: APIRouter, approvals: ApprovalStore, conversations: Conversations) -> None:
    """Add ``/v1/approvals`` and what is below it."""

    @router.get("/v1/approvals", tags=TAGS, summary="List approvals", response_model=ApprovalList)
    async def list_approvals(
        identity: Me,
        status: Annotated[ApprovalStatus | None, Query(description="`pending`: what waits.")] = None,
        conversation_id: Annotated[str | None, Query(max_length=40)] = None,
        agent: Annotated[str | None, Query(max_length=48)] = None,
        tool: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
        after: Annotated[str | None, Query(description="Those behind the approval with this id.")] = None,
    ) -> Response:
        """Return your tenant's approvals, newest first. Arguments are shown to admin keys only."""
        for name, given in (("after", after), ("conversation_id", conversation_id)):
            if given is not None and not plausible_id(given):
                raise invalid(f"{name}: {given[:50]!r} is no id.", name)
        viewer = Decider.of(identity)
        found = await approvals.find(
            viewer=viewer,
            status=status,
            conversation=conversation_id,
            agent=agent,
            tool=tool,
            after=after,
            limit=limit + 1,
        )
        return json_response(
            {
                "object": "list",
                "data": [approval_json(one, secrets=identity.admin) for one in found[:limit]],
                "has_more": len(found) > limit,
                "counts": await approvals.counts(viewer=viewer),
            }
        )

    @router.get(
        "/v1/approvals/{approval_id}", tags=TAGS, summary="Show an approval", response_model=ApprovalInfo
    )
    async def show_approval(approval_id: str, identity: Me) -> Response:
        """Return who wants to do what and why, and what was decided. Arguments to admin keys only."""
        found = await approvals.get(_checked(approval_id), viewer=Decider.of(identity))
        return json_response(approval_json(found, secrets=identity.admin))

    @router.post(
        "/v1/approvals/{approval_id}/decide",
        tags=TAGS,
        summary="Approve or reject a call",
        response_model=ApprovalInfo,
    )
    async def decide(approval_id: str, identity: Me, body: NewDecision) -> Response:
        """Approve a call, as it is or with other arguments, or reject it. Needs an admin's key.

        Its run goes on at once, in whatever process is free. What was decided stays: another decision is a
        conflict (409), the same one by the same key is not.
        """
        require_admin(identity)
        by = Decider.of(identity)
        if body.arguments is not None:
            _check_arguments(
                await approvals.get(_checked(approval_id), viewer=by), body.arguments, conversations.fleet
            )
        decided = await approvals.decide(
            _checked(approval_id), body.verdict, arguments=body.arguments, reason=body.reason, by=by
        )
        conversations.wake()
        return json_response(approval_json(decided))


def _checked(approval_id: str) -> str:
    if not plausible_id(approval_id):
        raise NotFound(f"There is no approval {approval_id[:50]!r}.")
    return approval_id


def _check_arguments(approval: Approval, arguments: Mapping[str, Any], fleet: Fleet) -> None:
    """Raise InvalidRequest for arguments that the tool does not take, where this fleet knows the tool."""
    if approval.fleet != fleet.name:
        return
    for agent in fleet.agents:
        for tool in agent.tools:
            if isinstance(tool, Tool) and (agent.name, tool.name) == (approval.agent, approval.tool):
                try:
                    tool.arguments.model_validate(dict(arguments))
                except ValidationError as error:
                    raise invalid(
                        f"arguments: {tool.name} does not take them: {explain(error)}. Give all of them; "
                        "GET /v1/agents shows their schema.",
                        "arguments",
                    ) from None
