"""Calls that a person must allow: they pause the visit, and go on as the person has decided."""

from __future__ import annotations

from typing import Any

import pytest

from admiralty.core.errors import ApprovalRequired, Denied
from admiralty.core.values import ApprovalVerdict, effect_key
from admiralty.runtime.agents.pause import Pause
from admiralty.tools import ToolContext, tool

from .world import Processes

PRICE = 2_000_000


@tool(effect="write", approval="It is money.", approval_seconds=60, approval_default="approve")
async def refund(amount: int, ctx: ToolContext, why: str = "") -> str:
    """Pay money back."""
    ctx.resources.did.append(f"refunded {amount}")
    return f"refunded {amount}"


@tool(effect="write", confirm=True, rehearse=True)
async def cancel(order: str, ctx: ToolContext) -> str:
    """Cancel an order; an old one only if a person says so."""
    if order == "none":
        return "there is none"
    if order == "old" and not ctx.approved:
        raise ApprovalRequired("It is old.", expires_seconds=5, default="reject")
    if not ctx.rehearsal:
        by = ctx.approval.by if ctx.approval else "the user"
        ctx.resources.did.append(f"cancelled {order} by {by}")
    return "cancelled"


@tool(effect="write")
async def note(text: str, ctx: ToolContext) -> str:
    """Write something down."""
    ctx.resources.did.append(text)
    return "noted"


@tool(effect="write", price="0.002")
async def stubborn(text: str) -> str:
    """Never be content."""
    raise ApprovalRequired("Again.")


def approved(**values: Any) -> ApprovalVerdict:
    return ApprovalVerdict(**{"id": "apr_1", "verdict": "approved", "by": "ann"} | values)


@pytest.mark.requirement("effects.approval")
async def test_a_tool_that_says_so_is_not_called_before_a_person_has_allowed_it(process: Processes) -> None:
    only = process(refund)
    visit = only.visit(await only.take_over())
    with pytest.raises(Pause) as paused:
        await only.call(visit, "refund", amount=30)
    wanted = paused.value.request
    assert (wanted.call_id, wanted.kind, wanted.tool) == ("call_1", "tool", "refund")
    assert (wanted.agent, wanted.agent_version) == ("clerk", "v1")
    assert (wanted.arguments, wanted.reason) == ({"amount": 30, "why": ""}, "It is money.")
    assert (wanted.expires_seconds, wanted.default) == (60, "approve")
    assert (only.world.did, await only.rows()) == ([], [])
    assert visit.noted == {}
    [asked] = only.gate.asked
    assert (asked.attributes["rehearsal"], asked.context) == (True, {"approvals": ["person"]})

    verdicts = {effect_key("call_1", wanted.digest): approved()}
    outcome = await only.call(only.visit(await only.take_over(), verdicts=verdicts), "refund", amount=30)
    assert outcome.content == "refunded 30"
    assert (only.gate.asked[-1].attributes["rehearsal"], only.gate.asked[-1].context) == (
        False, {"approvals": ["person"]},
    )  # fmt: skip
    told = await only.call(only.visit(await only.take_over(), verdicts=verdicts), "refund", amount=30)
    assert (told.content, only.world.did) == ("refunded 30", ["refunded 30"])
    with pytest.raises(Pause):
        await only.call(only.visit(3, verdicts=verdicts), "refund", amount=31)


@pytest.mark.requirement("effects.approval")
async def test_a_person_may_change_the_arguments_to_such_as_fit(process: Processes) -> None:
    only = process(refund)
    with pytest.raises(Pause) as paused:
        await only.call(only.visit(await only.take_over()), "refund", amount=30)
    key = effect_key("call_1", paused.value.request.digest)
    visit = only.visit(1, verdicts={key: approved(arguments={"amount": "ten"})})
    outcome = await only.call(visit, "refund", amount=30)
    assert outcome.status == "error"
    assert outcome.content.startswith("Error: the arguments that ann gave do not fit: amount: Input should")
    assert await only.rows() == []
    visit = only.visit(1, verdicts={key: approved(arguments={"amount": 10, "why": "half"})})
    assert (await only.call(visit, "refund", amount=30)).content == "refunded 10"
    assert (await only.row()).arguments == {"amount": 10, "why": "half"}


