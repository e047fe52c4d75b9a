"""Who goes next, as pure decisions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admiralty.runtime.rates import FairQueue, Ticket

TENANTS = ("a", "b", "c")
tickets = st.builds(
    Ticket,
    tenant=st.sampled_from(TENANTS),
    keys=st.just(("p/k",)),
    cost=st.floats(0, 10),
    priority=st.integers(-2, 2),
)


def ticket(tenant: str, priority: int = 0, cost: float = 1.0) -> Ticket:
    return Ticket(tenant=tenant, keys=("p/k",), priority=priority, cost=cost)


def drain(queue: FairQueue) -> list[Ticket]:
    served = []
    while (first := queue.first()) is not None:
        assert queue.remove(first, served=True)
        served.append(first)
    return served


@given(st.lists(tickets, max_size=40), st.data())
@pytest.mark.requirement("rates.fair")
def test_everyone_is_served_once_and_who_left_is_not(waiting: list[Ticket], data: st.DataObject) -> None:
    queue = FairQueue()
    for each in waiting:
        queue.push(each)
    left = data.draw(st.sets(st.sampled_from(range(len(waiting)))) if waiting else st.just(set()))
    for index in left:
        assert queue.remove(waiting[index])
        assert not queue.remove(waiting[index])
    assert len(queue) == len(waiting) - len(left)
    served = drain(queue)
    assert {id(each) for each in served} == {id(e) for i, e in enumerate(waiting) if i not in left}
    assert len(queue) == 0
    assert queue.first() is None


@given(st.lists(tickets, max_size=40))
@pytest.mark.requirement("rates.fair")
def test_within_a_tenant_priority_decides_then_arrival(waiting: list[Ticket]) -> None:
    queue = FairQueue()
    for each in waiting:
        queue.push(each)
    served = drain(queue)
    arrival = {id(each): index for index, each in enumerate(waiting)}
    for tenant in TENANTS:
        own = [(-each.priority, arrival[id(each)]) for each in served if each.tenant == tenant]
        assert own == sorted(own)


@given(st.lists(tickets, min_size=1, max_size=60))
@pytest.mark.requirement("rates.fair")
def test_while_two_tenants_wait_neither_gets_more_than_one_call_ahead_of_the_other(
    waiting: list[Ticket],
) -> None:
    queue = FairQueue()
    for each in waiting:
        queue.push(each)
    given_to = dict.fromkeys(TENANTS, 0.0)
    left = {name: sum(each.tenant == name for each in waiting) for name in TENANTS}
    largest = max(each.cost for each in waiting) + 1e-6
    for each in drain(queue):
        busy = [name for name in TENANTS if left[name]]
        spread = [given_to[name] for name in busy]
        assert max(spread) - min(spread) <= largest + 1e-3
        given_to[each.tenant] += each.cost
        left[each.tenant] -= 1
        if not left[each.tenant]:  # who has no more calls waiting takes no part in the comparison
            given_to[each.tenant] = 0.0


@pytest.mark.requirement("rates.fair")
def test_a_single_call_passes_a_thousand_of_another_tenant() -> None:
    queue = FairQueue()
    for _ in range(1000):
        queue.push(ticket("busy"))
    for _ in range(10):  # of which some have had their turn
        first = queue.first()
        assert first is not None
        queue.remove(first, served=True)
    single = ticket("other")
    assert queue.ahead(single) == 1  # one of theirs at most
    queue.push(single)
    assert drain(queue).index(single) <= 1


@given(st.lists(tickets, max_size=30), tickets)
@pytest.mark.requirement("rates.fair")
def test_what_is_said_to_be_ahead_is_no_less_than_what_is_served_before_by_more_than_a_turn(
    waiting: list[Ticket], last: Ticket
) -> None:
    queue = FairQueue()
    for each in waiting:
        queue.push(each)
    expected = queue.ahead(last)
    queue.push(last)
    served = drain(queue)
    before = sum(each.cost for each in served[: served.index(last)])
    slack = sum(max((e.cost for e in waiting if e.tenant == t), default=0.0) for t in TENANTS)
    assert before <= expected + slack + 1e-3


@pytest.mark.requirement("rates.fair")
def test_nothing_is_remembered_of_those_who_have_gone() -> None:
    queue = FairQueue()
    for number in range(200):
        each = ticket(f"tenant {number}")
        queue.push(each)
        queue.remove(each, served=number % 2 == 0)
    assert vars_of(queue) == vars_of(FairQueue()) | {"_arrivals": 200}
    for a, b in pairwise([ticket("x"), ticket("y"), ticket("x")]):
        queue.push(a)
        queue.remove(a)
        assert queue.first() is None
        assert queue.ahead(b) == 0


def vars_of(queue: FairQueue) -> dict[str, object]:
    return dict(vars(queue))
