"""Where a decision becomes a refusal: the stage of the pipeline, and the gate behind it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core.errors import ConfigurationError, Denied
from admiralty.core.ports import AnswerStream
from admiralty.core.values import Caller, Model, ModelCall, ModelReply, Usage
from admiralty.runtime.policy import ConversationFacts, DecisionLog, PolicyGate
from admiralty.runtime.problems import problem
from admiralty.runtime.scheduler.pipeline import Attempt, Next, fold
from admiralty.runtime.scheduler.policy import PolicyStage
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import ledger

from .conftest import PolicyOf, asked, caller


@pytest.fixture
async def database(tmp_path: Any) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(Database, f"sqlite:///{tmp_path / 'test.sqlite3'}")
    yield opened
    await opened.close()


class Answers:
    """The stages behind ours: notes what reaches them."""

    def __init__(self) -> None:
        self.seen: list[Attempt] = []

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        self.seen.append(attempt)
        yield ModelReply(
            message=AIMessage("yes"), model="openai:x", tier="mid", usage=Usage(), cost=None, seconds=0.0
        )


def attempt(
    tier: Any = "mid", *, session: Mapping[str, Any] | None = None, by: Caller | None = None
) -> Attempt:
    call = ModelCall(
        id="call_1", caller=by or caller(), messages=(HumanMessage("Hello"),), session=session or {}
    )
    return Attempt(call=call, id="call_1-2", model=Model(provider="openai", name="x", tier=tier))


async def run(gate: PolicyGate, behind: Answers, asking: Attempt) -> list[Any]:
    return [chunk async for chunk in fold([PolicyStage(gate), behind])(asking)]


@pytest.mark.requirement("policy.stage")
async def test_a_permitted_call_goes_on_with_the_bundle_that_permitted_it(
    policy_of: PolicyOf, database: Database
) -> None:
    log, behind, policy = DecisionLog(database), Answers(), policy_of()
    assert len(await run(PolicyGate(policy, log), behind, attempt())) == 1
    assert behind.seen[0].policy == policy.bundle.hash
    await log.close()
    (kept,) = await log.find()
    assert (kept.decision, kept.request["id"], kept.resource) == ("allow", "call_1-2", 'Model::"openai:x"')


@pytest.mark.requirement("policy.stage", "policy.recorded")
async def test_a_denied_call_reaches_no_provider_and_its_refusal_says_why(
    policy_of: PolicyOf, database: Database
) -> None:
    rule = """@id("no-x") @message("Model x is retired.")
        forbid (principal, action, resource == Model::"openai:x");"""
    log, behind, policy = DecisionLog(database, flush_seconds=3600), Answers(), policy_of({"own.cedar": rule})
    with pytest.raises(Denied) as refused:
        await run(PolicyGate(policy, log), behind, attempt())
    assert not behind.seen
    assert [item.decision for item in await log.find()] == ["deny"], "recorded by then"
    document = problem(pickle.loads(pickle.dumps(refused.value)))
    assert (document["status"], document["code"]) == (403, "denied")
    assert "Model x is retired." in document["detail"]
    assert document["policies"] == ["no-x"]
    assert document["reasons"] == ["no-x (own.cedar:1): Model x is retired."]
    assert document["bundle"] == policy.bundle.hash
    with pytest.raises(Denied, match="No policy permits it"):
        await PolicyGate(policy, None).check(asked("tool:call", "delete"))
    await log.close()


@pytest.mark.requirement("policy.log_only", "policy.recorded")
async def test_in_log_only_mode_a_denied_call_goes_through_and_is_recorded(
    policy_of: PolicyOf, database: Database
) -> None:
    log, behind = DecisionLog(database), Answers()
    await run(PolicyGate(policy_of(enforced=False), log), behind, attempt("frontier"))
    assert len(behind.seen) == 1
    await log.close()
    (kept,) = await log.find()
    assert (kept.decision, kept.enforced) == ("deny", False)


@pytest.mark.requirement("policy.stage")
async def test_the_stage_asks_about_a_concrete_model_or_fails(policy_of: PolicyOf) -> None:
    asking = Attempt(call=attempt().call)
    with pytest.raises(ConfigurationError, match="route must come before"):
        await run(PolicyGate(policy_of(), None), Answers(), asking)


async def spend(
    database: Database, number: int, cost: int, *, kind: str = "model", tenant: str = "acme"
) -> None:
    values = {
        column.name: "" if column.type.python_type is str else 0
        for column in ledger.c
        if not column.nullable and column.name not in ("tags", "charges")
    }
    values |= {"id": f"e{number}", "kind": kind, "tenant": tenant, "cost_nanos": cost, "estimated": False}
    values |= {"conversation_id": "conv_1"}
    await database.write(
        lambda connection: connection.execute(ledger.insert(), values | {"tags": {}, "charges": []}) and None
    )


@pytest.mark.requirement("policy.conversation")
async def test_policies_read_what_the_conversation_asked_and_spent_so_far(
    policy_of: PolicyOf, database: Database
) -> None:
    rule = """
        @id("two-calls")
        forbid (principal, action == Action::"model:call", resource) when { context.calls >= 2 };
        @id("a-dollar") forbid (principal, action, resource) when { context.spent_nanos >= 1000000000 };
    """
    policy = policy_of({"own.cedar": rule})
    with pytest.raises(ConfigurationError, match="ConversationFacts"):
        PolicyGate(policy, None)
    gate = PolicyGate(policy, None, facts=ConversationFacts(database))
    await gate.check(asked())
    await spend(database, 1, 400_000_000)
    await spend(database, 2, 5_000_000_000, tenant="other")
    await spend(database, 3, 100_000_000, kind="tool")
    await run(gate, Answers(), attempt())
    await spend(database, 4, 499_999_999)
    await gate.check(asked())
    with pytest.raises(Denied, match="two-calls"):
        await run(gate, Answers(), attempt())
    await spend(database, 5, 1, kind="correction")
    with pytest.raises(Denied, match="a-dollar"):
        await gate.check(asked())


@pytest.mark.requirement("policy.conversation")
async def test_nobody_is_asked_what_no_policy_reads(policy_of: PolicyOf) -> None:
    asked_of: list[Caller] = []

    async def facts(who: Caller) -> Mapping[str, int]:
        asked_of.append(who)
        return {"calls": 0, "spent_nanos": 0}

    await PolicyGate(policy_of(), None, facts=facts).check(asked())
    assert not asked_of
    rule = 'forbid (principal, action == Action::"model:call", resource) when { context.calls > 1 };'
    gate = PolicyGate(policy_of({"own.cedar": rule}), None, facts=facts)
    await gate.check(asked())
    assert not asked_of, "only model calls depend on it"
    await gate.check(asked("model:call", "openai:x"))
    assert len(asked_of) == 1