@pytest.mark.requirement("effects.approval")
@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ({"verdict": "rejected", "reason": "too much"}, "A person has not allowed refund: too much"),
        ({"verdict": "rejected"}, "A person has not allowed refund: no reason was given"),
        ({"verdict": "expired"}, "Nobody has allowed refund in time."),
    ],
)
async def test_what_a_person_does_not_allow_the_model_reads(
    process: Processes, verdict: dict[str, Any], text: str
) -> None:
    only = process(refund)
    with pytest.raises(Pause) as paused:
        await only.call(only.visit(await only.take_over()), "refund", amount=30)
    key = effect_key("call_1", paused.value.request.digest)
    visit = only.visit(1, verdicts={key: approved(**verdict)})
    outcome = await only.call(visit, "refund", amount=30)
    assert (outcome.status, outcome.content, outcome.ran) == ("denied", f"Error: {text}", False)
    assert isinstance(outcome.refusal, Denied)
    assert await only.rows() == []


@pytest.mark.requirement("effects.approval")
async def test_a_policy_may_ask_for_a_person(process: Processes) -> None:
    only = process(note)
    only.gate.refusal = Denied("Not without a person.", approval="It is delicate.")
    with pytest.raises(Pause) as paused:
        await only.call(only.visit(await only.take_over()), "note", text="a")
    wanted = paused.value.request
    assert (wanted.kind, wanted.reason, wanted.expires_seconds) == ("policy", "It is delicate.", None)
    verdicts = {effect_key("call_1", wanted.digest): approved()}
    refused = await only.call(only.visit(1, verdicts=verdicts), "note", text="a")
    assert refused.status == "denied", "it still says no"
    only.gate.refusal = None
    assert (await only.call(only.visit(1, verdicts=verdicts), "note", text="a")).content == "noted"
    assert only.gate.asked[-1].context == {"approvals": ["person"]}


@pytest.mark.requirement("effects.approval")
async def test_no_person_is_asked_about_what_the_policy_denies_anyhow(process: Processes) -> None:
    only = process(refund)
    only.gate.refusal = Denied("No.")
    outcome = await only.call(only.visit(await only.take_over()), "refund", amount=30)
    assert outcome.status == "denied"


@pytest.mark.requirement("effects.approval")
async def test_the_user_is_asked_before_the_person_and_the_tool_itself_may_ask(process: Processes) -> None:
    only = process(cancel)
    only.gate.refusal = Denied("Not without a person.", approval="It is delicate.")
    session: dict[str, Any] = {}
    fence = await only.take_over()
    for order in ("old", "new"):
        asked = await only.call(only.visit(fence, session=session), "cancel", order=order)
        assert asked.status == "confirmation_required", "a person is no reason not to ask the user"
    only.gate.refusal = None
    before = dict(session)
    visit = only.visit(fence, session=session, message="Yes.", turn=2)
    with pytest.raises(Pause) as paused:
        await only.call(visit, "cancel", order="old")
    wanted = paused.value.request
    assert (wanted.kind, wanted.reason, wanted.expires_seconds, wanted.default) == (
        "tool", "It is old.", 5, "reject",
    )  # fmt: skip
    assert await only.rows() == [], "it had not done anything"
    verdicts = {effect_key("call_1", wanted.digest): approved()}
    visit = only.visit(fence, session=dict(before), message="Yes.", turn=2, verdicts=verdicts)
    assert (await only.call(visit, "cancel", order="old")).content == "cancelled"
    assert only.gate.asked[-1].context == {"approvals": ["user", "person"]}
    assert only.world.did == ["cancelled old by ann"]
    changed = {effect_key("call_1", wanted.digest): approved(arguments={"order": "other"})}
    visit = only.visit(fence, session=dict(before), message="Yes.", turn=2, verdicts=changed)
    assert (await only.call(visit, "cancel", order="old")).status == "ok", "the user is not asked again"
    assert only.world.did[-1] == "cancelled other by ann"
    visit = only.visit(fence, session=dict(before), message="Yes.", turn=2)
    await only.call(visit, "cancel", "call_2", order="new")
    assert only.world.did[-1] == "cancelled new by the user"


@pytest.mark.requirement("effects.approval")
async def test_a_tool_that_asks_again_though_a_person_has_allowed_it_is_not_asked_for_ever(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    only = process(stubborn)
    with pytest.raises(Pause) as paused:
        await only.call(only.visit(await only.take_over()), "stubborn", text="a")
    verdicts = {effect_key("call_1", paused.value.request.digest): approved()}
    outcome = await only.call(only.visit(1, verdicts=verdicts), "stubborn", text="a")
    assert (outcome.status, outcome.cost) == ("denied", 0)
    assert "ctx.approved" in caplog.text
    assert await only.rows() == []
