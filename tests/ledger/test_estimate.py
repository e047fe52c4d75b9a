"""What calls are expected to use: the bound by rule, and what is learned from entries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from admiralty.core.money import Nanos
from admiralty.core.values import Caller, Identity, ModelCall, Usage
from admiralty.runtime.ledger.estimate import MEDIA_TOKENS, Estimator, Expectation, extras, measure
from admiralty.runtime.ledger.prices import Extras
from admiralty.runtime.ledger.values import Entry

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")
KEY = ("f", "a", "x:y")
TOOL = {
    "type": "function",
    "function": {
        "name": "order_status",
        "description": "Tell the status of an order.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "description": "As #W1."}},
            "required": ["order_id"],
        },
    },
}


def call(*messages: BaseMessage, **values: Any) -> ModelCall:
    return ModelCall(id="call_1", caller=CALLER, messages=messages, **values)


def entry(
    into: int, out: int, *, measure: int = 1000, cost: int = 100, held: int = 100, **values: Any
) -> Entry:
    given: dict[str, Any] = {"status": "ok", "kind": "model", "model": "x:y", "id": "e", "call_id": "e"}
    usage = Usage(input_tokens=into, output_tokens=out)
    return Entry(
        caller=CALLER, usage=usage, cost=Nanos(cost), held=Nanos(held), measure=measure, **given | values
    )


def taught(*entries: Entry, **options: Any) -> Estimator:
    estimator = Estimator(**options)
    for one in entries:
        estimator.learn(one)
    return estimator


# -- by rule ---------------------------------------------------------------------------------------


@pytest.mark.requirement("money.measure")
@given(st.lists(st.text(max_size=400), max_size=6), st.text(max_size=50))
def test_the_measure_is_at_least_the_bytes_of_everything_that_is_sent(texts: list[str], more: str) -> None:
    tool_call = {"name": "f", "args": {"of": more}, "id": "c1", "type": "tool_call"}
    messages = [
        *(HumanMessage(text) for text in texts),
        AIMessage(more, tool_calls=[tool_call]),
        ToolMessage(more, tool_call_id="c1"),
        HumanMessage([{"type": "text", "text": more}, more]),
    ]
    sent = "".join(texts) + more * 5
    assert measure(call(*messages)) >= len(sent.encode("utf-8", errors="replace")) + 4 * len(messages)


@pytest.mark.requirement("money.measure")
def test_everything_that_is_added_makes_the_measure_larger() -> None:
    bare = call(HumanMessage("hi"))
    schema = {"title": "Answer", "type": "object", "properties": {"a": {"type": "string"}}}
    known = AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"}])
    called = AIMessage("", additional_kwargs={"reasoning_content": "x" * 99})
    grown = [
        replace(bare, tools=(TOOL,)),
        replace(bare, tools=(TOOL, TOOL)),
        replace(bare, output_schema=schema),
        call(HumanMessage("hi"), SystemMessage("")),
        call(HumanMessage("hi", name="ann")),
        call(HumanMessage("hi"), known),
        call(HumanMessage("hi"), called),
    ]
    assert all(measure(one) > measure(bare) for one in grown)
    assert measure(grown[1]) > measure(grown[0]) > measure(bare) + len(str(TOOL))
    assert measure(grown[6]) >= measure(grown[3]) + 99


@pytest.mark.requirement("money.measure")
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}},
        {"type": "image", "base64": "A" * 5_000_000, "mime_type": "image/png"},
        {"type": "file", "file_id": "f1"},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url"}}]},
    ],
)
def test_a_picture_counts_what_the_dearest_vendor_makes_of_it_however_many_bytes_it_has(part: Any) -> None:
    counted = measure(call(HumanMessage([part])))
    assert MEDIA_TOKENS <= counted <= MEDIA_TOKENS + 1_000


def test_a_real_tokenizer_makes_no_more_tokens_than_the_measure(llama_server: Any) -> None:

    texts = [
        "Where is my order #W123?",
        "Ünïcödé, 日本語, \N{GRINNING FACE}\N{ZERO WIDTH JOINER}",
        "a b " * 200,
    ]
    for text in texts:
        asked = call(SystemMessage("Be brief."), HumanMessage(text), tools=(TOOL,))
        told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        body = {"messages": told, "max_tokens": 1, "tools": [TOOL]}
        answer = httpx.post(f"{llama_server.base_url}/chat/completions", json=body, timeout=60).json()
        assert 0 < answer["usage"]["prompt_tokens"] <= measure(asked)


def test_what_costs_more_than_text_is_noticed() -> None:
    def marked(ttl: str | None) -> HumanMessage:
        mark = {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})
        return HumanMessage([{"type": "text", "text": "x", "cache_control": mark}])

    assert extras(call(HumanMessage("x"), tools=(TOOL,))) == Extras()
    assert extras(call(marked(None))) == Extras(caching="5m")
    assert extras(call(marked("1h"), marked("5m"))) == Extras(caching="1h")
    assert extras(call(HumanMessage("x"), tools=({**TOOL, "cache_control": {"type": "ephemeral"}},))).caching
    assert extras(call(HumanMessage([{"type": "input_audio", "input_audio": {}}]))) == Extras(audio=True)
    assert extras(call(HumanMessage([{"type": "media", "mime_type": "audio/wav"}]))) == Extras(audio=True)


# -- by experience ---------------------------------------------------------------------------------

ENTRIES = st.builds(
    entry,
    st.integers(1, 3_000),
    st.integers(0, 3_000),
    measure=st.integers(1, 2_000),
    cost=st.integers(0, 10_000),
    held=st.integers(0, 10_000),
    output_limit=st.integers(0, 2_000),
    expected_input=st.integers(0, 2_000),
    factor=st.floats(1, 8),
)
WISHES = st.none() | st.integers(1, 5_000)


@pytest.mark.requirement("money.expect")
def test_before_anything_is_known_the_rule_holds() -> None:
    fresh = Estimator(default_output=300)
    assert fresh.expect(KEY, 1000, None, None) == Expectation(
        input_tokens=1000, output_tokens=300, floor=64, factor=1.0, unproven=True
    )
    assert fresh.expect(KEY, 1000, 20, None).floor == 20
    assert fresh.expect(KEY, 1000, 5000, 250).output_tokens == 250
    assert taught(*[entry(200, 50)] * 4).expect(KEY, 1000, None, None).output_tokens == 1024
    assert fresh.known(KEY) == 0


@pytest.mark.requirement("money.expect")
def test_after_five_calls_the_next_is_expected_to_use_what_they_did() -> None:
    estimator = taught(
        *(entry(into, out) for into, out in [(200, 90), (220, 80), (240, 200), (210, 10), (200, 85)])
    )
    expected = estimator.expect(KEY, 500, None, None)
    assert expected.input_tokens == math.ceil(500 * (0.240 + 0.020))  # the most, and half the spread
    assert (expected.output_tokens, expected.floor) == (250, 85)  # a quarter above the most; the middle
    assert (expected.factor, expected.unproven, estimator.known(KEY)) == (1.0, False, 5)
    assert estimator.expect(KEY, 500, 40, None).output_tokens == 40
    assert estimator.expect(KEY, 500, 40, None).floor == 40
    assert estimator.expect(("f", "other", "x:y"), 500, None, None).unproven


@pytest.mark.requirement("money.expect")
def test_an_agent_that_always_uses_the_same_is_expected_to_use_exactly_that() -> None:
    expected = taught(*[entry(123, 16)] * 5).expect(KEY, 1000, 16, None)
    assert (expected.input_tokens, expected.output_tokens, expected.floor) == (123, 16, 16)


@pytest.mark.requirement("money.expect")
def test_answers_that_were_cut_off_get_room_to_grow() -> None:
    cut = entry(200, 100, output_limit=100)
    estimator = taught(*[cut] * 5)
    assert estimator.expect(KEY, 500, None, None).output_tokens == 250
    assert estimator.expect(KEY, 500, None, 120).output_tokens == 120
    assert taught(*[entry(200, 100, output_limit=101)] * 5).expect(KEY, 500, None, None).output_tokens == 125


@pytest.mark.requirement("money.factor")
def test_a_provider_that_counts_four_times_what_it_was_allowed_is_held_for_at_four_times() -> None:
    limits: dict[str, Any] = {"output_limit": 100, "expected_input": 200}
    first = [entry(200, 400, cost=400, held=100, **limits)] * 5
    estimator = taught(*first)
    assert estimator.expect(KEY, 1000, 100, None).factor == 4.0
    # From then on its holds are large enough; that must not make the factor forgotten.
    for _ in range(200):
        estimator.learn(entry(200, 400, cost=400, held=400, factor=4.0, **limits))
    assert estimator.known(KEY) == 64
    assert estimator.expect(KEY, 1000, 100, None).factor == pytest.approx(4.0)
    for _ in range(64):
        estimator.learn(entry(200, 100, cost=100, held=400, factor=4.0, **limits))
    assert estimator.expect(KEY, 1000, 100, None).factor == 1.0


@pytest.mark.requirement("money.factor")
def test_one_call_that_cost_too_much_is_enough_to_hold_more_for_the_next() -> None:
    expected = taught(entry(200, 50, cost=250)).expect(KEY, 1000, None, None)
    assert (expected.factor, expected.unproven, expected.input_tokens) == (2.5, True, 1000)


@pytest.mark.requirement("money.factor")
def test_bounds_of_the_first_calls_no_longer_count_once_enough_were_held_for_as_they_turned_out() -> None:
    """Input costs 1, output 10 a token; four times the output is counted, and the input is 400, not 460."""
    first = entry(400, 400, cost=4_400, held=1_460, measure=460, output_limit=100, expected_input=460)
    estimator = taught(*[first] * 5)
    bound = estimator.expect(KEY, 460, 100, None)
    assert bound.input_tokens == 400
    assert bound.factor * 1_400 > 4_600
    held = math.ceil(1_400 * bound.factor)
    values: dict[str, Any] = {"measure": 460, "output_limit": 100, "expected_input": 400}
    later = entry(400, 400, cost=4_400, held=held, factor=bound.factor, **values)
    for _ in range(4):
        estimator.learn(later)
        assert estimator.expect(KEY, 460, 100, None).factor == bound.factor
    estimator.learn(later)
    assert estimator.expect(KEY, 460, 100, None).factor * 1_400 == pytest.approx(4_400, rel=1e-3)


@pytest.mark.requirement("money.factor")
@given(
    st.integers(100, 2_000), st.integers(1, 100), st.floats(1, 6), st.floats(1, 6), st.integers(1, 40),
    st.integers(1, 300), st.floats(1, 2),
)  # fmt: skip
@settings(deadline=None)
def test_what_was_learned_of_a_provider_that_counts_too_much_is_enough_for_the_next_call(
    measured: int, share: int, times_in: float, times_out: float, ratio: int, limit: int, surplus: float
) -> None:
    """Input and output are counted several times what they are; holds were of the rule's bound at first."""
    into, out = math.ceil(measured * share / 100 * times_in), math.ceil(limit * times_out)

    def price(into: float, out: float) -> int:
        return math.ceil(into + ratio * out)

    seen = entry(
        into, out, measure=measured, cost=price(into, out), held=price(measured, limit),
        output_limit=limit, expected_input=measured,
    )  # fmt: skip
    expected = taught(*[seen] * 5).expect(KEY, math.ceil(measured * surplus), limit, None)
    held = price(expected.input_tokens, expected.output_tokens) * expected.factor
    assert held >= price(into * surplus, out) * 0.999 - expected.factor


