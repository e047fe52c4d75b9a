"""Between OpenAI's chat completions and our turns: pure translation, both ways.

Knows neither HTTP nor who answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from admiralty.core.values import Event
from admiralty.runtime.api.chat_schema import UNUSED, ChatMessage, ChatRequest
from admiralty.runtime.api.errors import invalid, openai_error
from admiralty.runtime.api.pauses import waiting_result, waiting_text, waits_for_person
from admiralty.runtime.durable.values import Run

CONVERSATION_KEY = "conversation_id"
MAX_METADATA = 16_384
"""Bytes of metadata, as JSON, that a conversation carries."""

_FINISH_REASONS = frozenset({"stop", "length", "content_filter"})


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedTurn:
    """What a request asks for, in our words."""

    message: str
    """The new user message."""
    history: Sequence[BaseMessage]
    """What was said before it, for a conversation that is new to us."""
    conversation_id: str | None
    metadata: Mapping[str, str]
    ignored: Sequence[str]


def read_request(request: ChatRequest, conversation_header: str | None) -> WantedTurn:
    """Return the turn that a request asks for. Raises InvalidRequest for what a fleet cannot do."""
    _refuse_unsupported(request)
    ignored = [name for name in UNUSED if getattr(request, name) is not None]
    *earlier, last = request.messages
    where = f"messages[{len(earlier)}]"
    if last.role != "user":
        raise invalid(f"The last message must be the user's, not the {last.role}'s.", f"{where}.role")
    message = _text(last, where)
    if not message.strip():
        raise invalid("The user's message is empty.", f"{where}.content")
    history: list[BaseMessage] = []
    for index, item in enumerate(earlier):
        text = _text(item, f"messages[{index}]")
        if item.role in ("system", "developer"):
            # The fleet's prompts govern its agents; a client must not be able to replace them.
            ignored.append(f"messages[{index}]")
        elif text:
            history.append(HumanMessage(text) if item.role == "user" else AIMessage(text))
    metadata = dict(request.metadata or {})
    check_metadata(metadata)
    named = metadata.pop(CONVERSATION_KEY, None)
    if named and conversation_header and named != conversation_header:
        raise invalid(
            "X-Conversation-Id and metadata.conversation_id name two conversations.",
            f"metadata.{CONVERSATION_KEY}",
        )
    return WantedTurn(
        message=message,
        history=history,
        conversation_id=conversation_header or named or None,
        metadata=metadata,
        ignored=ignored,
    )


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for metadata too large to be carried along in every list."""
    if len(json.dumps(metadata)) > MAX_METADATA:
        raise invalid(f"The metadata is larger than {MAX_METADATA} bytes.", "metadata")


def _refuse_unsupported(request: ChatRequest) -> None:
    """Raise for what would change the answer's meaning and cannot be done here."""
    own_tools = "A fleet's agents bring their own tools; a request cannot add any. Leave it out."
    if request.n not in (None, 1):
        raise invalid("n: a turn has one answer. Leave n out, or send several requests.", "n")
    for name in ("tools", "functions"):
        if getattr(request, name):
            raise invalid(f"{name}: {own_tools}", name)
    if (request.response_format or {}).get("type", "text") != "text":
        raise invalid(
            "response_format: a fleet answers in text; declare `output` on an agent for another form.",
            "response_format",
        )
    if request.audio is not None or set(request.modalities or ()) - {"text"}:
        raise invalid("modalities: a fleet answers in text only.", "modalities")
    if request.logprobs or request.top_logprobs:
        raise invalid("logprobs: not available, as several model calls make one answer.", "logprobs")


