"""``/v1/budgets``: what may be spent. Admin keys govern their tenant's; others look."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from admiralty.core.errors import NotFound
from admiralty.core.values import Identity
from admiralty.runtime.api.auth import require_admin
from admiralty.runtime.api.budget_schema import BudgetChange, BudgetInfo, BudgetList, NewBudget
from admiralty.runtime.api.catalog import plausible_id
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import invalid
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.describe import budget_json
from admiralty.runtime.ledger.viewer import Viewer

TAGS: list[Any] = ["money"]


def add_budget_routes(router: APIRouter, budgets: Budgets) -> None:
    """Add ``/v1/budgets`` and what is below it."""

    async def shown(identity: Identity, budget_id: str) -> dict[str, Any]:
        state = await budgets.state(budget_id, viewer=Viewer.of(identity))
        return budget_json(state, secrets=identity.admin)

    @router.post(
        "/v1/budgets", tags=TAGS, status_code=201, summary="Make a budget", response_model=BudgetInfo
    )
    async def create_budget(identity: Me, body: NewBudget) -> Response:
        """Limit what a scope of your tenant may spend. Needs an admin's key. Counts from now on."""
        require_admin(identity)
        made = await budgets.create(**body.model_dump(), viewer=Viewer.of(identity))
        headers = {"Location": f"/v1/budgets/{made.id}"}
        return json_response(await shown(identity, made.id), status=201, headers=headers)

    @router.get("/v1/budgets", tags=TAGS, summary="List budgets", response_model=BudgetList)
    async def list_budgets(
        identity: Me,
        scope: Annotated[str | None, Query(max_length=500, description="Only those of this scope.")] = None,
        archived: Annotated[bool, Query(description="Archived ones too.")] = False,
        limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
        after: Annotated[str | None, Query(description="Those behind the budget with this id.")] = None,
    ) -> Response:
        """Return your tenant's budgets, or your team's if the key is a team's, and how they stand."""
        if after is not None and not plausible_id(after):
            raise invalid("after: this is no id of a budget.", "after")
        found = await budgets.states(
            viewer=Viewer.of(identity), scope=scope, archived=archived, after=after, limit=limit + 1
        )
        data = [budget_json(state, secrets=identity.admin) for state in found[:limit]]
        return json_response({"object": "list", "data": data, "has_more": len(found) > limit})

    @router.get("/v1/budgets/{budget_id}", tags=TAGS, summary="Show a budget", response_model=BudgetInfo)
    async def show_budget(budget_id: str, identity: Me) -> Response:
        """Return a budget with what is spent, held and left of it now."""
        return json_response(await shown(identity, _checked(budget_id)))

    @router.patch("/v1/budgets/{budget_id}", tags=TAGS, summary="Change a budget", response_model=BudgetInfo)
    async def change_budget(budget_id: str, identity: Me, body: BudgetChange) -> Response:
        """Change a budget's limit, name, thresholds, webhook, or whether it is hard or archived.

        Needs an admin's key. Scope and window cannot be changed: make another budget.
        """
        require_admin(identity)
        changes = body.model_dump(exclude_unset=True)
        expected = changes.pop("if_updated_at", None)
        await budgets.change(_checked(budget_id), changes, viewer=Viewer.of(identity), expected=expected)
        return json_response(await shown(identity, budget_id))

    @router.delete(
        "/v1/budgets/{budget_id}", tags=TAGS, summary="Archive a budget", response_model=BudgetInfo
    )
    async def archive_budget(budget_id: str, identity: Me) -> Response:
        """End a budget: it limits and counts no more, but is kept. Needs an admin's key."""
        require_admin(identity)
        await budgets.change(_checked(budget_id), {"archived": True}, viewer=Viewer.of(identity))
        return json_response(await shown(identity, budget_id))


def _checked(budget_id: str) -> str:
    if not plausible_id(budget_id):
        raise NotFound(f"There is no budget {budget_id[:50]!r}.")
    return budget_id
