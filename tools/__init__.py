"""Tools: typed functions that agents may call, with their schemas, effects and safe execution."""

from admiralty.tools.context import ToolContext
from admiralty.tools.executor import ToolExecutor, ToolOutcome
from admiralty.tools.tool import Tool, ToolError, tool

__all__ = ["Tool", "ToolContext", "ToolError", "ToolExecutor", "ToolOutcome", "tool"]