def _text(message: ChatMessage, where: str) -> str:
    """Return a message's text. Raises InvalidRequest for other content."""
    if message.role in ("tool", "function") or message.tool_calls:
        raise invalid(
            "A fleet runs its tools itself: messages of tools and tool calls cannot be sent.",
            f"{where}.{'tool_calls' if message.tool_calls else 'role'}",
        )
    if isinstance(message.content, str):
        return message.content
    texts = []
    for index, part in enumerate(message.content or ()):
        if part.type != "text" or part.text is None:
            raise invalid(
                f"Content of type {part.type[:40]!r} is not supported: send text.",
                f"{where}.content[{index}].{'type' if part.type != 'text' else 'text'}",
            )
        texts.append(part.text)
    return "\n".join(texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer in the making: what all of its documents have in common."""

    run: Run
    model: str
    created: int
    ignored: Sequence[str]

    @property
    def id(self) -> str:
        """Id of the answer in OpenAI's style."""
        return f"chatcmpl-{self.run.id.removeprefix('run_')}"

    def whole(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer in one piece, from the run's ``done``."""
        message = {"role": "assistant", "content": done["message"], "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(done),
        }
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": usage(done),
            "admiralty": self.info(done),
        }

    def info(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """Return what we add to OpenAI's answer: see TurnInfo."""
        names = (
            "conversation_id", "run_id", "turn", "status", "agent", "cost_usd", "unpriced_calls", "seconds",
            "metadata",
        )  # fmt: skip
        return {name: done[name] for name in (*names, "approval_id") if name in done} | {
            "ignored": list(self.ignored)
        }

    def failure(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """Return what we add to an error at the end of a stream."""
        names = ("run_id", "cost_usd", "unpriced_calls")
        return {"conversation_id": self.run.conversation_id} | {
            name: error[name] for name in names if name in error
        }


def waiting_answer(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a client that knows of answers only is told while a person is waited for, as a ``done``."""
    approval = result["approval"]
    named = {"approval_id": approval["approval_id"], "agent": approval["agent"]}
    return {**result, **named, "message": waiting_text(result), "metadata": {}, "seconds": None}


@dataclass(kw_only=True)
class ChunkWriter:
    """Turns a run's events into the chunks of a streamed answer.

    Joined, the chunks end with the very text that the answer in one piece would have: what was not
    streamed (an agent with structured output does not stream) is sent before the end.
    """

    completion: Completion
    include_usage: bool
    ended: bool = False
    """Whether the client has all that it will get."""
    _costs: list[Event] = field(default_factory=list)
    _segment: list[str] = field(default_factory=list)
    """Text of the model call that is being streamed."""
    _again: str = ""
    """What was shown of a model call that is made anew, as the run was taken over."""
    _said: bool = False
    _parted: bool = True

    def opening(self) -> dict[str, Any]:
        """Return the chunk that comes first: who speaks."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the chunks that an event makes: none for most."""
        if event.type == "token":
            yield from self._text(str(event.data["text"]))
        elif event.type == "step":
            self._segment.clear()
            self._parted, self._again = False, ""
        elif event.type == "run" and event.data.get("attempt", 1) > 1:
            self._again = self._again or "".join(self._segment)
            self._segment.clear()
        elif event.type == "cost":
            self._costs.append(event)
        elif event.type == "done":
            yield from self._last(event.data)
        elif waits_for_person(event):
            self._segment.clear()
            self._parted = False
            yield from self._last(waiting_answer(waiting_result(self.completion.run, event, self._costs)))
        elif event.type == "error":
            self.ended = True
            yield {"error": openai_error(event.data), "admiralty": self.completion.failure(event.data)}

    def _last(self, done: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self.ended = True
        yield from self._rest(str(done["message"]))
        yield self._chunk({}, reason=finish_reason(done)) | {"admiralty": self.completion.info(done)}
        if self.include_usage:
            yield self._base() | {"choices": [], "usage": usage(done)}

    def _rest(self, answer: str) -> Iterator[dict[str, Any]]:
        said = "".join(self._segment)
        if said.strip() == answer.strip():
            return
        if answer.startswith(said):
            yield from self._text(answer[len(said) :])
        else:
            self._parted = False
            yield from self._text(answer)

    def _text(self, text: str) -> Iterator[dict[str, Any]]:
        if not text:
            return
        self._segment.append(text)
        if self._again:
            said = "".join(self._segment)
            if self._again.startswith(said):
                return
            same = said.startswith(self._again)
            text = said.removeprefix(self._again)
            self._parted, self._again = same, ""
        if not self._parted and self._said:
            text = f"\n\n{text}"  # a new model call begins a paragraph
        self._parted = self._said = True
        yield self._chunk({"content": text})

    def _chunk(self, delta: Mapping[str, Any], *, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = self._base() | {"choices": [choice]}
        return chunk | {"usage": None} if self.include_usage else chunk

    def _base(self) -> dict[str, Any]:
        return {
            "id": self.completion.id,
            "object": "chat.completion.chunk",
            "created": self.completion.created,
            "model": self.completion.model,
        }


def finish_reason(done: Mapping[str, Any]) -> str:
    """Return why the answer ended, in OpenAI's words."""
    reason = str(done["metadata"].get("finish_reason", "stop"))
    return reason if reason in _FINISH_REASONS else "stop"


def usage(done: Mapping[str, Any]) -> dict[str, int]:
    """Return a turn's tokens in OpenAI's words."""
    used = done["usage"]
    return {
        "prompt_tokens": used["input_tokens"],
        "completion_tokens": used["output_tokens"],
        "total_tokens": used["total_tokens"],
    }
