"""A process that writes shared state as fast as it can: started, and killed, by tests.

``python writer.py URL NAME HOW COUNT`` prints a line for each thing that it has been told was done.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from admiralty.core.values import Caller, Identity
from admiralty.runtime.state import SqlStateStore
from admiralty.runtime.storage import Database
from admiralty.tools import SharedState

KEYS = ["left", "middle", "right"]


def tell(what: object) -> None:
    """Write a line at once: after a kill, it is all that is known."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def count(state: SharedState, number: int, writers: int) -> None:
    """Add 1 to one key, ``number`` times by each of so many writers."""

    async def write() -> None:
        for _ in range(number):
            done = await state.update("n", lambda n: n + 1, default=0, attempts=10_000)
            tell(done.version)

    await asyncio.gather(*(write() for _ in range(writers)))


async def move(state: SharedState, number: int, writers: int) -> None:
    """Move 1 from key to key; the sum stays what it was."""

    async def write(start: int) -> None:
        for step in range(start, start + number):
            source, target = KEYS[step % 3], KEYS[(step + 1) % 3]

            async def work(transaction: Any, source: str = source, target: str = target) -> None:
                transaction.put(source, await transaction.get(source, 0) - 1)
                transaction.put(target, await transaction.get(target, 0) + 1)

            await state.transact(work, attempts=10_000)
            tell(step)

    await asyncio.gather(*(write(start) for start in range(writers)))


async def main(url: str, name: str, how: str, number: int) -> None:
    database = await asyncio.to_thread(Database, url)
    caller = Caller(
        identity=Identity(tenant="acme"), fleet="desk", agent=name, agent_version="v", conversation_id="c",
        run_id=name,
    )  # fmt: skip
    state = SharedState(SqlStateStore(database, history=1_000_000), lambda: caller)
    tell("ready")
    await asyncio.to_thread(sys.stdin.readline)
    await {"count": count, "move": move}[how](state, number, 16)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
