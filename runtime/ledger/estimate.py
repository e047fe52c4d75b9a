"""What a call will use, judged before it is made: by rule at first, then by what such calls have used.

Pure: no clock, no I/O. Knows nothing of prices; what entries say of holds is a ratio here.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median_high
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from admiralty.core.values import ModelCall
from admiralty.runtime.ledger.prices import PLAIN, Extras
from admiralty.runtime.ledger.values import Entry

Key = tuple[str, str, str]
"""Fleet, agent, and the model's ``provider:name``."""

# What chat templates and vendors put around the text, generously: roles and separators; a system prompt
# of the model's own; how tools are explained to it (Anthropic: up to 530 tokens).
CALL_TOKENS = 128
MESSAGE_TOKENS = 16
TOOL_TOKENS = 32
TOOLS_TOKENS = 640

MEDIA_TOKENS = 50_000
"""For a picture, a sound or a document that is not text: vendors count by its size, which an address does
not tell. The dearest known: a large picture in OpenAI's gpt-4o-mini, 48,169."""

TEXTUAL = ("text", "tool", "function", "thinking", "reasoning", "refusal")
"""Words in the types of parts that are text."""

MIN_OUTPUT = 64
"""What an answer is allowed at least where nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What a call will use."""

    input_tokens: int
    output_tokens: int
    """What to allow."""
    floor: int
    """Output tokens below which the call is not worth making."""
    factor: float
    """By how much such calls cost more than was held for them; at least 1."""
    unproven: bool
    """Whether too few such calls have been seen to say."""


# -- by rule ---------------------------------------------------------------------------------------


def measure(call: ModelCall) -> int:
    """Return an upper bound of the tokens that a call's input counts.

    The UTF-8 bytes of all that is sent, since a byte-level tokenizer makes no more tokens than there
    are bytes, and constants for what is put around it.
    """
    total = CALL_TOKENS + MESSAGE_TOKENS * len(call.messages)
    for message in call.messages:
        total += _message(message)
    if call.tools:
        total += TOOLS_TOKENS + TOOL_TOKENS * len(call.tools)
        total += _printed(json.dumps(call.tools, default=_plain))
    if call.output_schema is not None:  # some vendors are asked for it as a tool
        total += TOOLS_TOKENS + TOOL_TOKENS + _printed(json.dumps(call.output_schema, default=_plain))
    return total


def extras(call: ModelCall) -> Extras:
    """Return what a call asks for that costs more than text: caching, sound."""
    caching: Literal["5m", "1h"] | None = None
    audio = False
    for message in call.messages:
        for part in _parts(message):
            audio = audio or "audio" in f"{part.get('type')} {part.get('mime_type')}"
            if isinstance(mark := part.get("cache_control"), Mapping):
                caching = "1h" if "1h" in (caching, mark.get("ttl")) else "5m"
    for tool in call.tools:
        if isinstance(mark := tool.get("cache_control"), Mapping):
            caching = "1h" if "1h" in (caching, mark.get("ttl")) else "5m"
    return Extras(caching=caching, audio=audio) if caching or audio else PLAIN


def _message(message: BaseMessage) -> int:
    content = message.content
    total = _bytes(content) if isinstance(content, str) else sum(map(_part, content))
    if message.name:
        total += _bytes(message.name)
    if isinstance(message, AIMessage):
        calls = [*message.tool_calls, *message.invalid_tool_calls]
        if calls:
            total += MESSAGE_TOKENS * len(calls) + _json(calls)
    elif isinstance(message, ToolMessage):
        total += _bytes(message.tool_call_id)
    if message.additional_kwargs:
        total += _json(message.additional_kwargs)
    return total


def _part(part: str | Mapping[str, Any]) -> int:
    if isinstance(part, str):
        return _bytes(part)
    kind = str(part.get("type", ""))
    if "image" in kind:  # made smaller by the vendor, so that its bytes say nothing
        return MEDIA_TOKENS
    inner = part.get("content")
    if isinstance(inner, list):  # what a tool brought, in Anthropic's form
        return MESSAGE_TOKENS + _json({**part, "content": None}) + sum(map(_part, inner))
    written = _json(part)
    return written if any(word in kind for word in TEXTUAL) else written + MEDIA_TOKENS


def _parts(message: BaseMessage) -> Iterator[Mapping[str, Any]]:
    if not isinstance(message.content, str):
        yield from (part for part in message.content if isinstance(part, Mapping))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", errors="replace"))


