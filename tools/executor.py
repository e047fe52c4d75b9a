"""Runs one tool call: validates, asks for confirmation, runs, times out, and says what came of it.

In two steps, because the scheduler is asked in between: ``prepare`` tells whether there is anything
to run, ``run`` runs it. ``execute`` does both, ungoverned: for tests and replays.

Whatever goes wrong inside a tool becomes an outcome that the model can read. Nothing a model or a tool
does can raise here, except cancellation and what is not for the model: a person must be asked first
(ApprovalRequired), or another process has taken the run over (RunLost).
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import logging
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from admiralty.core.errors import (
    AdmiraltyError,
    ApprovalRequired,
    DefinitionError,
    Denied,
    EffectUnknown,
    RunLost,
)
from admiralty.core.money import ZERO, Nanos
from admiralty.tools.confirmation import take_confirmation
from admiralty.tools.context import ToolContext
from admiralty.tools.reconcile import Reconciled
from admiralty.tools.tool import Tool, ToolError

logger = logging.getLogger(__name__)

Status = Literal["ok", "error", "confirmation_required", "denied", "budget_exceeded"]
"""How a call ended. ``denied`` by a policy and ``budget_exceeded`` are refusals: nothing ran."""

MAX_RESULT_CHARACTERS = 60_000
"""A longer result is refused: it would crowd everything else out of the model's context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOutcome:
    """What came of a tool call."""

    status: Status
    content: str
    """What the model reads: the result as JSON or text, or ``Error: ...``."""
    seconds: float
    ran: bool = False
    """Whether the tool did what it was asked: then its price is due."""
    unfinished: bool = False
    """Whether it was given up while it ran: nobody knows what it has done."""
    refusal: AdmiraltyError | None = None
    """Why it was not permitted, or not paid for."""
    cost: Nanos = ZERO
    """What was charged for it."""

    @property
    def failed(self) -> bool:
        """Whether the model is told of an error."""
        return self.status in ("error", "denied", "budget_exceeded")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedCall:
    """A tool call whose arguments are right."""

    tool: Tool
    arguments: BaseModel
    ctx: ToolContext
    asks: bool
    """Whether the user must be asked before: then at most the tool's rules are rehearsed."""

    def plain(self) -> dict[str, Any]:
        """Return the arguments as JSON."""
        return self.arguments.model_dump(mode="json")


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
        prepared = self.prepare(name, arguments, ctx)
        if isinstance(prepared, ToolOutcome):
            return prepared
        try:
            return await self.run(prepared)
        except ApprovalRequired as error:  # there is nobody to ask
            return ToolOutcome(status="denied", content=f"Error: {error.message}", seconds=0.0, refusal=error)

    def prepare(
        self, name: str, arguments: Mapping[str, Any], ctx: ToolContext
    ) -> PreparedCall | ToolOutcome:
        """Check a call as a model wishes it; return the outcome where there is nothing to run."""
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            return _error(f"there is no tool {name!r}. Tools: {known}.")
        try:
            parsed = tool.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            return _error(explain(error))
        asks = False
        if tool.confirm and not (ctx.confirmed or ctx.acting == "staff"):
            confirmed = take_confirmation(
                ctx.session,
                tool=name,
                arguments=parsed.model_dump(mode="json"),
                turn=ctx.turn,
                user_message=ctx.user_message,
            )
            asks = not confirmed
            ctx = dataclasses.replace(ctx, confirmed=confirmed)
        return PreparedCall(tool=tool, arguments=parsed, ctx=ctx, asks=asks)

    async def run(self, call: PreparedCall) -> ToolOutcome:
        """Run a prepared call, or ask for its confirmation: unless its own rules refuse it anyhow.

        Raises ApprovalRequired where the tool wants a person to allow it first, RunLost.
        """
        if not call.asks:
            return await _run(call)
        if call.tool.rehearse:
            rehearsal = dataclasses.replace(call, ctx=dataclasses.replace(call.ctx, rehearsal=True))
            try:
                outcome = await _run(rehearsal)
            except ApprovalRequired:  # the person is asked when the user has said yes
                pass
            else:
                if outcome.status != "ok":
                    return outcome
        return ToolOutcome(
            status="confirmation_required", content=_ask_first(call.tool.name, call.arguments), seconds=0.0
        )

    async def reconcile(self, call: PreparedCall) -> Reconciled:
        """Ask the tool whether a call was carried out; what goes wrong or takes too long means unknown."""
        tool, ctx = call.tool, call.ctx
        if tool.outbox:
            return Reconciled.not_done()
        if tool.reconcile is None:
            return Reconciled.unknown()
        given = {name: value for name, value in _given(call).items() if name in tool.reconcile_parameters}
        given |= dict.fromkeys(tool.reconcile_parameters - set(given), ctx)
        try:
            async with asyncio.timeout(tool.timeout):
                if inspect.iscoroutinefunction(tool.reconcile):
                    answer = await tool.reconcile(**given)
                else:
                    answer = await asyncio.to_thread(tool.reconcile, **given)
        except RunLost:
            raise
        except (Exception, SystemExit):
            logger.exception(
                "reconcile of %s failed (call %s, run %s)", tool.name, ctx.call_id, ctx.caller.run_id
            )
            return Reconciled.unknown()
        if isinstance(answer, Reconciled):
            return answer
        logger.error("reconcile of %s returned %r, which is no Reconciled", tool.name, answer)
        return Reconciled.unknown()


