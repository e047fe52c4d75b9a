"""What a tool is given besides its arguments. A tool that wants it takes a parameter ``ctx``."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

from admiralty.core.ports import Memory
from admiralty.core.values import Caller


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
    acting: Literal["customer", "staff"] = "customer"
    """For whom the agent speaks. Staff have been authenticated elsewhere and confirm by acting."""
    confirmed: bool = False
    """Whether the user has confirmed this very call (see ``tool(confirm=True)``)."""
    rehearsal: bool = False
    """Check everything, change nothing (see ``tool(rehearse=True)``)."""

    @property
    def idempotency_key(self) -> str:
        """A key that is the same when this call is tried again, for systems that accept one."""
        return f"{self.caller.run_id}:{self.call_id}"
