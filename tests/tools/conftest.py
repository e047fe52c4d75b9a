from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from admiralty.core.values import Caller, Identity
from admiralty.tools import ToolContext

CALLER = Caller(
    identity=Identity(),
    fleet="desk",
    agent="clerk",
    agent_version="v1",
    conversation_id="conv_1",
    run_id="run_1",
)


@pytest.fixture
def context() -> Callable[..., ToolContext]:
    """Makes contexts of tool calls: turn 1, nothing said, an empty session."""

    def make(**values: Any) -> ToolContext:
        given: dict[str, Any] = {"caller": CALLER, "call_id": "call_1", "turn": 1, "user_message": ""}
        return ToolContext(**given | values)

    return make
