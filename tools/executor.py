"""Runs one tool call: validates, asks for confirmation, runs, times out, and says what came of it.

Whatever goes wrong inside a tool becomes an outcome that the model can read; nothing a model or a
tool does can raise here, except cancellation.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from admiralty.core.errors import DefinitionError
from admiralty.tools.confirmation import take_confirmation
from admiralty.tools.context import ToolContext
from admiralty.tools.tool import Tool, ToolError

logger = logging.getLogger(__name__)

Status = Literal["ok", "error", "confirmation_required"]

MAX_RESULT_CHARACTERS = 60_000
"""A longer result is refused: it would crowd everything else out of the model's context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOutcome:
    """What came of a tool call."""

    status: Status
    content: str
    """What the model reads: the result as JSON or text, or ``Error: ...``."""
    seconds: float


class ToolExecutor:
    """Runs calls of a fixed set of tools."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if self._tools.setdefault(tool.name, tool) is not tool:
                raise DefinitionError("tools", tool.name, "two tools have this name", "Rename one of them.")

    @property
    def tools(self) -> Mapping[str, Tool]:
        return self._tools

    async def execute(self, name: str, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        """Run tool ``name`` with ``arguments`` as a model gave them."""
        started = time.monotonic()
        status, content = await self._execute(name, arguments, ctx)
        return ToolOutcome(status=status, content=content, seconds=time.monotonic() - started)

    async def _execute(self, name: str, arguments: Mapping[str, Any], ctx: ToolContext) -> tuple[Status, str]:
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            return "error", f"Error: there is no tool {name!r}. Tools: {known}."
        try:
            parsed = tool.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            return "error", f"Error: {explain(error)}"
        given = {field: getattr(parsed, field) for field in type(parsed).model_fields}
        if tool.confirm and not (ctx.confirmed or ctx.acting == "staff"):
            confirmed = take_confirmation(
                ctx.session,
                tool=name,
                arguments=parsed.model_dump(mode="json"),
                turn=ctx.turn,
                user_message=ctx.user_message,
            )
            if not confirmed:
                return await self._ask(tool, given, parsed, ctx)
            ctx = dataclasses.replace(ctx, confirmed=True)
        return await _run(tool, given, ctx)

    async def _ask(
        self, tool: Tool, given: Mapping[str, Any], parsed: BaseModel, ctx: ToolContext
    ) -> tuple[Status, str]:
        """Ask for confirmation, unless the tool's own rules refuse the call anyhow."""
        if tool.rehearse:
            status, content = await _run(tool, given, dataclasses.replace(ctx, rehearsal=True))
            if status != "ok":
                return status, content
        return "confirmation_required", _ask_first(tool.name, parsed)


async def _run(tool: Tool, given: Mapping[str, Any], ctx: ToolContext) -> tuple[Status, str]:
    arguments = {**given, tool.context_parameter: ctx} if tool.context_parameter else given
    try:
        async with asyncio.timeout(tool.timeout) as limit:
            if tool.is_async:
                result = await tool.function(**arguments)
            else:
                result = await asyncio.to_thread(tool.function, **arguments)
        content = to_content(result)
    except ToolError as error:
        return "error", f"Error: {error.message}"
    except (Exception, SystemExit) as error:  # SystemExit would end the whole process, not the call
        if isinstance(error, TimeoutError) and limit.expired():
            return "error", f"Error: {tool.name} did not answer within {tool.timeout:g} s."
        logger.exception("tool %s failed (call %s, run %s)", tool.name, ctx.call_id, ctx.caller.run_id)
        return "error", f"Error: {tool.name} failed unexpectedly. Do not try again in this turn."
    if len(content) > MAX_RESULT_CHARACTERS:
        return "error", f"Error: the result of {tool.name} is too long ({len(content)} characters)."
    return "ok", content


def to_content(result: Any) -> str:
    """Return a tool's result as a model reads it: text as it is, everything else as JSON."""
    if isinstance(result, str):
        return result
    if isinstance(result, BaseModel):
        return result.model_dump_json()
    return json.dumps(result, default=_encode, ensure_ascii=False)


def _encode(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def explain(error: ValidationError) -> str:
    """Return what is wrong, field by field, as a model reads it."""
    problems = (
        f"{'.'.join(str(part) for part in item['loc']) or 'arguments'}: {item['msg']}"
        for item in error.errors(include_url=False)
    )
    return "; ".join(problems)


def _ask_first(name: str, arguments: BaseModel) -> str:
    return (
        f"CONFIRMATION REQUIRED: {name} was not carried out. List these details to the user and ask "
        f"for an explicit yes; call {name} again with the same arguments once they said it. "
        f"Details: {arguments.model_dump_json()}"
    )
