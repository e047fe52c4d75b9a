"""Conversations: a message becomes a run, a LangGraph graph executes it, its events are stored."""

from admiralty.runtime.conversations.live import LiveRun
from admiralty.runtime.conversations.service import Conversations

__all__ = ["Conversations", "LiveRun"]
