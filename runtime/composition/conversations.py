"""The coordinator of conversations, and the database."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from admiralty.agents import Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.ids import new_id
from admiralty.core.ports import AgentHost
from admiralty.runtime.conversations import Conversations
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import open_checkpointer
from admiralty.runtime.storage.conversations import ConversationStore


def process_name() -> str:
    """Return a name that no other process has, now or later: who owns a run."""
    return f"{socket.gethostname()[:30]}-{os.getpid()}-{new_id('p')[-8:]}"


async def build_conversations(
    fleet: Fleet,
    host: AgentHost,
    database: Database,
    stack: AsyncExitStack,
) -> Conversations:
    """Build the coordinator of the fleet's conversations; ``stack`` closes what it opens."""
    clock = SystemClock()
    checkpointer: BaseCheckpointSaver[Any] = await stack.enter_async_context(open_checkpointer(database.url))
    conversations = Conversations(
        fleet=fleet,
        host=host,
        store=ConversationStore(database, owner=process_name(), clock=clock),
        reports=Reports(database),
        checkpointer=checkpointer,
        clock=clock,
    )
    conversations.start()
    return conversations
