"""Policies that ask for a person: when they do, when that would be in vain, and what the refusal tells."""

from __future__ import annotations

import pytest

from admiralty.core.errors import Denied
from admiralty.core.values import Decision
from admiralty.runtime.policy import PolicyGate
from admiralty.runtime.policy.describe import bundle_json

from .conftest import PolicyOf, asked, caller

ASKS = """
@id("person-cancels")
@message("A person must allow it.")
@approval("Cancelling cannot be undone.")
forbid (principal, action == Action::"tool:call", resource == Tool::"cancel")
unless { context.approvals.contains("person") };
"""
ASKS_TOO = """
@id("person-at-the-desk")
@approval("The desk's lead looks at writes.")
forbid (principal, action, resource in Fleet::"desk")
unless { context.approvals.containsAny(["person", "lead"]) };
"""
NEVER = """
@id("never")
forbid (principal, action == Action::"tool:call", resource == Tool::"cancel")
when { context.facts.contains("closed") };
"""


@pytest.mark.requirement("approvals.policy")
def test_a_forbid_that_a_person_may_lift_tells_why_they_are_asked(policy_of: PolicyOf) -> None:
    policy = policy_of({"own.cedar": ASKS})
    denied = policy.decide(asked())
    assert (denied.allowed, denied.approval) == (False, "Cancelling cannot be undone.")
    assert policy.decide(asked()) == denied, "also when it is remembered"
    approved = policy.decide(asked(facts={"approvals": ["user", "person"]}))
    assert (approved.allowed, approved.approval) == (True, "")
    assert policy.decide(asked("tool:call", "look")).approval == ""


@pytest.mark.requirement("approvals.policy")
def test_all_that_ask_are_told_together_and_each_once(policy_of: PolicyOf) -> None:
    again = ASKS.replace("person-cancels", "person-cancels-too")
    policy = policy_of({"own.cedar": ASKS + ASKS_TOO + again})
    told = policy.decide(asked()).approval
    assert sorted(told.split("; ")) == ["Cancelling cannot be undone.", "The desk's lead looks at writes."]


@pytest.mark.requirement("approvals.policy")
def test_nobody_is_asked_where_their_yes_would_not_help(policy_of: PolicyOf) -> None:
    policy = policy_of({"own.cedar": ASKS + NEVER})
    assert policy.decide(asked(facts={"closed": True})).approval == "", "another policy forbids it for good"
    greeter = policy.decide(asked(by=caller("greeter")))
    assert not greeter.allowed
    assert greeter.approval == "", "no policy permits it to this agent at all"
    hidden = """
        @approval("why") forbid (principal, action == Action::"tool:call", resource)
        unless { context.approvals.contains("person") && context.hour < 0 };
    """
    policy = policy_of({"own.cedar": hidden})
    assert policy.decide(asked()).approval == "", "a yes alone does not lift it"


@pytest.mark.requirement("approvals.policy")
def test_nobody_is_asked_about_a_model_call_or_what_could_not_be_decided(policy_of: PolicyOf) -> None:
    every = ASKS_TOO.replace('resource in Fleet::"desk"', "resource")
    policy = policy_of({"own.cedar": every})
    denied: Decision = policy.decide(asked("model:call", "openai:x"))
    assert (denied.allowed, denied.approval) == (False, "")
    broken = policy.decide(asked(facts={"approvals": "person"}))
    assert broken.errors
    assert broken.approval == ""


@pytest.mark.requirement("approvals.policy")
async def test_the_refusal_carries_why_a_person_is_asked(policy_of: PolicyOf) -> None:
    policy = policy_of({"own.cedar": ASKS})
    with pytest.raises(Denied) as refused:
        await PolicyGate(policy, None).check(asked())
    assert refused.value.details["approval"] == "Cancelling cannot be undone."
    with pytest.raises(Denied) as refused:
        await PolicyGate(policy, None).check(asked("tool:call", "delete"))
    assert "approval" not in refused.value.details
    (rule,) = [rule for rule in bundle_json(policy.bundle, "enforce")["policies"] if rule["approval"]]
    assert (rule["id"], rule["approval"]) == ("person-cancels", "Cancelling cannot be undone.")