@pytest.mark.requirement("money.expect")
@given(st.lists(ENTRIES, max_size=80), st.integers(1, 10_000), WISHES, st.none() | st.integers(1, 5_000))
def test_expectations_keep_their_bounds_whatever_was_seen(
    entries: list[Entry], measured: int, wished: int | None, ceiling: int | None
) -> None:
    estimator = taught(*entries)
    expected = estimator.expect(KEY, measured, wished, ceiling)
    assert 1 <= expected.floor <= expected.output_tokens <= (ceiling or math.inf)
    assert wished is None or expected.output_tokens == min(wished, ceiling or wished)
    assert expected.factor >= 1
    assert math.isfinite(expected.factor)
    assert expected.input_tokens >= 1
    assert expected.unproven == (len(entries) < 5)
    recent = entries[-64:]
    assert estimator.known(KEY) == len(recent)
    if expected.unproven or any(one.usage.input_tokens > one.measure for one in recent):
        assert expected.input_tokens >= measured
    else:
        assert expected.input_tokens <= measured
    if not expected.unproven:
        most = max(one.usage.input_tokens / one.measure for one in recent)
        assert expected.input_tokens >= min(measured, math.floor(measured * most))


@pytest.mark.requirement("money.expect")
@given(st.lists(ENTRIES, max_size=20), st.integers(1, 10_000), st.integers(0, 10_000), WISHES)
def test_more_input_is_never_expected_to_use_less(
    entries: list[Entry], measured: int, more: int, wished: int | None
) -> None:
    estimator = taught(*entries)
    less, greater = (estimator.expect(KEY, size, wished, None) for size in (measured, measured + more))
    assert less.input_tokens <= greater.input_tokens
    assert less.output_tokens == greater.output_tokens


