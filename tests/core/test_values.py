"""Values that everything shares: ids, money, usage, and that all of them cross process borders."""

from __future__ import annotations

import dataclasses
import pickle
import time
import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core import frozen
from admiralty.core.clock import SystemClock
from admiralty.core.ids import new_id
from admiralty.core.money import Nanos, dollars_text, format_dollars, from_dollars, to_dollars
from admiralty.core.values import (
    Caller,
    Event,
    Identity,
    Model,
    ModelCall,
    ModelReply,
    Passage,
    TokenDelta,
    Usage,
    Visit,
    VisitResult,
)

USAGE = st.builds(
    Usage,
    **{field.name: st.integers(0, 10**9) for field in dataclasses.fields(Usage)},
)


def test_ids_are_time_ordered_version_7_uuids_with_a_prefix() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id("run") for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 1000
    for name in ids:
        prefix, _, digits = name.partition("_")
        parsed = uuid.UUID(digits)
        assert (prefix, parsed.version, parsed.variant) == ("run", 7, uuid.RFC_4122)
        assert before <= parsed.int >> 80 <= after


@given(st.integers(-(10**18), 10**18))
def test_money_survives_being_written_as_dollars(nanos: int) -> None:
    amount = Nanos(nanos)
    assert from_dollars(to_dollars(amount)) == amount
    assert from_dollars(dollars_text(amount)) == amount
    assert "E" not in dollars_text(amount).upper()


@pytest.mark.parametrize(
    ("dollars", "text"), [("0", "$0"), ("1234.5", "$1,234.50"), ("0.000045", "$0.000045"), ("-2", "$-2.00")]
)
def test_money_is_shown_to_people_without_exponents(dollars: str, text: str) -> None:
    assert format_dollars(from_dollars(dollars)) == text


def test_fractions_of_a_nano_dollar_are_rounded_up() -> None:
    assert from_dollars(Decimal("0.0000000001")) == 1


@given(USAGE, USAGE)
def test_usage_adds_up_in_every_field(one: Usage, two: Usage) -> None:
    total = dataclasses.asdict(one + two)
    assert total == {key: dataclasses.asdict(one)[key] + dataclasses.asdict(two)[key] for key in total}
    assert (one + two).total_tokens == one.total_tokens + two.total_tokens


CALLER = Caller(
    identity=Identity(user="maya"), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r"
)


@pytest.mark.requirement("definitions.frozen")
@pytest.mark.parametrize(
    "value",
    [
        CALLER,
        Usage(input_tokens=1),
        Model(provider="openai", name="x", tier="small"),
        TokenDelta(text="x"),
        ModelCall(id="1", caller=CALLER, messages=(HumanMessage("hi"),), tools=({"type": "function"},)),
        ModelReply(
            message=AIMessage("hi"), model="x:y", tier="none", usage=Usage(), cost=Nanos(0), seconds=0.1
        ),
        Passage(source="policy.md", heading="A > B", text="x", start=0, end=1, score=0.5),
        Event(type="token", data={"text": "x"}),
        Visit(caller=CALLER, turn=1, messages=(HumanMessage("hi"),), session={}),
        VisitResult(messages=(AIMessage("hi"),), session={}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen_and_pickle(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    field = dataclasses.fields(value)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


def test_a_citation_names_the_document_and_the_innermost_heading() -> None:
    passage = Passage(source="policy.md", heading="Desk > Return", text="x", start=0, end=1, score=0.5)
    assert passage.citation == "[policy.md, Return]"


def test_the_system_clock_tells_wall_time_and_never_goes_back() -> None:
    clock = SystemClock()
    assert abs(clock.now() - time.time()) < 5
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.requirement("definitions.frozen")
def test_a_changed_copy_is_what_dataclasses_would_make() -> None:
    usage = Usage(input_tokens=3, output_tokens=4)
    assert frozen.replace(usage, output_tokens=9) == dataclasses.replace(usage, output_tokens=9)
    assert usage.output_tokens == 4
    with pytest.raises(AttributeError, match="no field 'outputs'"):
        frozen.replace(usage, outputs=1)