def _json(value: Any) -> int:
    # With non-ASCII characters escaped it is longer than any other way to write it, and its length is bytes.
    return len(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


@lru_cache(maxsize=1024)
def _printed(compact: str) -> int:
    """Return the length of a JSON text as the most wasteful chat templates print it: indented by four."""
    return len(json.dumps(json.loads(compact), indent=4))


# -- by experience ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one call used."""

    ratio: float
    """Input tokens to the measure."""
    output: int
    cut_off: bool
    factor: float
    """By how much the hold would have had to be larger; 0 if nothing was held."""
    exact: bool
    """Whether the input had been expected as it was: else the factor is a bound."""


@dataclass(frozen=True, slots=True)
class _Experience:
    """What a window of samples says."""

    count: int
    input_ratio: float
    output: int
    floor: int
    factor: float


class Estimator:
    """Learns from entries what an agent's calls to a model use.

    ``window``: how many calls are remembered of each; ``enough``: from how many on they are trusted;
    ``default_output``: what is allowed before, where nothing is wished; ``keys``: of how many agents
    and models at most something is remembered.
    """

    def __init__(
        self, *, window: int = 64, enough: int = 5, default_output: int = 1024, keys: int = 4096
    ) -> None:
        self._window = window
        self._enough = enough
        self._default_output = default_output
        self._keys = keys
        self._samples: OrderedDict[Key, deque[_Sample]] = OrderedDict()
        self._experience: dict[Key, _Experience] = {}

    def expect(self, key: Key, measure: int, wished: int | None, ceiling: int | None) -> Expectation:
        """Return what a call of ``measure`` will use.

        ``wished`` is the output that the caller asks for, ``ceiling`` what the model can give.
        """
        known = self._known(key)
        proven = known is not None and known.count >= self._enough
        output = wished
        if output is None:
            output = known.output if known is not None and proven else self._default_output
        if ceiling is not None:
            output = min(output, ceiling)
        output = max(1, output)
        into = measure
        if known is not None and proven:
            into = math.ceil(measure * known.input_ratio)
        return Expectation(
            input_tokens=into,
            output_tokens=output,
            floor=min(known.floor if known else MIN_OUTPUT, output),
            factor=known.factor if known else 1.0,
            unproven=not proven,
        )

    def learn(self, entry: Entry) -> None:
        """Remember what a call used, if its entry says it for sure."""
        sample = _sample(entry)
        if sample is None:
            return
        key = (entry.caller.fleet, entry.caller.agent, entry.model)
        self._at(key).append(sample)
        self._experience.pop(key, None)

    def load(self, key: Key, entries: Sequence[Entry]) -> None:
        """Remember ``entries``, in any order, in place of what was known of ``key``."""
        samples = self._at(key)
        samples.clear()
        in_order = sorted(entries, key=lambda entry: entry.at)
        samples.extend(sample for entry in in_order if (sample := _sample(entry)) is not None)
        self._experience.pop(key, None)

    def known(self, key: Key) -> int:
        """Return how many calls are remembered."""
        return len(self._samples.get(key, ()))

    def _at(self, key: Key) -> deque[_Sample]:
        samples = self._samples.get(key)
        if samples is None:
            samples = self._samples[key] = deque(maxlen=self._window)
            if len(self._samples) > self._keys:
                oldest, _ = self._samples.popitem(last=False)
                self._experience.pop(oldest, None)
        self._samples.move_to_end(key)
        return samples

    def _known(self, key: Key) -> _Experience | None:
        samples = self._samples.get(key)
        if not samples:
            return None
        self._samples.move_to_end(key)
        known = self._experience.get(key)
        if known is None:
            known = self._experience[key] = _experience(samples, self._enough)
        return known


def _sample(entry: Entry) -> _Sample | None:
    usage = entry.usage
    if entry.kind != "model" or entry.status != "ok" or entry.estimated:
        return None
    if entry.measure <= 0 or usage.input_tokens <= 0:
        return None
    return _Sample(
        ratio=usage.input_tokens / entry.measure,
        output=usage.output_tokens,
        cut_off=0 < entry.output_limit <= usage.output_tokens,
        factor=_shortfall(entry),
        exact=abs(entry.expected_input - usage.input_tokens) * 100 <= usage.input_tokens,
    )


def _shortfall(entry: Entry) -> float:
    """Return by how much more should have been held for a call whose input is expected as it turned out.

    A provider that counts several times the output it was allowed is held for several times. What the
    input made of it is left out: input is learned by itself, and would be counted twice.
    """
    if entry.held <= 0 or entry.cost is None:
        return 0.0
    above = entry.cost * entry.factor / entry.held
    into, expected = entry.usage.input_tokens, entry.expected_input or entry.usage.input_tokens
    overrun = entry.usage.output_tokens / entry.output_limit if entry.output_limit > 0 else 0.0
    if overrun > 1:
        # The hold that was too small had room for more input than there was; the next may have none.
        return min(overrun, above * max(1.0, expected / into))
    return above * min(1.0, expected / into)


def _experience(samples: Sequence[_Sample], enough: int) -> _Experience:
    ratios = [sample.ratio for sample in samples]
    most, least = max(ratios), min(ratios)
    spread = most - least
    ratio = most + spread / 2 if spread >= most / 100 else most
    if most <= 1:  # where the rule has held, it bounds the guess
        ratio = min(1.0, ratio)
    outputs = [sample.output for sample in samples]
    needed = max(2 * sample.output if sample.cut_off else sample.output for sample in samples)
    exact = [sample.factor for sample in samples if sample.exact]
    # Bounds of the first calls, held for by rule, would else refuse the last one that can be paid.
    factors = exact if len(exact) >= enough else [sample.factor for sample in samples]
    return _Experience(
        count=len(samples),
        input_ratio=ratio,
        output=max(MIN_OUTPUT, math.ceil(needed * 1.25)),
        floor=max(1, median_high(outputs)),
        factor=max(1.0, *factors),
    )
