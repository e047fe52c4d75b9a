"""The examples of docs/policy.md work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from admiralty.core.values import Access

from .conftest import PolicyOf, asked, caller


def blocks(root: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (root / "docs" / "policy.md").read_text(), re.M | re.S)


@pytest.mark.requirement("policy.docs")
def test_the_examples_of_the_documentation_are_a_bundle_that_does_what_it_says(
    root: Path, policy_of: PolicyOf
) -> None:
    (facts,), (listed,) = blocks(root, "cedarschema"), blocks(root, "json")
    text = "\n".join(blocks(root, "cedar"))
    ids = re.findall(r'@id\("(.*?)"\)', text)
    assert len(ids) == len(blocks(root, "cedar")) + 1 == 6
    own = 'permit (principal, action == Action::"tool:call", resource == Tool::"refund");'
    policy = policy_of(
        {
            "docs.cedar": text,
            "own.cedar": own,
            "session.cedarschema": facts,
            "entities.json": listed,
        }
    )
    noon, evening = 1_796_040_000.0, 1_796_040_000.0 + 9 * 3600
    told = {"admiralty:conversation": {"calls": 20, "spent_nanos": 0}}

    def denied(access: Access, at: float = noon) -> list[str]:
        decision = policy.decide_at(access, at)
        assert not decision.errors
        return [] if decision.allowed else [reason.partition(" ")[0] for reason in decision.reasons]

    somebody = caller(tenant="other")
    cancel = asked("tool:call", "cancel_pending_order", by=somebody)
    assert denied(cancel, evening) == ["no-cancelling-at-night"]
    wipe = asked("tool:call", "cancel", by=somebody, effect="irreversible")
    assert denied(wipe) == ["verified-only"]
    assert (
        denied(asked("tool:call", "cancel", by=somebody, effect="irreversible", facts={"verified": True}))
        == []
    )
    big = asked("model:call", "openai:x", by=somebody, tier="frontier", facts=told)
    assert denied(big) == ["long-talks-without-frontier"]
    assert denied(asked("tool:call", "look", by=caller()), evening) == ["trial-by-day"]
    assert denied(asked("tool:call", "look", by=caller())) == []
    both = ["refunds-by-a-person", "seniors-refund"]
    assert sorted(denied(asked("tool:call", "refund", by=caller(user="bob")))) == both
    yes = {"approvals": ["person"]}
    assert denied(asked("tool:call", "refund", by=caller(user="bob"), facts=yes)) == ["seniors-refund"]
    refund = asked("tool:call", "refund", by=caller(user="ann"))
    assert denied(refund) == ["refunds-by-a-person"]
    assert policy.decide_at(refund, noon).approval.startswith("Refunds are looked at by a person:")
    assert denied(asked("tool:call", "refund", by=caller(user="ann"), facts=yes)) == []
