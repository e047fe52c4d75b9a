"""``/v1/conversations/{id}/runs``: the runs of a conversation, stopped, retried, and cleared up by hand."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from admiralty.core.errors import InvalidRequest
from admiralty.core.values import Identity
from admiralty.runtime.api.auth import require_admin
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import invalid
from admiralty.runtime.api.parts import ApiParts
from admiralty.runtime.api.pauses import run_path
from admiralty.runtime.api.run_schema import (
    EffectInfo,
    EffectList,
    EffectResolution,
    RetriedRun,
    RunDetail,
    RunList,
)
from admiralty.runtime.api.streams import checked_conversation, checked_run
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.approvals import Decider
from admiralty.runtime.durable.describe import run_json
from admiralty.runtime.durable.values import OPEN, Run
from admiralty.runtime.effects.describe import effect_json

TAGS: list[Any] = ["conversations"]

MAX_RESULT = 100_000
"""Characters of what a person may say that a tool call has returned."""


def add_run_routes(router: APIRouter, parts: ApiParts) -> None:
    """Add the runs of conversations and what is below them."""
    conversations, effects = parts.conversations, parts.effects

    async def found(identity: Identity, conversation_id: str, run_id: str) -> Run:
        named = checked_conversation(conversation_id), checked_run(run_id)
        return await conversations.runs.get(identity, *named)

    @router.get(
        "/v1/conversations/{conversation_id}/runs", tags=TAGS, summary="List runs", response_model=RunList
    )
    async def list_runs(conversation_id: str, identity: Me) -> Response:
        """Return a conversation's runs, one for each turn."""
        runs = await conversations.runs.of_conversation(identity, checked_conversation(conversation_id))
        return json_response({"object": "list", "data": [run_json(run) for run in runs]})

    @router.get(
        "/v1/conversations/{conversation_id}/runs/{run_id}",
        tags=TAGS,
        summary="Show a run",
        response_model=RunDetail,
    )
    async def show_run(conversation_id: str, run_id: str, identity: Me) -> Response:
        """Return how a run stands, and why earlier executions of it broke off."""
        return json_response(run_json(await found(identity, conversation_id, run_id)))

    @router.post(
        "/v1/conversations/{conversation_id}/runs/{run_id}/cancel",
        tags=TAGS,
        summary="Stop a run",
        response_model=RunDetail,
        responses={202: {"model": RunDetail, "description": "It is being stopped, wherever it is executed."}},
    )
    async def cancel_run(conversation_id: str, run_id: str, identity: Me) -> Response:
        """Have a run end as soon as possible, wherever it is executed. One that has ended stays as it is.

        What its tools have done is not undone.
        """
        await found(identity, conversation_id, run_id)
        run = await conversations.cancel(identity, conversation_id, run_id)
        return json_response(run_json(run), status=202 if run.status in OPEN else 200)

    @router.post(
        "/v1/conversations/{conversation_id}/runs/{run_id}/retry",
        tags=TAGS,
        status_code=202,
        summary="Execute a run again",
        response_model=RetriedRun,
    )
    async def retry_run(conversation_id: str, run_id: str, identity: Me) -> Response:
        """Queue a run again that failed, was cancelled or is parked. What it had done is not done again.

        Only a conversation's last turn can be retried (409).
        """
        await found(identity, conversation_id, run_id)
        live = await conversations.retry(identity, conversation_id, run_id)
        path = run_path(live.run)
        shown = run_json(live.run) | {"events": f"{path}/events?after={live.after}"}
        return json_response(shown, status=202, headers={"Location": path, "X-Run-Id": live.run.id})

    @router.get(
        "/v1/conversations/{conversation_id}/runs/{run_id}/effects",
        tags=TAGS,
        summary="List a run's tool calls",
        response_model=EffectList,
    )
    async def list_effects(conversation_id: str, run_id: str, identity: Me) -> Response:
        """Return what a run's tools did: those that only read are added when it ends."""
        run = await found(identity, conversation_id, run_id)
        rows = await effects.of_run(run.id, tenant=identity.tenant)
        return json_response({"object": "list", "data": [effect_json(row) for row in rows]})

    @router.post(
        "/v1/conversations/{conversation_id}/runs/{run_id}/effects/{call_id}/resolve",
        tags=TAGS,
        summary="Say what came of a tool call",
        response_model=EffectInfo,
    )
    async def resolve_effect(
        conversation_id: str, run_id: str, call_id: str, identity: Me, body: EffectResolution
    ) -> Response:
        """Say whether a call was carried out of which nobody knows; then retry its run. Needs an admin's key.

        Look first into the system that the tool writes to: what is said here is believed.
        """
        require_admin(identity)
        run = await found(identity, conversation_id, run_id)
        if len(body.result or "") > MAX_RESULT:
            raise invalid(f"result: at most {MAX_RESULT} characters.", "result")
        _check_id(call_id)
        row = await effects.resolve(
            run.id,
            call_id,
            done=body.done,
            result=body.result,
            by=Decider.of(identity).name,
            tenant=identity.tenant,
            digest=body.digest,
        )
        return json_response(effect_json(row))


def _check_id(call_id: str) -> None:
    """Raise InvalidRequest for what no database can look for; models' own ids may be anything else."""
    if "\0" in call_id or len(call_id) > 1000:
        raise InvalidRequest("The call's id is none: see the run's effects.")
