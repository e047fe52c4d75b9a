"""What a tool is given besides its arguments. A tool that wants it takes a parameter ``ctx``."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from admiralty.core.ports import Memory
from admiralty.core.state import Completion
from admiralty.core.values import ApprovalVerdict, Caller
from admiralty.tools.state import SharedState, no_state


class EffectHandle(Protocol):
    """The row that keeps what came of this call, so that it is never made twice."""

    def complete(self, connection: Any, result: Any) -> None:
        """Write down in the tool's own transaction that the call is done, with what it returns.

        For a tool that writes to the database in which the effects are kept: then both are there after a
        crash, or neither. ``connection`` is SQLAlchemy's, sqlite3's or psycopg's, in a transaction that the
        tool commits afterwards. What the tool keeps in ``session`` must be there by now.

        Raises RunLost if the call is another execution's by now: roll back. Raises ConfigurationError
        for a connection that would commit at once, or is of another kind.
        """
        ...

    def completion(self, result: Any) -> Completion | None:
        """Return what completes the call in a transaction of shared state: see ``SharedState.transact``."""
        ...


class NotKept:
    """Of a call that no row is kept of: reads, and tools called by themselves in tests."""

    def complete(self, connection: Any, result: Any) -> None:
        """Do nothing."""

    def completion(self, result: Any) -> None:
        """Return that there is nothing to complete."""


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """The call's surroundings. The context is frozen; only ``session`` may be written."""

    caller: Caller
    """Who calls: tenant, user, agent, conversation, run."""
    call_id: str
    """Id of this tool call, unique in its run."""
    turn: int
    """Number of the turn in the conversation, from 1."""
    user_message: str
    """Text of the turn's user message."""
    session: MutableMapping[str, Any] = field(default_factory=dict)
    """JSON facts kept with the conversation: what is written here, later turns read."""
    resources: Any = None
    """What the fleet's ``setup`` returned in this process: database handles and the like."""
    memory: Memory | None = None
    state: SharedState = field(default_factory=no_state)
    """What the tenant's agents share: values with versions, written in this caller's name."""
    acting: Literal["customer", "staff"] = "customer"
    """For whom the agent speaks. Staff have been authenticated elsewhere and confirm by acting."""
    confirmed: bool = False
    """Whether the user has confirmed this very call (see ``tool(confirm=True)``)."""
    rehearsal: bool = False
    """Check everything, change nothing (see ``tool(rehearse=True)``)."""
    approval: ApprovalVerdict | None = None
    """What a person said who was asked whether this very call may be made, and allowed it."""
    effect: EffectHandle = field(default_factory=NotKept)
    """For a tool that writes to the runtime's own database."""

    @property
    def approved(self) -> bool:
        """Whether a person has allowed this very call: then there is no need of ApprovalRequired."""
        return self.approval is not None and self.approval.verdict == "approved"

    @property
    def idempotency_key(self) -> str:
        """A key that is the same when this call is tried again, for systems that accept one."""
        return f"{self.caller.run_id}:{self.call_id}"
