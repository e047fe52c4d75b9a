"""Cedar through our engine against an evaluator that knows neither, on policies and questions of chance."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admiralty.core.money import Nanos
from admiralty.core.values import Access, Caller, Identity
from admiralty.runtime.policy import CedarPolicy, load_bundle
from admiralty.runtime.policy.context import CONVERSATION_FACTS

from .conftest import AGENTS, SCHEMA, write_files
from .oracle import Ref, context_of, judge, listed, world_of

KNOWN: list[dict[str, Any]] = [
    {
        "uid": {"type": "Tenant", "id": "acme"},
        "attrs": {"plan": "pro", "level": 1},
        "tags": {"plan": "trial"},
    },
    {"uid": {"type": "Tenant", "id": "big"}, "attrs": {"plan": "trial", "level": 9}, "tags": {}},
    {"uid": {"type": "Team", "id": "acme/desk"}, "parents": [{"type": "Tenant", "id": "acme"}]},
    {"uid": {"type": "User", "id": "acme/ann"}, "parents": [{"type": "Team", "id": "acme/desk"}]},
]
"""Of other tenants nothing is known: policies that read their plan fail."""

SESSION = "type Session = { customer?: String, level?: Long, verified?: Bool, seen?: Set<String> };"

SHARED = [
    'context.tenant == Tenant::"acme"',
    'context.tenant.plan == "trial"',
    "context.tenant.level * 2305843009213693952 > 0",  # overflows above level 3
    'context.tenant.hasTag("plan") && context.tenant.getTag("plan") == "trial"',
    'context.tags.contains("plan=trial")',
    'context.tags.containsAny(["project=x", "plan=pro"])',
    'context has team && context.team == Team::"acme/desk"',
    'context has user && context.user in Team::"acme/desk"',
    'context has user && context.user in Tenant::"acme"',
    'context.session has customer && context.session.customer == "ann"',
    "context.session has level && context.session.level >= 2",
    "context.session has verified && context.session.verified",
    'context.session has seen && context.session.seen.containsAll(["a", "b"])',
    'context.facts.contains("customer")',
    'context.facts.containsAny(["level", "verified"])',
    'context.taint.contains("web")',
    'context.approvals.contains("cancel")',
    "context.admin",
    "context.hour < 12",
    "context.weekday > 5",
    "context.calls < 3",
    "context.spent_nanos >= 1000",
    "principal.rank >= 2",
    'principal.tier like "s*l"',
    'principal == Agent::"desk.clerk"',
    'principal in Fleet::"desk"',
    'action == Action::"model:call"',
    "(if context.admin then principal.rank > 1 else context.hour > 6)",
]
OF_MODELS = [
    "resource.rank <= principal.rank",
    'resource.tier == "frontier"',
    'resource.provider like "open*"',
    'resource == Model::"openai:a"',
]
OF_TOOLS = [
    '["write", "irreversible"].contains(resource.effect)',
    "principal.tools.contains(resource)",
    "resource.price_nanos + 1 > 500",
    'resource in [Tool::"look", Tool::"other"]',
    'resource in Fleet::"desk" && resource.effect != "read"',
]

ACTIONS = {
    "model:call": ('action == Action::"model:call"', [*SHARED, *OF_MODELS]),
    "tool:call": ('action == Action::"tool:call"', [*SHARED, *OF_TOOLS]),
    "both": ('action in [Action::"model:call", Action::"tool:call"]', SHARED),
}


def conditions(atoms: list[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        st.sampled_from(atoms).map(lambda atom: f"({atom})"),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda part: f"({' '.join(part)})"),
            inner.map(lambda part: f"!{part}"),
        ),
        max_leaves=4,
    )


@st.composite
def policies(draw: st.DrawFn) -> str:
    action, atoms = ACTIONS[draw(st.sampled_from(sorted(ACTIONS)))]
    effect = draw(st.sampled_from(["permit", "permit", "forbid"]))
    principal = draw(st.sampled_from(["principal", "principal is Agent", 'principal in Fleet::"desk"']))
    text = f"{effect} ({principal}, {action}, resource)"
    for _ in range(draw(st.integers(0, 2))):
        text += f" {draw(st.sampled_from(['when', 'unless']))} {{ {draw(conditions(atoms))} }}"
    return f"{text};"


FACTS = st.fixed_dictionaries(
    {},
    optional={
        "customer": st.sampled_from(["ann", "bob", ""]),
        "level": st.integers(0, 4),
        "verified": st.booleans(),
        "seen": st.lists(st.sampled_from("abc"), max_size=3),
        "taint": st.lists(st.sampled_from(["web", "mail"]), max_size=2),
        "approvals": st.just(["cancel"]),
    },
)


@st.composite
def questions(draw: st.DrawFn) -> Access:
    identity = Identity(
        tenant=draw(st.sampled_from(["acme", "big", "unknown"])),
        team=draw(st.sampled_from([None, "desk", "night"])),
        user=draw(st.sampled_from([None, "ann", "bob"])),
        tags=draw(
            st.dictionaries(st.sampled_from(["plan", "project"]), st.sampled_from(["trial", "pro", "x"]))
        ),
        admin=draw(st.booleans()),
    )
    agent = draw(st.sampled_from(["clerk", "greeter"]))
    told = {"calls": draw(st.integers(0, 5)), "spent_nanos": draw(st.sampled_from([0, 999, 1000]))}
    common: dict[str, Any] = {
        "id": "call_1",
        "caller": Caller(
            identity=identity, fleet="desk", agent=agent, agent_version="v1", conversation_id="c", run_id="r"
        ),
        "context": {**draw(FACTS), CONVERSATION_FACTS: told},
    }
    if draw(st.booleans()):
        tier = draw(st.sampled_from(["none", "small", "mid", "frontier"]))
        name = draw(st.sampled_from(["openai:a", "openai:b", "local:a"]))
        return Access(action="model:call", resource=name, attributes={"tier": tier}, **common)
    return Access(
        action="tool:call",
        resource=draw(st.sampled_from(["look", "cancel", "other"])),
        attributes={"effect": draw(st.sampled_from(["read", "write", "irreversible"]))},
        price=Nanos(draw(st.sampled_from([0, 499, 500]))),
        **common,
    )


def second_opinion(text: str, access: Access, at: float) -> Any:
    forms = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]
    facts = AGENTS[f"desk.{access.caller.agent}"]
    return judge(
        {f"rules.cedar.{number}": form for number, form in enumerate(forms.values(), 1)},
        principal=Ref("Agent", f"desk.{access.caller.agent}"),
        action=Ref("Action", access.action),
        resource=Ref("Model" if access.action == "model:call" else "Tool", access.resource),
        context=context_of(access, at, access.context[CONVERSATION_FACTS]),
        world=world_of(access, facts.tier, facts.tools, listed(KNOWN)),
    )


@pytest.mark.requirement("policy.oracle", "policy.errors_deny")
@settings(max_examples=120, deadline=None)
@given(
    rules=st.lists(policies(), min_size=1, max_size=4),
    asked=st.lists(questions(), min_size=4, max_size=12),
    at=st.integers(1_700_000_000, 1_700_000_000 + 14 * 86_400),
)
def test_every_decision_is_that_of_an_evaluator_written_apart(
    rules: list[str], asked: list[Access], at: int
) -> None:
    text = "\n".join([*rules, "permit (principal, action, resource) when { context.admin };"])
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "default.cedar": "",
            "rules.cedar": text,
            "schema.cedarschema": SCHEMA.replace(
                "entity Tenant tags String", "entity Tenant = { plan: String, level: Long } tags String"
            ),
            "session.cedarschema": SESSION,
            "entities.json": json.dumps(KNOWN),
        }
        policy = CedarPolicy(load_bundle(operator=write_files(Path(folder), files)), AGENTS)
    for access in asked:
        ours, theirs = policy.decide_at(access, at), second_opinion(text, access, at)
        assert ours.allowed == theirs.allowed, (ours, theirs)
        assert {reason.partition(" ")[0] for reason in ours.reasons} == theirs.reasons
        assert len(ours.errors) == len(theirs.failed)
        assert policy.decide_at(access, at) == ours, "asked again, it is remembered"
