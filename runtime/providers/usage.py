"""What providers say that a call used, from LangChain's ``usage_metadata``. Pure; trusts no number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from admiralty.core.values import Usage

MAX_TOKENS = 2_147_483_647
"""More than that is nonsense, and does not fit the ledger's columns."""

_TIERS = ("", "priority_", "flex_")
"""OpenAI's client puts the service tier before what it counts."""


def usage_of(message: AIMessage) -> Usage:
    """Return a message's ``usage_metadata`` as Usage; zero where the provider told nothing."""
    told = message.usage_metadata
    if told is None:
        return Usage()
    into: Mapping[str, Any] = told.get("input_token_details") or {}
    out: Mapping[str, Any] = told.get("output_token_details") or {}
    input_tokens, output_tokens = _count(told.get("input_tokens")), _count(told.get("output_tokens"))
    reasoning = _counts(out, "reasoning")
    if reasoning and _count(told.get("total_tokens")) >= input_tokens + output_tokens + reasoning:
        output_tokens += reasoning  # xAI's API counts it beside the output
    for_an_hour = _count(into.get("ephemeral_1h_input_tokens"))
    by_duration = for_an_hour + _count(into.get("ephemeral_5m_input_tokens"))
    return Usage(
        input_tokens=min(input_tokens, MAX_TOKENS),
        output_tokens=min(output_tokens, MAX_TOKENS),
        cached_tokens=_counts(into, "cache_read"),
        # langchain-anthropic tells it by duration in place of the sum, others may tell both.
        cache_write_tokens=min(max(_counts(into, "cache_creation"), by_duration), MAX_TOKENS),
        cache_write_1h_tokens=for_an_hour,
        reasoning_tokens=reasoning,
        audio_input_tokens=_count(into.get("audio")),
        audio_output_tokens=_count(out.get("audio")),
    )


def was_reported(message: AIMessage, usage: Usage) -> bool:
    """Return whether the provider told what was used: something came in, and something out for an answer."""
    if message.usage_metadata is None or usage.input_tokens == 0:
        return False
    answered = bool(message.content or message.tool_calls or message.invalid_tool_calls)
    return usage.output_tokens > 0 or not answered


def larger(one: UsageMetadata | None, other: UsageMetadata | None) -> UsageMetadata | None:
    """Return the later of two reports of one call: counts that are repeated in a stream only grow."""
    if one is None or other is None:
        return one or other
    return other if _total(other) >= _total(one) else one


def from_openai(told: Mapping[str, Any]) -> UsageMetadata:
    """Return the ``usage`` of a chat completion as LangChain has it."""
    into, out = told.get("prompt_tokens_details") or {}, told.get("completion_tokens_details") or {}
    input_tokens, output_tokens = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    return UsageMetadata(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=_count(told.get("total_tokens")) or input_tokens + output_tokens,
        input_token_details=InputTokenDetails(
            audio=_count(into.get("audio_tokens")),
            cache_read=_count(into.get("cached_tokens")),
            cache_creation=_count(into.get("cache_write_tokens")),
        ),
        output_token_details=OutputTokenDetails(
            audio=_count(out.get("audio_tokens")), reasoning=_count(out.get("reasoning_tokens"))
        ),
    )


def _total(told: UsageMetadata) -> int:
    return _count(told.get("input_tokens")) + _count(told.get("output_tokens"))


def _counts(details: Mapping[str, Any], name: str) -> int:
    return min(sum(_count(details.get(tier + name)) for tier in _TIERS), MAX_TOKENS)


def _count(value: Any) -> int:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return min(max(0, math.ceil(value)), MAX_TOKENS)
