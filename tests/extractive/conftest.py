"""A fleet that is no shop: a library's loans. What the extractive provider does for it, it does by rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from admiralty.agents import Agent, Fleet, FleetContext
from admiralty.agents.prompt import inline_prompt
from admiralty.core.settings import Settings
from admiralty.tools import ToolContext, ToolError, tool


def _entity(of: str, pattern: str) -> Any:
    return Field(json_schema_extra={"x-entity": {"of": of, "pattern": pattern}})


MemberId = Annotated[str, _entity("member_id", r"\bM-\d{4}\b")]
LoanId = Annotated[str, _entity("loan_id", r"\bL-\d{4}\b")]
Email = Annotated[str, _entity("email", r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")]


@dataclass
class Library:
    """Two loans of one member, and what was done to them."""

    loans: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "L-0001": {
                "loan_id": "L-0001",
                "status": "active",
                "books": [{"name": "Moby Dick", "price": 9.5}],
            },
            "L-0002": {"loan_id": "L-0002", "status": "overdue", "books": [{"name": "Emma", "price": 7.0}]},
        }
    )
    renewed: list[tuple[str, str]] = field(default_factory=list)


@tool(effect="read")
def find_member_id_by_email(email: Email) -> str:
    """Find a member's id by email.

    Args:
        email: The member's email.
    """
    if email != "ada@example.com":
        raise ToolError("no such member")
    return "M-0001"


@tool(effect="read")
def get_member_details(member_id: MemberId) -> dict[str, Any]:
    """Get a member's profile.

    Args:
        member_id: The member's id.
    """
    return {"name": "Ada Byron", "email": "ada@example.com", "loans": ["L-0001", "L-0002"], "id": member_id}


@tool(effect="read")
def get_loan_details(loan_id: LoanId, ctx: ToolContext) -> dict[str, Any]:
    """Get a loan.

    Args:
        loan_id: The loan's id.
    """
    library: Library = ctx.resources
    if loan_id not in library.loans:
        raise ToolError("no such loan")
    return library.loans[loan_id]


@tool(effect="write", confirm=True)
def renew_active_loan(loan_id: LoanId, weeks: Literal["two", "four"], ctx: ToolContext) -> dict[str, Any]:
    """Renew a loan that is active.

    Args:
        loan_id: The loan's id.
        weeks: For how many weeks.
    """
    library: Library = ctx.resources
    library.renewed.append((loan_id, weeks))
    return library.loans[loan_id] | {"status": "renewed"}


@dataclass
class Desk:
    """The running library and what happened in it."""

    running: Any
    library: Library
    conversation: str | None = None
    calls: list[str] = field(default_factory=list)

    async def say(self, message: str) -> str:
        answer = await self.running.ask(message, conversation=self.conversation)
        self.conversation = answer.conversation_id
        self.calls = [
            event.data["name"]
            for event in answer.events
            if event.type == "tool" and event.data["status"] != "started"
        ]
        text: str = answer.text
        return text


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """The library's one agent, without any key."""
    library = Library()

    def setup(_: FleetContext) -> Library:
        return library

    clerk = Agent(
        "clerk",
        prompt=inline_prompt("You work at a library."),
        tools=[find_member_id_by_email, get_member_details, get_loan_details, renew_active_loan],
    )
    fleet = Fleet("library", agents=[clerk], entry="clerk", setup=setup)
    settings = Settings.load(home=tmp_path, database_url="sqlite://", embedder="hashing")
    async with fleet.local(home=tmp_path, settings=settings) as running:
        yield Desk(running, library)
