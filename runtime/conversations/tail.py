"""A run followed through the database: for whoever listens where it is not executed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from admiralty.core.values import Event, Identity
from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import OPEN
from admiralty.runtime.storage.conversations import ConversationStore

SHORTEST, LONGEST = 0.05, 0.5
"""Seconds between two looks: longer while nothing happens."""

PAGE = 500
"""Events that are read at once: a long conversation need not fit into memory for each listener."""


async def tail_run(
    conversations: ConversationStore,
    runs: RunStore,
    identity: Identity,
    conversation_id: str,
    run_id: str,
    after: int,
    idle: float | None,
    here: Callable[[], LiveRun | None] = lambda: None,
    leaving: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[Sequence[Event], None]:
    """Yield a run's stored events behind ``after``, in batches, until it has ended.

    ``here`` returns the run if it is executed in this process by now: then it is followed as it happens,
    tokens too. ``leaving`` tells whether this process ends: then what there is comes, and no more. After
    ``idle`` seconds without news an empty batch comes. Raises NotFound.
    """
    clock = asyncio.get_running_loop().time
    pause, quiet_since = SHORTEST, clock()
    while True:
        # First whether it is executed here: all that came before that is then among the stored events.
        live = here()
        # Then the status: what is stored with an end is then among the events too.
        run = await runs.get(identity, conversation_id, run_id)
        stored = await conversations.events(identity, conversation_id, after=after, run_id=run_id, limit=PAGE)
        if stored:
            after, pause, quiet_since = stored[-1].seq, SHORTEST, clock()
            yield [item.event for item in stored]
        if len(stored) == PAGE:
            continue
        if run.status not in OPEN or leaving():
            return
        if live is not None and not live.detached:
            async with aclosing(live.batches(idle=idle)) as batches:
                async for batch in batches:
                    if fresh := _behind(batch, after) if batch else ():
                        after = next((event.seq for event in reversed(fresh) if event.seq), after)
                    if fresh or not batch:
                        yield fresh
            return
        if idle is not None and clock() - quiet_since >= idle:
            quiet_since = clock()
            yield ()
        await asyncio.sleep(pause)
        pause = min(LONGEST, 1.5 * pause)


def _behind(batch: Sequence[Event], after: int) -> Sequence[Event]:
    """Return what comes behind the event with number ``after``, tokens included."""
    known = [place for place, event in enumerate(batch) if event.seq is not None and event.seq <= after]
    return batch[known[-1] + 1 :] if known else batch


async def tail_conversation(
    conversations: ConversationStore,
    identity: Identity,
    conversation_id: str,
    after: int,
    idle: float | None,
    leaving: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[Sequence[Event], None]:
    """Yield all stored events of a conversation behind ``after``, for ever. Raises NotFound.

    ``leaving`` tells whether this process ends: then what there is comes, and no more.
    """
    clock = asyncio.get_running_loop().time
    pause, quiet_since = SHORTEST, clock()
    while True:
        stored = await conversations.events(identity, conversation_id, after=after, limit=PAGE)
        if stored:
            after, pause, quiet_since = stored[-1].seq, SHORTEST, clock()
            yield [item.event for item in stored]
        if len(stored) == PAGE:
            continue
        if leaving():
            return
        if not stored and idle is not None and clock() - quiet_since >= idle:
            quiet_since = clock()
            yield ()
        await asyncio.sleep(pause)
        pause = min(LONGEST, 1.5 * pause)
