"""Conversations: a message becomes a run, a LangGraph graph executes it, its events are stored."""

from admiralty.runtime.conversations.service import Conversations, LiveRun

__all__ = ["Conversations", "LiveRun"]