@pytest.mark.requirement("money.expect")
@pytest.mark.parametrize(
    "useless",
    [
        entry(200, 50, status="error"),
        entry(200, 50, status="expired"),
        entry(200, 50, estimated=True),
        entry(200, 50, measure=0),
        entry(0, 50),
        entry(200, 50, kind="tool"),
    ],
    ids=["failed", "expired", "estimated", "without measure", "without usage", "a tool's"],
)
def test_nothing_is_learned_from_entries_that_do_not_say_what_was_used(useless: Entry) -> None:
    assert taught(*[useless] * 9).known(KEY) == 0


def test_calls_that_nothing_was_held_for_say_nothing_of_holds() -> None:
    expected = taught(*[entry(200, 50, cost=500, held=0)] * 5).expect(KEY, 1000, None, None)
    assert (expected.factor, expected.unproven) == (1.0, False)


@pytest.mark.requirement("money.expect")
def test_what_other_processes_know_takes_the_place_of_what_was_known() -> None:
    estimator = taught(*[entry(900, 500)] * 7)
    theirs = [entry(100, at, at=float(at), id=str(at)) for at in range(1, 101)]
    estimator.load(KEY, list(reversed(theirs)))  # newest first, as the ledger gives them
    assert estimator.known(KEY) == 64
    assert estimator.expect(KEY, 1000, None, None).output_tokens == 125
    for at in range(64):
        estimator.learn(entry(100, 8, at=200.0 + at))
    assert estimator.expect(KEY, 1000, None, None).output_tokens == 64
    estimator.load(KEY, [])
    assert estimator.expect(KEY, 1000, None, None).unproven


def test_only_so_many_agents_are_remembered_those_that_were_asked_for_last() -> None:
    estimator = Estimator(keys=3)
    for name in "abc":
        estimator.learn(entry(1, 1, model=name))
    estimator.expect(("f", "a", "a"), 1, None, None)
    estimator.learn(entry(1, 1, model="d"))
    assert [estimator.known(("f", "a", name)) for name in "abcd"] == [1, 0, 1, 1]
