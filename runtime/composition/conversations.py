"""The coordinator of conversations, and the database."""

from __future__ import annotations

import os
import socket

from admiralty.agents import Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.ids import new_id
from admiralty.core.ports import AgentHost
from admiralty.core.settings import Settings
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver


def process_name() -> str:
    """Return a name that no other process has, now or later: who owns a run."""
    return f"{socket.gethostname()[:30]}-{os.getpid()}-{new_id('p')[-8:]}"


async def build_conversations(
    fleet: Fleet, host: AgentHost, database: Database, settings: Settings
) -> Conversations:
    """Build the coordinator of the fleet's conversations, and begin its background work: drain it."""
    conversations = Conversations(
        fleet=fleet,
        host=host,
        database=database,
        checkpointer=SqlCheckpointSaver(database),
        clock=SystemClock(),
        owner=process_name(),
        settings=settings,
    )
    conversations.start()
    return conversations
