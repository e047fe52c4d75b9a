"""What is decided: by the policies that ship, by one's own, and where a decision cannot be made."""

from __future__ import annotations

from typing import Any

import cedarpy
import pytest

from admiralty.core.settings import Settings
from admiralty.core.values import Access, Caller
from admiralty.fleets.support import fleet
from admiralty.runtime.policy import CedarPolicy
from admiralty.runtime.policy.context import CONVERSATION_FACTS

from .conftest import SCHEMA, PolicyOf, asked, caller, session

OFFICE = caller("")
"""Somebody who asks without an agent, by the API."""


class Fixed:
    """A clock that stands."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now


# -- the policies that ship -----------------------------------------------------------------------


@pytest.mark.requirement("policy.default")
@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (asked("model:call", "openai:x", tier="none"), True),
        (asked("model:call", "openai:x", tier="mid"), True),
        (asked("model:call", "openai:x", tier="frontier"), False),
        (asked("model:call", "openai:x", by=caller("greeter")), False),
        (asked("tool:call", "cancel"), True),
        (asked("tool:call", "delete"), False),
        (asked("tool:call", "cancel", by=caller("greeter")), False),
        (asked("tool:call", "cancel", by=caller("stranger")), False),
        (asked("memory:read", "docs"), True),
        (asked("memory:write", "docs"), False),
        (asked("release:promote", "clerk@v2", by=OFFICE), False),
        (asked("release:promote", "clerk@v2", by=caller("", admin=True)), True),
        (asked("release:promote", "clerk@v2", by=caller("clerk", admin=True)), False),
    ],
    ids=lambda value: f"{value.action}-{value.resource}" if isinstance(value, Access) else None,
)
def test_any_fleet_may_do_what_its_definition_says_and_no_more(
    access: Access, allowed: bool, policy_of: PolicyOf
) -> None:
    decision = policy_of().decide(access)
    assert decision.allowed is allowed
    assert not decision.errors
    assert decision.reasons or not allowed


@pytest.mark.requirement("policy.default")
def test_a_permit_for_everything_does_not_let_others_than_admins_promote(policy_of: PolicyOf) -> None:
    policy = policy_of({"own.cedar": "permit (principal, action, resource);"})
    told = policy.decide(asked("release:promote", "clerk@v2", by=OFFICE))
    assert told.reasons == (
        "promote-only-by-admins (default.cedar:19): Releases are promoted with an admin key.",
    )
    assert not told.allowed


@pytest.fixture(scope="module")
def desk() -> CedarPolicy:
    """The policy of the fleet that ships."""
    return CedarPolicy.of(Settings.load(), fleet)


def at_desk(agent: str = "reasoning", **identity: Any) -> Caller:
    clerk = caller(agent, **identity)
    return Caller(
        identity=clerk.identity,
        fleet="support",
        agent=agent,
        agent_version="v1",
        conversation_id="c",
        run_id="r",
    )


@pytest.mark.requirement("policy.support")
def test_the_desk_changes_nothing_before_it_knows_the_customer(desk: CedarPolicy) -> None:
    cancel = asked("tool:call", "cancel_pending_order", by=at_desk())
    told = desk.decide(cancel)
    assert not told.allowed
    assert told.reasons[0].startswith("customer-first (support.cedar:")
    assert "find them by email" in told.reasons[0]
    assert desk.decide(
        asked("tool:call", "cancel_pending_order", by=at_desk(), facts={"customer": "ann_1"})
    ).allowed
    assert not desk.decide(
        asked("tool:call", "cancel_pending_order", by=at_desk(), facts={"customer": ""})
    ).allowed
    assert desk.decide(asked("tool:call", "transfer_to_human_agents", by=at_desk())).allowed
    assert desk.decide(asked("tool:call", "find_user_id_by_email", by=at_desk(), effect="read")).allowed


@pytest.mark.requirement("policy.support")
def test_every_tool_of_the_desk_can_be_called_by_the_agents_that_have_it(desk: CedarPolicy) -> None:
    for agent in fleet.agents:
        names = {tool.name for tool in agent.tools if not isinstance(tool, str)}
        for tool in (tool for other in fleet.agents for tool in other.tools if not isinstance(tool, str)):
            access = asked(
                "tool:call",
                tool.name,
                by=at_desk(agent.name),
                effect=tool.effect,
                facts={"customer": "ann_1"},
            )
            assert desk.decide(access).allowed is (tool.name in names), (agent.name, tool.name)
        assert desk.decide(asked("model:call", "openai:x", by=at_desk(agent.name), tier=agent.tier)).allowed


# -- what cannot be decided -----------------------------------------------------------------------

PLAN = SCHEMA.replace("entity Tenant tags String", "entity Tenant = { plan: String } tags String")
FORBID_TRIAL = 'forbid (principal, action, resource) when { context.tenant.plan == "trial" };'


@pytest.mark.requirement("policy.errors_deny")
def test_a_forbid_that_reads_a_missing_attribute_denies_though_cedar_says_allow(policy_of: PolicyOf) -> None:
    heard: list[Any] = []

    def listening(*arguments: Any) -> Any:
        heard.append(cedarpy.is_authorized(*arguments))
        return heard[-1]

    files = {"schema.cedarschema": PLAN, "own.cedar": FORBID_TRIAL}
    told = policy_of(files, evaluate=listening).decide(asked())
    assert heard[0].decision is cedarpy.Decision.Allow, "Cedar skips the policy that fails"
    assert not told.allowed
    assert told.refused
    assert len(told.errors) == 1
    assert "own.cedar.1" in told.errors[0]
    assert 'Tenant::"acme"' in told.errors[0]


@pytest.mark.requirement("policy.errors_deny")
def test_an_overflow_denies(policy_of: PolicyOf) -> None:
    rule = "forbid (principal, action, resource) when { context.spent_nanos * 1000000 > 5 };"
    policy = policy_of({"own.cedar": rule})
    fine = asked(facts={CONVERSATION_FACTS: {"calls": 1, "spent_nanos": 0}})
    assert policy.decide(fine).allowed
    huge = asked(facts={CONVERSATION_FACTS: {"calls": 1, "spent_nanos": 10**15}})
    assert "overflow" in policy.decide(huge).errors[0]
    assert not policy.decide(huge).allowed


class Panic(BaseException):
    """What a crash in Cedar looks like: no Exception."""


@pytest.mark.requirement("policy.errors_deny")
@pytest.mark.parametrize("crash", [RuntimeError, Panic, MemoryError])
def test_a_crashed_evaluator_denies(crash: type[BaseException], policy_of: PolicyOf) -> None:
    def broken(*arguments: Any) -> Any:
        raise crash("gone")

    told = policy_of(evaluate=broken).decide(asked())
    assert told.refused
    assert told.errors == (f"{crash.__name__}: gone",)


@pytest.mark.requirement("policy.errors_deny")
@pytest.mark.parametrize(
    "access",
    [
        asked(by=caller(tenant="broken \ud800")),
        asked("tool:call", "cancel", effect=["a", "list"]),
        asked("model:call", "openai:x", tier="huge"),
        asked("model:call", "no colon", tier="mid\0"),
    ],
)
def test_a_question_that_makes_no_sense_is_denied(access: Access, policy_of: PolicyOf) -> None:
    policy = policy_of(
        {"own.cedar": 'permit (principal, action, resource) when { context.tenant == Tenant::"acme" };'}
    )
    told = policy.decide(access)
    assert told.refused
    assert told.errors


_TYPED = {
    "verified": "context.session.verified == false",
    "level": "context.session.level == 0",
    "name": 'context.session.name == "x"',
    "seen": 'context.session.seen.contains("x")',
}

TYPED = {
    "session.cedarschema": session("verified?: Bool, level?: Long, name?: String, seen?: Set<String>"),
    "own.cedar": "\n".join(
        f"forbid (principal, action, resource) when {{ context.session has {name} && {test} }};"
        for name, test in _TYPED.items()
    ),
}


@pytest.mark.requirement("policy.facts")
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("verified", True, ["no", 0, "false"]),
        ("level", 1, ["0", 1.5, False]),
        ("name", "y", [5, ["x"]]),
        ("seen", ["y"], ["x", [1], {"x": 1}]),
    ],
)
def test_a_fact_that_is_not_as_declared_denies_rather_than_compares_as_unequal(
    name: str, good: Any, bad: list[Any], policy_of: PolicyOf
) -> None:
    policy = policy_of(TYPED)
    assert policy.decide(asked(facts={name: good})).allowed
    assert policy.decide(asked(facts={name: None})).allowed
    for value in bad:
        told = policy.decide(asked(facts={name: value}))
        assert told.refused, value
        assert f"context.session.{name} is a {type(value).__name__}" in told.errors[0]


@pytest.mark.requirement("policy.facts")
def test_facts_that_no_policy_declares_are_no_trouble_and_can_be_asked_for_by_name(
    policy_of: PolicyOf,
) -> None:
    rule = 'forbid (principal, action, resource) when { context.facts.contains("blocked") };'
    policy = policy_of({"own.cedar": rule})
    odd = {"transfer": {"turn": 1}, "price": 1.5, "list": [None], "empty": {}, "text": "\ud800"}
    assert policy.decide(asked(facts=odd)).allowed
    assert policy.decide(asked(facts=odd | {"blocked": False})).allowed
    assert not policy.decide(asked(facts=odd | {"blocked": {"why": "fraud"}})).allowed


@pytest.mark.requirement("policy.facts")
def test_taint_and_approvals_are_empty_until_something_is_there(policy_of: PolicyOf) -> None:
    rule = (
        'forbid (principal, action, resource) when { context.taint.contains("web") } '
        'unless { context.approvals.contains("cancel") };'
    )
    policy = policy_of({"own.cedar": rule})
    assert policy.decide(asked()).allowed
    assert not policy.decide(asked(facts={"taint": ["web"]})).allowed
    assert policy.decide(asked(facts={"taint": ["web"], "approvals": ["cancel"]})).allowed
    assert policy.decide(asked(facts={"taint": "web"})).errors


@pytest.mark.requirement("policy.conversation")
def test_what_a_conversation_spent_denies_where_nobody_says_it(policy_of: PolicyOf) -> None:
    policy = policy_of({"own.cedar": "forbid (principal, action, resource) when { context.calls > 3 };"})
    assert policy.needs_conversation
    assert policy.decide(asked()).errors == ("context.calls is not known here",)
    assert not policy_of().needs_conversation


# -- who and when ---------------------------------------------------------------------------------


@pytest.mark.requirement("policy.identity")
def test_a_name_with_a_slash_is_nobody_elses(policy_of: PolicyOf) -> None:
    rule = 'forbid (principal, action, resource) unless { context has user && context.user == User::"a/b" };'
    policy = policy_of({"own.cedar": rule})
    assert policy.decide(asked(by=caller(tenant="a", user="b"))).allowed
    assert not policy.decide(asked(by=caller(tenant="a/b", user=None))).allowed
    assert not policy.decide(asked(by=caller(tenant="a/b", user="c"))).allowed
    whole = policy_of({"own.cedar": rule.replace('"a/b"', '"a/b%2Fc"')})
    assert whole.decide(asked(by=caller(tenant="a", user="b/c"))).allowed
    assert not whole.decide(asked(by=caller(tenant="a/b", user="c"))).allowed


@pytest.mark.requirement("policy.identity")
def test_what_is_remembered_of_one_caller_is_never_told_another(policy_of: PolicyOf) -> None:
    rule = """
        forbid (principal, action, resource) when { context.tags.contains("plan=trial") };
        forbid (principal == Agent::"desk.clerk", action, resource) when { principal.version == "v9" };
        forbid (principal, action, resource) when { context.tenant == Tenant::"bad" };
        forbid (principal, action == Action::"tool:call", resource) when { resource.price_nanos > 5 };
    """
    policy = policy_of({"own.cedar": rule})
    for _ in range(2):
        assert policy.decide(asked()).allowed
        assert policy.decide(asked(by=caller(tags={"plan": "pro"}))).allowed
        assert not policy.decide(asked(by=caller(tags={"plan": "trial"}))).allowed
        assert not policy.decide(asked(by=caller(tenant="bad"))).allowed
        assert not policy.decide(asked(price=6)).allowed
        later = caller()
        newer = Caller(**{name: getattr(later, name) for name in later.__slots__} | {"agent_version": "v9"})
        assert not policy.decide(asked(by=newer)).allowed


@pytest.mark.requirement("policy.identity")
def test_hours_and_weekdays_are_those_of_utc(policy_of: PolicyOf) -> None:
    rule = "forbid (principal, action, resource) when { context.weekday >= 6 || context.hour < 8 };"
    saturday, monday_night, monday = 1_795_867_200.0, 1_796_004_000.0 + 3600 * 3, 1_796_040_000.0
    seen = [
        policy_of({"own.cedar": rule}, clock=Fixed(at)).decide(asked())
        for at in (saturday, monday_night, monday)
    ]
    assert [decision.allowed for decision in seen] == [False, False, True]


@pytest.mark.requirement("policy.log_only")
def test_in_log_only_mode_a_denial_is_told_but_not_enforced(policy_of: PolicyOf) -> None:
    told = policy_of(enforced=False).decide(asked("tool:call", "delete"))
    assert (told.allowed, told.enforced, told.refused) == (False, False, False)


@pytest.mark.requirement("policy.default")
def test_reasons_name_policies_by_their_id_or_their_place(policy_of: PolicyOf) -> None:
    policy = policy_of({"own.cedar": "\n\nforbid (principal, action, resource) when { context.admin };"})
    told = policy.decide(asked(by=caller(admin=True)))
    assert told.reasons == ("own.cedar.3 (own.cedar:3)",)
    assert told.bundle == policy.bundle.hash
