"""Points at which a worker of a chaos run ends itself, or stops, when it is told to.

The runtime knows nothing of them: its functions are wrapped in the worker's process. A point is armed by a
file of its name; whoever takes the file away is hit, so that each arming hits one process once.
"""

import functools
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from admiralty.core.values import ModelReply
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.conversations.execution import Executor
from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.durable.executions import ExecutionStore
from admiralty.runtime.scheduler import LocalScheduler
from admiralty.tools import ToolExecutor

POINTS: Final = {
    "claimed": "the run's row is stored, and nothing is done yet",
    "replied": "the model's reply is kept, and its tool not called yet",
    "begun": "the effect is written down, and the tool has not begun yet",
    "effect": "the tool has acted, and nobody has written that down yet",
    "settled": "what the tool did is written down",
    "streaming": "the answer's words flow",
    "checkpointed": "the checkpoint is written, the run's end is not",
    "finished": "the run's end is stored, and nobody has heard of it yet",
    "waiting": "the run waits for a person",
    "decided": "a person has decided, and nobody has heard of it yet",
}

WORDS: Final = 3
"""Words of an answer before it counts as flowing."""


class Points:
    """The points of a run, in a folder that all its processes know."""

    def __init__(self, folder: Path) -> None:
        self._armed, self._hit = folder / "armed", folder / "hit"
        for path in (self._armed, self._hit):
            path.mkdir(parents=True, exist_ok=True)

    def arm(self, point: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Have the next process that comes by be sent this signal."""
        if point not in POINTS:
            raise ValueError(f"point = {point!r}: use one of {', '.join(POINTS)}")
        path = self._armed / f".{point}"
        path.write_text(str(int(number)))
        path.rename(self._armed / point)

    def disarm(self) -> list[str]:
        """Take back what nobody has come by; return it."""
        left = sorted(path.name for path in self._armed.iterdir())
        for name in left:
            with suppress(FileNotFoundError):
                (self._armed / name).unlink()
        return left

    def hits(self) -> list[tuple[str, int]]:
        """Return what was hit so far: the point, and the process's id."""
        return sorted((path.name.partition(".")[0], int(path.suffix[1:])) for path in self._hit.iterdir())

    def reach(self, point: str) -> None:
        """End or stop this process if the point is armed."""
        mine = self._hit / f"{point}.{os.urandom(4).hex()}.{os.getpid()}"
        try:
            (self._armed / point).rename(mine)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), int(mine.read_text()))


def install(points: Points) -> None:
    """Wrap the runtime's functions in this process."""
    reach = points.reach
    _around(Executor, "execute", before=lambda *_: reach("claimed"))
    _around(Executor, "_finish", before=lambda *_: reach("checkpointed"))
    _around(ExecutionStore, "finish", after=lambda *_: reach("finished"))
    _around(ExecutionStore, "pause", after=lambda *_: reach("waiting"))
    _around(ApprovalStore, "decide", after=lambda *_: reach("decided"))
    _around(
        ToolExecutor,
        "run",
        before=lambda _, call: _acts(call) and reach("begun"),
        after=lambda _, call: _acts(call) and reach("effect"),
    )
    _around(LocalScheduler, "settle", after=lambda _, grant: grant.effect and reach("settled"))
    _wrap_stream(reach)
    _wrap_emit(reach)


def _acts(call: Any) -> bool:
    return call.tool.effect != "read" and not call.asks


def _around(
    kind: type,
    name: str,
    before: Callable[..., Any] = lambda *_: None,
    after: Callable[..., Any] = lambda *_: None,
) -> None:
    inner = getattr(kind, name)

    @functools.wraps(inner)
    async def wrapped(self: Any, *args: Any, **named: Any) -> Any:
        before(self, *args[:1])
        result = await inner(self, *args, **named)
        after(self, *args[:1])
        return result

    setattr(kind, name, wrapped)


def _wrap_stream(reach: Callable[[str], None]) -> None:
    inner = LocalScheduler.stream

    async def stream(self: LocalScheduler, call: Any) -> AsyncGenerator[Any, None]:
        chunks = inner(self, call)
        try:
            async for chunk in chunks:
                if isinstance(chunk, ModelReply) and chunk.message.tool_calls:
                    reach("replied")
                yield chunk
        finally:
            await chunks.aclose()

    LocalScheduler.stream = stream  # type: ignore[method-assign]


def _wrap_emit(reach: Callable[[str], None]) -> None:
    inner = LiveRun.emit

    def emit(self: LiveRun, event: Any) -> None:
        inner(self, event)
        if event.type == "token" and sum(_tokens(self)) == WORDS:
            reach("streaming")

    LiveRun.emit = emit  # type: ignore[method-assign]


def _tokens(live: LiveRun) -> Iterator[bool]:
    return (event.type == "token" for events in (live.happened, live.pending) for event in events)
