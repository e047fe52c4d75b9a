"""Replays recorded tool calls, without a model, and says where the tools differ from the record.

A record is a list of calls with what each returned, and the records that had changed at the end.
How a fresh world is set up, and how its changes are read, the caller says in two small functions:
this module knows no fleet.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from admiralty.core.errors import ConfigurationError
from admiralty.tools import ToolContext, ToolExecutor

ERROR = "Error"
"""What the output of a failed call begins with, in records as in outcomes."""

Changes = Mapping[str, Mapping[str, Any]]
"""Changed records by kind and id: ``{"orders": {"#W1": {...}}}``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCall:
    """A tool call and what came of it."""

    name: str
    arguments: Mapping[str, Any]
    output: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTask:
    """Calls made one after the other on a fresh world, and what they changed in it."""

    id: str
    calls: Sequence[RecordedCall]
    changed: Changes
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the record says, such as whose task it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One place where the replay did not give what was recorded."""

    task: str
    where: str
    """``call 2 (cancel_order)`` or ``changed orders #W1``."""
    path: str
    """Where in the value they first part, such as ``items.0.price``; empty for the whole."""
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        path = f" at {self.path}" if self.path else ""
        return (
            f"task {self.task}, {self.where}{path}: recorded {_short(self.recorded)}, "
            f"replayed {_short(self.replayed)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a replay of one or more tasks showed."""

    tasks: int
    calls: int
    errors: int
    """Calls whose outcome was an error, as it may well have been recorded."""
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        return not self.differences

    def __add__(self, other: Replay) -> Replay:
        return Replay(
            tasks=self.tasks + other.tasks,
            calls=self.calls + other.calls,
            errors=self.errors + other.errors,
            differences=self.differences + other.differences,
        )

    def __str__(self) -> str:
        head = (
            f"{self.tasks} tasks, {self.calls} calls ({self.errors} errors), "
            f"{len(self.differences)} differences"
        )
        return "\n".join([head, *map(str, self.differences)])


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A fresh world for one task."""

    context: Callable[[int], ToolContext]
    """Gives the context of a call by its number in the task, from 0."""
    changed: Callable[[], Changes]
    """Gives the records that differ from the fresh world, after the calls."""


def read_tasks(path: Path) -> Iterator[RecordedTask]:
    """Read tasks from JSON lines (``.gz`` or plain), each ``{"actions": [...], "changed": {...}, ...}``.

    An action is ``{"name", "arguments", "output"}``; other keys of a line become facts, and
    ``id`` its id, which else is the line's number, from 0. Raises ConfigurationError for a file
    that is not of this form.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for number, line in enumerate(lines):
                yield _task(json.loads(line), number)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: not a file of recorded tasks ({error!r}). Give JSON lines with 'actions' and 'changed'."
        ) from error


async def replay_task(
    task: RecordedTask, executor: ToolExecutor, world: World, *, error_texts: bool = False
) -> Replay:
    """Make the calls of ``task`` in ``world``, and compare every outcome and what changed at the end.

    Outcomes are compared as JSON where both are JSON, else as text. Of errors only that they are
    errors, unless ``error_texts`` is set.
    """
    differences: list[Difference] = []
    errors = 0
    for number, call in enumerate(task.calls):
        outcome = await executor.execute(call.name, call.arguments, world.context(number))
        where = f"call {number} ({call.name})"
        failed, expected = outcome.status != "ok", call.output.startswith(ERROR)
        errors += failed
        if failed != expected or (error_texts and failed and outcome.content != call.output):
            differences.append(_difference(task, where, "", call.output, outcome.content))
        elif not failed:
            found = first_difference(_value(call.output), _value(outcome.content))
            if found:
                differences.append(_difference(task, where, *found))
    for kind, key, *found_in_record in _changes_apart(task.changed, world.changed()):
        differences.append(_difference(task, f"changed {kind} {key}", *found_in_record))
    return Replay(tasks=1, calls=len(task.calls), errors=errors, differences=tuple(differences))


async def replay(
    tasks: Iterable[RecordedTask],
    executor: ToolExecutor,
    fresh: Callable[[RecordedTask], World],
    *,
    error_texts: bool = False,
) -> Replay:
    """Replay each task in a world of its own, which ``fresh`` makes for it."""
    total = Replay(tasks=0, calls=0, errors=0, differences=())
    for task in tasks:
        total += await replay_task(task, executor, fresh(task), error_texts=error_texts)
    return total


def first_difference(recorded: Any, replayed: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Return where two JSON values first part (path, and both values there), or ``None``.

    The order of an object's keys does not matter. 1 and 1.0 are equal, 1 and true are not.
    """
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        steps: Iterable[Any] = [*recorded, *(key for key in replayed if key not in recorded)]
    elif isinstance(recorded, list) and isinstance(replayed, list) and len(recorded) == len(replayed):
        steps = range(len(recorded))
    elif isinstance(recorded, bool) == isinstance(replayed, bool) and recorded == replayed:
        return None
    else:
        return path, recorded, replayed
    for step in steps:
        below = f"{path}.{step}" if path else str(step)
        if isinstance(recorded, dict) and (step not in recorded or step not in replayed):
            return below, recorded.get(step, "(missing)"), replayed.get(step, "(missing)")
        if found := first_difference(recorded[step], replayed[step], below):
            return found
    return None


def _changes_apart(recorded: Changes, replayed: Changes) -> Iterator[tuple[str, str, str, Any, Any]]:
    for kind in sorted({*recorded, *replayed}):
        before, after = recorded.get(kind, {}), replayed.get(kind, {})
        for key in sorted({*before, *after}):
            found = first_difference(before.get(key, "(unchanged)"), after.get(key, "(unchanged)"))
            if found:
                yield kind, key, *found


def _task(line: Mapping[str, Any], number: int) -> RecordedTask:
    calls = tuple(
        RecordedCall(name=action["name"], arguments=action["arguments"], output=str(action["output"]))
        for action in line["actions"]
    )
    facts = {key: value for key, value in line.items() if key not in ("id", "actions", "changed")}
    return RecordedTask(id=str(line.get("id", number)), calls=calls, changed=line["changed"], facts=facts)


def _difference(task: RecordedTask, where: str, path: str, recorded: Any, replayed: Any) -> Difference:
    return Difference(task=task.id, where=where, path=path, recorded=recorded, replayed=replayed)


def _value(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."
