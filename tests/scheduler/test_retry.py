"""What is next after an attempt has failed: properties of the pure decision."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admiralty.core.errors import (
    AdmiraltyError,
    BudgetExceeded,
    ConfigurationError,
    DeadlineExceeded,
    Denied,
    OutputInvalid,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.values import TIERS, Model, Tier
from admiralty.runtime.scheduler.retry import Models, Patience, Step, chains, models_of, what_next

NAMES = [f"p{n}:m{n}" for n in range(6)]
ids = st.sampled_from(NAMES)
fallbacks = st.dictionaries(ids, st.lists(ids, max_size=4), max_size=6)
tables = st.builds(models_of, st.fixed_dictionaries(dict.fromkeys(TIERS, ids)), fallbacks)
tiers = st.sampled_from(TIERS)
waits = st.one_of(st.none(), st.floats(0, 1e4), st.just(math.inf), st.just(math.nan))
transient = st.one_of(
    st.builds(lambda wait: RateLimited("busy", retry_after=wait), waits),
    st.builds(lambda wait: ProviderUnavailable("down", retry_after=wait), waits),
)
refused = st.sampled_from(["queue", "breaker"]).map(lambda by: RateLimited("no", retry_after=1.0, refused=by))
final = st.sampled_from(
    [
        Denied("no"),
        OutputInvalid("no"),
        DeadlineExceeded("late"),
        ConfigurationError("wrong"),
        ProviderRejected("bad", provider_status=400),
        ProviderRejected("bad"),
    ]
)
blamed = st.sampled_from([401, 403, 404]).map(lambda status: ProviderRejected("bad", provider_status=status))
short = st.just(BudgetExceeded("no money"))
errors = st.one_of(transient, refused, final, blamed, short)
draws = st.floats(0, 1, exclude_max=True)
patiences = st.builds(Patience, attempts=st.integers(1, 9), repeats=st.integers(0, 3))


def steps(
    table: Models,
    first: Tier,
    lowest: Tier,
    failures: list[AdmiraltyError],
    draw: float = 0.5,
    left: float | None = None,
    patience: Patience | None = None,
) -> tuple[list[Model], list[Step]]:
    """Play one call whose attempts fail in this order; return what was tried, and the steps between."""
    tried, taken = [table.tiers[first]], []
    for error in failures:
        step = what_next(
            error, tried=tried, models=table, lowest=lowest, seen=False, left=left, draw=draw,
            patience=patience or Patience(),
        )  # fmt: skip
        if step is None:
            break
        taken.append(step)
        tried.append(step.model)
    return tried, taken


@given(tables, tiers, tiers, st.lists(errors, min_size=1, max_size=30), draws, patiences)
@pytest.mark.requirement("route.bounded", "route.fallback")
def test_attempts_are_bounded_and_a_model_that_was_left_is_never_asked_again(
    table: Models, first: Tier, lowest: Tier, failures: list[AdmiraltyError], draw: float, patience: Patience
) -> None:
    tried, _ = steps(table, first, lowest, failures, draw, patience=patience)
    assert len(tried) <= patience.attempts
    changes = [model.id for index, model in enumerate(tried) if index == 0 or model != tried[index - 1]]
    assert len(changes) == len(set(changes))


@given(tables, tiers, tiers, final)
@pytest.mark.requirement("route.refusals")
def test_a_refusal_or_a_fault_of_the_request_ends_the_call(
    table: Models, first: Tier, lowest: Tier, error: AdmiraltyError
) -> None:
    assert steps(table, first, lowest, [error])[1] == []


@given(tables, tiers, tiers, st.lists(short, min_size=1, max_size=5))
@pytest.mark.requirement("route.refusals", "route.lower")
def test_want_of_money_only_ever_lowers_the_tier_and_never_below_what_the_call_allows(
    table: Models, first: Tier, lowest: Tier, failures: list[AdmiraltyError]
) -> None:
    tried, taken = steps(table, first, lowest, failures)
    ranks = [TIERS.index(model.tier) for model in tried]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == len(ranks)
    for step in taken:
        assert step.model == table.tiers[step.model.tier]  # never one that stands in
        assert TIERS.index(step.model.tier) >= TIERS.index(lowest)
        assert step.pause == 0
    assert len({model.id for model in tried}) == len(tried)


@given(tables, tiers, tiers, errors, draws, st.one_of(st.none(), st.floats(-10, 100)), st.booleans())
@pytest.mark.requirement("route.deadline", "route.seen")
def test_nothing_is_tried_beyond_the_deadline_or_after_text_was_seen(
    table: Models,
    first: Tier,
    lowest: Tier,
    error: AdmiraltyError,
    draw: float,
    left: float | None,
    seen: bool,
) -> None:
    step = what_next(
        error, tried=[table.tiers[first]], models=table, lowest=lowest, seen=seen, left=left, draw=draw,
        patience=Patience(),
    )  # fmt: skip
    if seen or (left is not None and left <= 0):
        assert step is None
    if step is not None:
        assert math.isfinite(step.pause)
        assert step.pause >= 0
        assert left is None or step.pause < left


@given(tables, tiers, transient, draws, st.integers(1, 6))
@pytest.mark.requirement("route.retry")
def test_a_pause_is_never_shorter_than_asked_for_and_its_jitter_is_bounded(
    table: Models, tier: Tier, error: RateLimited, draw: float, times: int
) -> None:
    patience = Patience(attempts=9, repeats=9)
    model = table.tiers[tier]
    step = what_next(
        error, tried=[model] * times, models=table, lowest=tier, seen=False, left=None, draw=draw,
        patience=patience,
    )  # fmt: skip
    if step is None or step.model != model:
        assert error.retry_after is not None  # too long, or nonsense: nothing else makes it move on
        assert not error.retry_after <= patience.longest_pause
    else:
        jitter = step.pause - (error.retry_after or 0)
        assert -1e-6 <= jitter <= min(patience.longest_pause, patience.pause * 2 ** (times - 1)) + 1e-6


@given(fallbacks)
@pytest.mark.requirement("route.fallback")
def test_a_chain_holds_all_that_can_be_reached_once_and_never_its_start(
    named: dict[str, list[str]],
) -> None:
    for start, chain in chains(named).items():
        assert start not in chain
        assert len(set(chain)) == len(chain)
        reached, edge = {start}, [start]
        while edge:
            edge = [name for at in edge for name in named.get(at, ()) if name not in reached]
            reached.update(edge)
        assert set(chain) == reached - {start}


TABLE = models_of(
    {"none": "x:none", "small": "x:small", "mid": "x:mid", "frontier": "x:frontier"},
    {"x:mid": ["y:one", "z:two"], "z:two": ["x:mid", "y:three"]},
)


@pytest.mark.requirement("route.retry", "route.fallback")
def test_a_model_that_fails_is_asked_twice_then_each_that_stands_in_and_the_last_to_the_end() -> None:
    tried, _ = steps(TABLE, "mid", "mid", [ProviderUnavailable("down")] * 20, patience=Patience(attempts=10))
    assert [model.id for model in tried] == [
        *("x:mid", "x:mid", "y:one", "y:one", "z:two", "z:two"),
        *("y:three", "y:three", "y:three", "y:three"),
    ]
    assert {model.tier for model in tried} == {"mid"}


@pytest.mark.requirement("route.retry")
@pytest.mark.parametrize(
    ("wait", "left", "model", "pause"),
    [
        (5.0, None, "x:mid", 5.0),
        (5.0, 4.0, "y:one", 0.0),  # longer than the deadline allows: on at once
        (20.0, None, "y:one", 0.0),  # longer than one waits where another stands in
    ],
)
def test_retry_after_is_waited_for_or_another_model_is_asked_at_once(
    wait: float, left: float | None, model: str, pause: float
) -> None:
    _, (step, *_) = steps(TABLE, "mid", "mid", [RateLimited("busy", retry_after=wait)], draw=0.0, left=left)
    assert (step.model.id, step.pause) == (model, pause)
    _, alone = steps(TABLE, "small", "small", [RateLimited("busy", retry_after=wait)], draw=0.0, left=left)
    assert [step.pause for step in alone] == ([] if left else [wait])


@pytest.mark.requirement("route.fallback")
def test_what_is_refused_here_or_blames_the_account_is_not_repeated() -> None:
    for error in (
        RateLimited("full", retry_after=0.0, refused="queue"),
        ProviderUnavailable("open", retry_after=0.0, refused="breaker"),
        ProviderRejected("key", provider_status=401),
    ):
        assert steps(TABLE, "mid", "mid", [error])[0][-1].id == "y:one"
        assert steps(TABLE, "small", "small", [error])[1] == []


@pytest.mark.requirement("route.lower")
def test_a_tier_with_a_model_that_was_asked_is_skipped() -> None:
    table = models_of({"none": "x:n", "small": "x:s", "mid": "x:f", "frontier": "x:f"}, {})
    tried, _ = steps(table, "frontier", "small", [BudgetExceeded("no")] * 3)
    assert [(model.id, model.tier) for model in tried] == [("x:f", "frontier"), ("x:s", "small")]
