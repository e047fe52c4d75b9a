"""Names of what a model is asked and says, the same in every execution of a run.

Models' own ids need not be unique (some always say ``call_1``), nor be there at all; and what is done once is
known by the id of the call that wished for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from admiralty.core.frozen import replace
from admiralty.core.values import ModelReply, Recorded

_ID_KEYS = ("id", "call_id", "tool_call_id")
"""Under what a message's content repeats the ids of its tool calls, depending on the provider."""


def of_visit(recorded: Recorded, number: int) -> Recorded:
    """Return what of a run's record belongs to its visit ``number``: a record may be large, and travels."""
    own = {key: entry for key, entry in recorded.replies.items() if key.startswith(f"{number}.")}
    return replace(recorded, replies=own)


def named(reply: ModelReply, run_id: str, key: str) -> ModelReply:
    """Return ``reply`` with ids that are unique in its run: of the message, and of each tool call.

    ``key`` is the reply's in the run's journal. Naming a reply again changes nothing.
    """
    message = reply.message
    changes: dict[str, Any] = {"id": reply_id(run_id, key)}
    if message.tool_calls:
        ids = [_digest("call", run_id, key, str(index)) for index in range(len(message.tool_calls))]
        calls = [{**call, "id": new} for call, new in zip(message.tool_calls, ids, strict=True)]
        changes["tool_calls"] = calls
        if isinstance(message.content, list):
            changes["content"] = _renamed(message.content, [call["id"] for call in message.tool_calls], ids)
    return replace(reply, message=message.model_copy(update=changes))


def reply_id(run_id: str, key: str) -> str:
    """Return the id of the message that answers the model call of that key."""
    return _digest("reply", run_id, key)


def call_id(run_id: str, key: str) -> str:
    """Return the id of a tool call that no model's reply has given one."""
    return _digest("call", run_id, key)


def _digest(prefix: str, *parts: str) -> str:
    # 37 characters at most: OpenAI takes 40.
    return f"{prefix}_{hashlib.sha256(':'.join(parts).encode()).hexdigest()[:32]}"


def _renamed(content: list[Any], old: list[str | None], new: list[str]) -> list[Any]:
    """Return content whose blocks name the tool calls anew, each in its turn where they were named alike."""
    left = list(zip(old, new, strict=True))
    blocks: list[Any] = []
    for block in content:
        found = _match(block, left)
        if found is None:
            blocks.append(block)
            continue
        left.remove(found)
        was, now = found
        blocks.append({k: now if k in _ID_KEYS and v == was else v for k, v in block.items()})
    return blocks


def _match(block: Any, left: list[tuple[str | None, str]]) -> tuple[str | None, str] | None:
    if not isinstance(block, Mapping):
        return None
    for was, now in left:
        if was and any(block.get(key) == was for key in _ID_KEYS):
            return was, now
    return None
