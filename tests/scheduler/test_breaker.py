"""Circuit breakers: pure transitions, and what callers see of them."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from admiralty.core.errors import ProviderUnavailable
from admiralty.runtime.scheduler.breaker import BreakerRules, Breakers

from ..conftest import VirtualTime

RULES = BreakerRules(failures=3, window=10, pause=5, longest_pause=20)


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin, succeed, fail and are left in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.time = VirtualTime()
        self.breakers = Breakers(self.time, RULES)
        self.running: list[bool] = []
        self.row: list[float] = []  # failures since the last success

    @rule(seconds=st.floats(0, 12))
    def pass_time(self, seconds: float) -> None:
        self.time.passed += seconds

    @rule()
    def begin(self) -> None:
        wait = self.breakers.wait("p/a", "m")
        if wait > 0:
            with pytest.raises(ProviderUnavailable) as refused:
                self.breakers.admit("p/a", "m")
            assert refused.value.retry_after == pytest.approx(wait)
            assert refused.value.details["refused"] == "breaker"
            assert wait <= RULES.longest_pause
            assert len(self.row) >= RULES.failures
            return
        trial = self.breakers.admit("p/a", "m")
        if trial:
            with pytest.raises(ProviderUnavailable):  # one at a time
                self.breakers.admit("p/a", "m")
        self.running.append(trial)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["ok", "fail", "leave"]))
    def end(self, data: st.DataObject, how: str) -> None:
        trial = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if how == "ok":
            self.breakers.succeeded("p/a", "m")
            self.row = []
            assert self.breakers.wait("p/a", "m") == 0
        elif how == "fail":
            self.breakers.failed("p/a", "m", trial=trial)
            self.row.append(self.time.passed)
        else:
            self.breakers.abandoned("p/a", "m", trial=trial)

    @invariant()
    def others_are_not_concerned(self) -> None:
        assert self.breakers.wait("p/b", "m") == 0
        assert self.breakers.wait("p/a", "other") == 0


TestBreakers = BreakerMachine.TestCase


def fail(breakers: Breakers, times: int = 1) -> None:
    for _ in range(times):
        breakers.failed("p/a", "m", trial=breakers.admit("p/a", "m"))


@pytest.mark.requirement("breaker.open")
def test_it_opens_after_failures_in_a_row_tries_with_one_call_and_waits_longer_each_time(
    virtual: VirtualTime,
) -> None:
    breakers = Breakers(virtual, RULES)
    fail(breakers, 3)
    for pause in (5, 10, 20, 20):
        assert breakers.wait("p/a", "m") == pytest.approx(pause)
        virtual.passed += pause
        fail(breakers)
    virtual.passed += 20
    assert breakers.admit("p/a", "m")
    breakers.succeeded("p/a", "m")
    fail(breakers, 2)
    assert breakers.wait("p/a", "m") == 0


@pytest.mark.requirement("breaker.open")
def test_failures_far_apart_or_between_successes_do_not_open_it(virtual: VirtualTime) -> None:
    breakers = Breakers(virtual, RULES)
    for _ in range(10):
        fail(breakers)
        virtual.passed += 6
    assert breakers.wait("p/a", "m") == 0
    for _ in range(10):
        fail(breakers, 2)
        breakers.succeeded("p/a", "m")
    assert breakers.wait("p/a", "m") == 0


@pytest.mark.requirement("breaker.open")
def test_a_trial_that_is_left_or_never_ends_lets_another_try(virtual: VirtualTime) -> None:
    breakers = Breakers(virtual, RULES)
    fail(breakers, 3)
    virtual.passed += 5
    trial = breakers.admit("p/a", "m")
    assert breakers.wait("p/a", "m") == 5
    breakers.abandoned("p/a", "m", trial=trial)
    assert breakers.admit("p/a", "m")
    virtual.passed += 5
    assert breakers.admit("p/a", "m")
