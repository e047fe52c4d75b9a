"""Tools: typed functions that agents may call, with their schemas, effects and safe execution."""

from admiralty.tools.context import EffectHandle, ToolContext
from admiralty.tools.executor import ToolExecutor, ToolOutcome
from admiralty.tools.person import ask_person
from admiralty.tools.reconcile import OUTBOX, Reconciled
from admiralty.tools.state import SharedState, TypedState
from admiralty.tools.tool import Tool, ToolError, tool

__all__ = [
    "OUTBOX",
    "EffectHandle",
    "Reconciled",
    "SharedState",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolExecutor",
    "ToolOutcome",
    "TypedState",
    "ask_person",
    "tool",
]
