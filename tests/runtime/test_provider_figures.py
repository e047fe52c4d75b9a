"""What vendors tell beside their answers, in their own forms: usage, limits, and how long to wait."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from admiralty.core.errors import ProviderRejected, ProviderUnavailable, RateLimited
from admiralty.core.values import Usage
from admiralty.runtime.providers.rate_headers import rate_limits, retry_after
from admiralty.runtime.providers.usage import usage_of, was_reported
from admiralty.runtime.providers.vendor_errors import translate

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def message(into: Any, out: Any, total: Any = None, **details: dict[str, Any]) -> AIMessage:
    answer = AIMessage("Yes.")
    told: Any = {"input_tokens": into, "output_tokens": out, "total_tokens": total, **details}
    answer.usage_metadata = told  # as vendors' packages set it: unchecked
    return answer


@pytest.mark.requirement("providers.usage")
def test_anthropics_cache_writes_are_counted_by_how_long_they_are_kept() -> None:
    from anthropic.types import Usage as Told
    from langchain_anthropic.chat_models import _create_usage_metadata

    told = Told.model_validate(
        {
            "input_tokens": 10,
            "output_tokens": 7,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 50,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
        }
    )
    assert usage_of(AIMessage("Yes.", usage_metadata=_create_usage_metadata(told))) == Usage(
        input_tokens=160,
        output_tokens=7,
        cached_tokens=100,
        cache_write_tokens=50,
        cache_write_1h_tokens=30,
    )


@pytest.mark.requirement("providers.usage")
def test_counts_that_a_service_tier_stands_before_are_counted() -> None:
    flex = message(100, 50, 150, input_token_details={"flex_cache_read": 40, "flex": 60})
    assert usage_of(flex).cached_tokens == 40
    priority = message(100, 50, 150, output_token_details={"priority_reasoning": 30, "priority": 20})
    assert usage_of(priority).reasoning_tokens == 30


@pytest.mark.requirement("providers.usage")
def test_reasoning_that_is_counted_beside_the_output_is_added_to_it() -> None:
    details = {"reasoning": 300}
    beside, inside = (message(100, 50, total, output_token_details=details) for total in (450, 150))
    assert (usage_of(beside).output_tokens, usage_of(inside).output_tokens) == (350, 50)


@pytest.mark.requirement("providers.usage")
def test_a_provider_that_tells_nothing_or_nothing_that_can_be_is_found_out() -> None:
    silent, zeros, only_out = AIMessage("Yes."), message(0, 0, 0), message(0, 9, 9)
    for answer in (silent, zeros, only_out, message(9, 0, 9)):
        assert not was_reported(answer, usage_of(answer))
    for answer in (message(9, 1, 10), AIMessage("", usage_metadata=message(9, 0, 9).usage_metadata)):
        assert was_reported(answer, usage_of(answer))


COUNTS = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.booleans()


@given(COUNTS, COUNTS, COUNTS, st.dictionaries(st.sampled_from(["audio", "cache_read", "reasoning"]), COUNTS))
def test_nonsense_in_a_report_breaks_nothing(
    into: Any, out: Any, total: Any, details: dict[str, Any]
) -> None:
    answer = message(into, out, total, input_token_details=details, output_token_details=details)
    usage = usage_of(answer)
    for name in Usage.__dataclass_fields__:
        assert 0 <= getattr(usage, name) <= 2**31 - 1
    was_reported(answer, usage)


@pytest.mark.requirement("providers.rates")
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:59:30 GMT"}, 0.0),
        # The server's clock is an hour ahead of ours: its own date counts.
        ({"retry-after": "Sun, 22 Nov 2026 13:00:30 GMT", "date": "Sun, 22 Nov 2026 13:00:00 GMT"}, 30.0),
        ({"retry-after": "in a while"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e300"}, None),
    ],
)
def test_how_long_to_wait_is_understood_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers), NOW) == seconds


@pytest.mark.requirement("providers.rates")
def test_limits_are_understood_in_openais_and_anthropics_form() -> None:
    spans = {
        "1s": 1.0,
        "6m0s": 360.0,
        "20ms": 0.02,
        "2m59.56s": 179.56,
        "1h2m3s": 3723.0,
        "1d": 86_400.0,
        "7": 7.0,
    }
    for text, seconds in spans.items():
        headers = {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": text}
        assert rate_limits(headers, NOW)["requests_reset_seconds"] == pytest.approx(seconds)
    anthropic = {
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:10Z",
        "anthropic-ratelimit-input-tokens-remaining": "9000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:20Z",
        "anthropic-ratelimit-output-tokens-remaining": "800",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-22T12:00:30Z",
    }
    assert rate_limits(httpx.Headers(anthropic), NOW) == {
        "requests_remaining": 49.0,
        "requests_reset_seconds": 10.0,
        "tokens_remaining": 800.0,
        "tokens_reset_seconds": 30.0,
    }
    assert (
        rate_limits({"x-ratelimit-remaining-tokens": "many", "x-ratelimit-reset-tokens": "soon"}, NOW) == {}
    )
    assert rate_limits({"content-type": "text/plain"}, NOW) == {}


@given(st.text(max_size=30))
def test_no_text_in_a_header_breaks_anything(text: str) -> None:
    names = [
        "retry-after",
        "retry-after-ms",
        "date",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]
    headers = dict.fromkeys(names, text)
    waited = retry_after(headers, NOW)
    assert waited is None or waited >= 0
    assert all(value >= 0 for value in rate_limits(headers, NOW).values())


class Status(Exception):
    """As vendors' clients raise them."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__("no")
        self.status_code = status
        self.response = httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.requirement("providers.errors")
def test_an_error_inside_of_an_answer_may_have_cost_something_whatever_its_status() -> None:
    assert translate(Status(529), "a:b", NOW).details == {}
    assert translate(Status(529), "a:b", NOW, begun=True).details == {"billed": "unknown"}
    inside = translate(Status(200), "a:b", NOW)  # Anthropic's client: the status of the stream
    assert (type(inside), inside.details) == (ProviderUnavailable, {"billed": "unknown"})
    refused = translate(Status(400), "a:b", NOW)
    assert isinstance(refused, ProviderRejected)
    assert "billed" not in refused.details
    limited = translate(Status(429, retry_after_ms="40", x_ratelimit_remaining_requests="0"), "a:b", NOW)
    assert isinstance(limited, RateLimited)
    assert (limited.retry_after, limited.details) == (0.04, {"rate_limits": {"requests_remaining": 0.0}})


@pytest.mark.requirement("providers.errors")
@pytest.mark.parametrize(
    ("cause", "billed"),
    [
        (httpx.ConnectError("refused"), None),
        (httpx.ConnectTimeout("slow"), None),
        (httpx.PoolTimeout("busy"), None),
        (ConnectionRefusedError("refused"), None),
        (httpx.ReadTimeout("slow"), "unknown"),
        (httpx.RemoteProtocolError("gone"), "unknown"),
        (ConnectionResetError("gone"), "unknown"),
        (TimeoutError("slow"), "unknown"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_request_that_cannot_have_arrived_cost_nothing(cause: Exception, billed: str | None) -> None:
    wrapped = RuntimeError("Connection error.")
    wrapped.__cause__ = cause
    for error in (cause, wrapped):
        assert translate(error, "a:b", NOW).details.get("billed") == billed
