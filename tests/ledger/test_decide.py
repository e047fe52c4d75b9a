"""Whether a call gets its money: the decision by itself, over all states of its budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admiralty.runtime.ledger.decide import Admit, Line, Refuse, Wait, decide, price
from admiralty.runtime.ledger.values import Charge, Counter, HoldRequest

from .money import budget, request

pytestmark = pytest.mark.requirement("money.decide")

AMOUNTS = st.integers(0, 10_000)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    held = draw(AMOUNTS)
    counter = Counter(spent=draw(AMOUNTS), held=held, unproven=draw(st.integers(0, held)))
    limit = draw(st.integers(0, 30_000))
    given = budget("tenant:acme", limit, id=draw(st.text("ab", min_size=1)), hard=draw(st.booleans()))
    return Line(budget=given, charge=Charge(given.id, "", "total"), counter=counter)


@st.composite
def requests(draw: st.DrawFn) -> HoldRequest:
    wanted = draw(st.integers(0, 5_000))
    return request(
        fixed=draw(st.integers(0, 3_000)),
        per_million=draw(st.integers(0, 5_000_000)),
        wanted=wanted,
        floor=draw(st.integers(0, wanted)),
        factor=draw(st.sampled_from([1.0, 1.1, 4.0])),
        unproven=draw(st.booleans()),
    )


@pytest.mark.parametrize(("unproven", "verdict"), [(0, Admit), (133, Admit), (134, Wait), (200, Wait)])
def test_calls_of_unknown_price_are_expected_to_cost_as_much_above_their_holds_as_this_kind_has(
    unproven: int, verdict: type
) -> None:
    given = budget("tenant:acme", 1000)
    counter = Counter(held=200, unproven=unproven)
    line = Line(budget=given, charge=Charge(given.id, "", "total"), counter=counter)
    # It costs four times its quote of 100; those on their way may cost three times their holds more.
    assert isinstance(decide(request(fixed=100, factor=4.0), [line]), verdict)


@given(requests(), st.lists(lines(), max_size=4), st.booleans())
def test_what_is_admitted_fits_into_every_hard_budget_beside_what_is_spent_and_held(
    wanted: HoldRequest, state: list[Line], late: bool
) -> None:
    behind = next((line for line in state if line.budget.hard), None) if late else None
    verdict = decide(wanted, state, behind=behind)
    hard = [line for line in state if line.budget.hard]
    if isinstance(verdict, Admit):
        assert behind is None
        assert wanted.floor <= verdict.output_tokens <= wanted.wanted
        assert verdict.amount == price(wanted, verdict.output_tokens)
        for line in hard:
            assert line.counter.spent + line.counter.held + verdict.amount <= line.budget.limit
    elif isinstance(verdict, Refuse):
        # Not even if everything held came back.
        assert price(wanted, wanted.floor) > verdict.line.budget.limit - verdict.line.counter.spent
    else:
        assert all(verdict.needed <= line.budget.limit - line.counter.spent for line in hard)


@given(requests(), st.lists(lines(), max_size=4))
def test_a_call_is_made_smaller_for_what_is_spent_and_never_for_what_is_held(
    wanted: HoldRequest, state: list[Line]
) -> None:
    verdict = decide(wanted, state)
    if not isinstance(verdict, Admit) or verdict.output_tokens == wanted.wanted:
        return
    left = min(line.left for line in state if line.budget.hard)
    assert price(wanted, verdict.output_tokens + 1) > left


def test_a_call_waits_for_what_others_hold() -> None:
    line = Line(
        budget=budget("tenant:acme", 100, id="b"),
        charge=Charge("b", "", "total"),
        counter=Counter(spent=40, held=50),
    )
    assert isinstance(decide(request(fixed=60), [line]), Wait)
    assert isinstance(decide(request(fixed=61), [line]), Refuse)
    assert isinstance(decide(request(fixed=10), [line]), Admit)


def test_calls_of_unknown_price_hold_a_tenth_of_what_is_left_at_most_or_are_alone() -> None:
    def line(unproven: int) -> Line:
        return Line(
            budget=budget("tenant:acme", 1_000, id="b"),
            charge=Charge("b", "", "total"),
            counter=Counter(held=unproven, unproven=unproven),
        )

    assert isinstance(decide(request(fixed=500, unproven=True), [line(0)]), Admit)
    assert isinstance(decide(request(fixed=40, unproven=True), [line(60)]), Admit)
    assert isinstance(decide(request(fixed=41, unproven=True), [line(60)]), Wait)
    assert isinstance(decide(request(fixed=41), [line(60)]), Admit)


def test_a_soft_budget_refuses_nothing() -> None:
    line = Line(
        budget=budget("tenant:acme", 1, id="b", hard=False),
        charge=Charge("b", "", "total"),
        counter=Counter(spent=1_000),
    )
    assert isinstance(decide(request(fixed=500), [line]), Admit)