def _given(call: PreparedCall) -> dict[str, Any]:
    return {field: getattr(call.arguments, field) for field in type(call.arguments).model_fields}


def _error(text: str) -> ToolOutcome:
    return ToolOutcome(status="error", content=f"Error: {text}", seconds=0.0)


async def _run(call: PreparedCall) -> ToolOutcome:
    tool, ctx = call.tool, call.ctx
    arguments = _given(call)
    if tool.context_parameter:
        arguments[tool.context_parameter] = ctx
    started = time.monotonic()
    status: Status = "error"
    unfinished, refusal = False, None
    try:
        async with asyncio.timeout(tool.timeout) as limit:
            if tool.is_async:
                result = await tool.function(**arguments)
            else:
                result = await asyncio.to_thread(tool.function, **arguments)
        content = to_content(result)
        status = "ok"
        _make_plain(ctx.session, tool.name)
    except ToolError as error:
        content = f"Error: {error.message}"
    except (ApprovalRequired, RunLost):
        raise
    except EffectUnknown as error:  # the tool says itself that nobody knows
        unfinished, content = True, f"Error: {error.message}"
    except Denied as error:  # of what the tool itself asked for: a corpus
        status, content, refusal = "denied", f"Error: {error.message}", error
    except (Exception, SystemExit) as error:  # SystemExit would end the whole process, not the call
        if isinstance(error, TimeoutError) and limit.expired():
            unfinished = True
            content = f"Error: {tool.name} did not answer within {tool.timeout:g} s."
        else:
            logger.exception("tool %s failed (call %s, run %s)", tool.name, ctx.call_id, ctx.caller.run_id)
            content = f"Error: {tool.name} failed unexpectedly. Do not try again in this turn."
    if status == "ok" and len(content) > MAX_RESULT_CHARACTERS:
        # It ran all the same, so what it did is done and paid for.
        content = f"Error: the result of {tool.name} is too long ({len(content)} characters)."
        return ToolOutcome(status="error", content=content, seconds=time.monotonic() - started, ran=True)
    return ToolOutcome(
        status=status,
        content=content,
        seconds=time.monotonic() - started,
        ran=status == "ok",
        unfinished=unfinished,
        refusal=refusal,
    )


def _make_plain(session: MutableMapping[str, Any], tool: str) -> None:
    """Make of ``session`` what another turn, or another process, will read: JSON.

    Otherwise tools would meet another session after a crash than without one.
    """
    for key, value in list(session.items()):
        try:
            plain = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            plain = None
        if (isinstance(key, str) and plain is not None and plain == value) or value is None:
            continue
        logger.warning(
            "tool %s: session[%r] = %.200r is no JSON, and kept as what JSON makes of it", tool, key, value
        )
        del session[key]
        session[str(key)] = _jsonable(value) if plain is None else plain


def _jsonable(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=str), parse_constant=str)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


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
