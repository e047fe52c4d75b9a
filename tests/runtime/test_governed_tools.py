"""No tool without the scheduler: asked before, paid after, in the standard loop and in users' graphs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.errors import (
    AdmiraltyError,
    BudgetExceeded,
    Denied,
    OutputInvalid,
    ProviderUnavailable,
    RateLimited,
    Retryable,
)
from admiralty.core.values import Access, CallStatus, Event, Grant, ModelCall
from admiralty.runtime.testing import Answer, ScriptedScheduler, calls
from admiralty.tools import ToolContext, ToolError, tool

SEARCH_PRICE = 2_000_000


class Desk:
    """What the tools of a test have done."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.entered = asyncio.Event()


@tool(effect="read")
async def look(what: str, ctx: ToolContext) -> str:
    """Look at something."""
    ctx.resources.ran.append(what)
    ctx.session["customer"] = "ann"
    ctx.session["basket"] = {"nested": 1}
    return what


@tool(effect="read", price="0.002", timeout=0.05)
async def search(query: str, ctx: ToolContext) -> str:
    """Search the web, for money."""
    ctx.resources.ran.append(query)
    ctx.resources.entered.set()
    if query == "nothing":
        raise ToolError("There is nothing.")
    if query == "broken":
        raise RuntimeError("a bug")
    if query == "slow":
        await asyncio.Event().wait()
    return "x" * 70_000 if query == "long" else f"found {query}"


@tool(effect="read", price="0.002")
async def deep_search(query: str, ctx: ToolContext) -> str:
    """Search for as long as it takes."""
    ctx.resources.entered.set()
    await asyncio.Event().wait()
    return query


@tool(effect="irreversible", price="1", confirm=True, rehearse=True)
async def order(item: str, ctx: ToolContext) -> str:
    """Order something."""
    if item == "unicorn":
        raise ToolError("There are no unicorns.")
    if not ctx.rehearsal:
        ctx.resources.ran.append(item)
    return "ordered"


@tool(effect="read")
async def read_policy(query: str, ctx: ToolContext) -> str:
    """Read the policy."""
    assert ctx.memory is not None
    return "\n".join(passage.text for passage in await ctx.memory.search("policy", query))


TOOLS = [look, search, deep_search, order, read_policy]


def prebuilt(context: Any) -> Any:
    return create_agent(context.model, context.tools)


@pytest.fixture(params=["standard loop", "graph"])
def desk(request: pytest.FixtureRequest, tmp_path: Any) -> Fleet:
    """A fleet of one clerk, who runs the standard loop or a graph of his own."""
    (tmp_path / "policy.md").write_text("# Returns\n\nWithin 30 days.\n")
    shared = Desk()
    clerk = Agent(
        "clerk",
        prompt=inline_prompt("You are a clerk."),
        tools=TOOLS,
        tier="mid",
        lowest_tier="mid",
        priority=7,
        graph=prebuilt if request.param == "graph" else None,
    )
    return Fleet(
        "desk",
        agents=[clerk],
        entry="clerk",
        setup=lambda context: shared,
        knowledge={"policy": [tmp_path / "policy.md"]},
    )


def refusing(*names: str, error: AdmiraltyError) -> Callable[[Access], AdmiraltyError | None]:
    return lambda access: error if access.resource in names else None


def only(events: Any, kind: str) -> list[Any]:
    return [event.data for event in events if event.type == kind]


def last_result(call: ModelCall) -> ToolMessage:
    message = call.messages[-1]
    assert isinstance(message, ToolMessage)
    return message


@pytest.mark.requirement("access.tools", "agents.lowest_tier")
async def test_every_tool_call_is_asked_for_before_it_runs_with_the_facts_of_its_conversation(
    desk: Fleet,
) -> None:
    scheduler = ScriptedScheduler([calls(("look", {"what": "a"})), calls(("look", {"what": "b"})), "Done."])
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Look!")
    first, second = scheduler.accesses
    assert (first.action, first.resource, first.attributes["effect"]) == ("tool:call", "look", "read")
    assert (first.caller.agent, first.caller.conversation_id) == ("clerk", answer.conversation_id)
    assert (first.priority, first.price, first.deadline is not None) == (7, 0, True)
    assert first.id != second.id
    assert first.context == {}
    assert second.context == {"customer": "ann"}, "what is nested is no fact"
    assert scheduler.settled == [], "what costs nothing is not settled"
    for asked in scheduler.calls:
        assert (asked.tier, asked.lowest_tier, asked.priority) == ("mid", "mid", 7)
        assert asked.effects["order"] == "irreversible"
    assert scheduler.calls[-1].session == {"customer": "ann"}


@pytest.mark.requirement("access.denied")
async def test_a_denied_tool_does_not_run_and_the_model_reads_why(desk: Fleet) -> None:
    deny = refusing("look", error=Denied("The policy does not permit it (after-hours).", reasons=["x"]))
    scheduler = ScriptedScheduler([calls(("look", {"what": "a"})), "I may not."], deny=deny)
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Look!")
        assert local.resources.ran == []
    assert answer.text == "I may not."
    told = last_result(scheduler.calls[-1])
    assert (told.status, told.text) == ("error", "Error: The policy does not permit it (after-hours).")
    started, ended = only(answer.events, "tool")
    assert (started["status"], ended["status"]) == ("started", "denied")
    assert (ended["error"]["code"], ended["error"]["status"], ended["error"]["reasons"]) == (
        "denied",
        403,
        ["x"],
    )


@pytest.mark.requirement("access.paid", "cost.tools")
async def test_a_priced_tool_is_paid_when_it_ran_and_its_cost_is_told(desk: Fleet) -> None:
    scheduler = ScriptedScheduler([calls(("search", {"query": "lamps"})), "Found."])
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Search!")
    [access] = scheduler.accesses
    assert access.price == SEARCH_PRICE
    [(grant, status)] = scheduler.settled
    assert (grant.access, status) == (access, "ok")
    [cost] = [data for data in only(answer.events, "cost") if "tool" in data]
    assert (cost["agent"], cost["tool"], cost["cost_usd"]) == ("clerk", "search", "0.002")
    assert cost["call_id"] == only(answer.events, "tool")[0]["call_id"]
    assert answer.cost_usd == "0.002002", "the tool and two model calls"


@pytest.mark.requirement("access.paid")
@pytest.mark.parametrize(
    ("query", "status", "costs"),
    [
        ("nothing", "error", 0),
        ("broken", "error", 0),
        ("long", "ok", 1),  # it ran: that we cannot use what it says is not its fault
        ("slow", "cancelled", 1),  # nobody knows what it did
    ],
)
async def test_a_tool_that_failed_costs_nothing_and_one_that_was_broken_off_may_have(
    desk: Fleet, query: str, status: CallStatus, costs: int
) -> None:
    scheduler = ScriptedScheduler([calls(("search", {"query": query})), "Sorry."])
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Search!")
    [(_, settled)] = scheduler.settled
    assert settled == status
    assert len([data for data in only(answer.events, "cost") if "tool" in data]) == costs
    assert last_result(scheduler.calls[-1]).status == "error"


@pytest.mark.requirement("access.budget")
async def test_a_tool_that_no_budget_pays_for_does_not_run_and_the_model_reads_why(desk: Fleet) -> None:
    short = BudgetExceeded("The budget is spent.", scope="tenant:default", limit_usd="1", spent_usd="1")
    scheduler = ScriptedScheduler(
        [calls(("search", {"query": "x"})), "No money."], deny=refusing("search", error=short)
    )
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Search!")
        assert local.resources.ran == []
    assert last_result(scheduler.calls[-1]).text == "Error: The budget is spent."
    ended = only(answer.events, "tool")[-1]
    assert (ended["status"], ended["error"]["code"]) == ("budget_exceeded", "budget_exceeded")
    assert (ended["error"]["scope"], ended["error"]["limit_usd"]) == ("tenant:default", "1")
    assert scheduler.settled == []


@pytest.mark.requirement("access.tools")
async def test_what_else_goes_wrong_at_the_scheduler_ends_the_turn(desk: Fleet) -> None:
    deny = refusing("look", error=RateLimited("Too much at once.", retry_after=2.0))
    scheduler = ScriptedScheduler([calls(("look", {"what": "a"})), "Done."], deny=deny)
    async with desk.local(scheduler=scheduler) as local:
        events = [event async for event in local.stream("Look!")]
        assert local.resources.ran == []
    assert (events[-1].data["code"], events[-1].data["retry_after"]) == ("rate_limited", 2.0)
    assert events[-1].data["cost_usd"] == "0.000001", "the model call that wished for the tool"


@pytest.mark.requirement("access.tools")
async def test_what_cannot_run_is_not_asked_for(desk: Fleet) -> None:
    wishes = calls(("look", {"where": "here"}))
    scheduler = ScriptedScheduler([wishes, "Sorry."])
    async with desk.local(scheduler=scheduler) as local:
        await local.ask("Look!")
    assert scheduler.accesses == []
    assert "Error" in last_result(scheduler.calls[-1]).text


@pytest.mark.requirement("access.confirm")
async def test_money_is_held_only_once_the_user_has_confirmed(desk: Fleet) -> None:
    wish = calls(("order", {"item": "lamp"}))
    scheduler = ScriptedScheduler([wish, "Shall I?", wish, "Done."])
    async with desk.local(scheduler=scheduler) as local:
        first = await local.ask("Order a lamp.")
        assert only(first.events, "tool")[-1]["status"] == "confirmation_required"
        [asking] = scheduler.accesses
        assert (asking.price, asking.attributes["rehearsal"]) == (0, True)
        assert asking.context["approvals"] == ["user"], "as if: nobody is asked in vain"
        second = await local.ask("Yes.", conversation=first.conversation_id)
        assert local.resources.ran == ["lamp"]
    _, made = scheduler.accesses
    assert (made.price, made.attributes["rehearsal"]) == (1_000_000_000, False)
    assert made.context["approvals"] == ["user"]
    assert [status for _, status in scheduler.settled] == ["ok"]
    assert second.cost_usd == "1.000002"


@pytest.mark.requirement("access.confirm")
async def test_nobody_is_asked_to_confirm_what_the_policy_denies(desk: Fleet) -> None:
    scheduler = ScriptedScheduler(
        [calls(("order", {"item": "lamp"})), "I may not."], deny=refusing("order", error=Denied("No."))
    )
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Order a lamp.")
    assert only(answer.events, "tool")[-1]["status"] == "denied"


@pytest.mark.requirement("access.memory")
async def test_a_corpus_is_asked_for_before_it_is_read(desk: Fleet) -> None:
    wish = calls(("read_policy", {"query": "returns"}))
    scheduler = ScriptedScheduler([wish, "30 days."])
    async with desk.local(scheduler=scheduler) as local:
        await local.ask("May I return it?")
    assert [(access.action, access.resource) for access in scheduler.accesses] == [
        ("tool:call", "read_policy"),
        ("memory:read", "policy"),
    ]
    assert "30 days" in last_result(scheduler.calls[-1]).text
    scheduler = ScriptedScheduler(
        [wish, "I may not."], deny=refusing("policy", error=Denied("Not that corpus."))
    )
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("May I return it?")
    assert last_result(scheduler.calls[-1]).text == "Error: Not that corpus."
    assert only(answer.events, "tool")[-1]["status"] == "denied"


class SlowGrants(ScriptedScheduler):
    """Answers priced accesses when a test says so; settling fails where it is told to."""

    def __init__(self, answers: Any, *, broken: bool = False) -> None:
        super().__init__(answers)
        self.asked, self.go, self.paid = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.broken = broken

    async def authorize(self, access: Access) -> Grant:
        self.asked.set()
        await self.go.wait()
        return await super().authorize(access)

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        if self.broken:
            raise Retryable("The ledger is away.")
        await super().settle(grant, status=status, seconds=seconds, outcome=outcome)
        self.paid.set()


async def begun(local: Any) -> Any:
    conversation = await local.conversations.create(local.identity)
    return await local.conversations.say(local.identity, conversation.id, "Search!")


@pytest.mark.requirement("access.cancelled")
async def test_a_turn_that_ends_while_its_tool_runs_pays_for_the_tool(desk: Fleet) -> None:
    scheduler = SlowGrants([calls(("deep_search", {"query": "x"}))])
    scheduler.go.set()
    async with desk.local(scheduler=scheduler) as local:
        live = await begun(local)
        await asyncio.wait_for(local.resources.entered.wait(), 5)
        live.cancel()
        await asyncio.wait_for(scheduler.paid.wait(), 5)
    assert [status for _, status in scheduler.settled] == ["cancelled"]


@pytest.mark.requirement("access.cancelled")
async def test_a_turn_that_ends_before_its_tool_began_gives_the_money_back(desk: Fleet) -> None:
    scheduler = SlowGrants([calls(("deep_search", {"query": "x"}))])
    async with desk.local(scheduler=scheduler) as local:
        live = await begun(local)
        await asyncio.wait_for(scheduler.asked.wait(), 5)
        live.cancel()
        assert [event async for event in live.follow()][-1].data["code"] == "cancelled"
        scheduler.go.set()
        await asyncio.wait_for(scheduler.paid.wait(), 5)
        assert not local.resources.entered.is_set()
    assert [status for _, status in scheduler.settled] == ["error"]


@pytest.mark.requirement("access.paid")
async def test_what_a_tool_found_is_not_lost_when_it_cannot_be_paid_at_once(desk: Fleet) -> None:
    scheduler = SlowGrants([calls(("search", {"query": "lamps"})), "Found."], broken=True)
    scheduler.go.set()
    async with desk.local(scheduler=scheduler) as local:
        answer = await local.ask("Search!")
    assert (answer.text, answer.cost_usd) == ("Found.", "0.002002")


@pytest.mark.requirement("cost.failed")
@pytest.mark.parametrize("kind", ["unavailable", "invalid"])
async def test_a_turn_that_failed_tells_what_it_cost(desk: Fleet, kind: str) -> None:
    def script(call: ModelCall) -> Answer:
        if not isinstance(call.messages[-1], ToolMessage):
            return calls(("search", {"query": "lamps"}))
        if kind == "invalid":
            return OutputInvalid("broken off", cost_usd="0.5")
        return ProviderUnavailable("The provider went away.", cost_usd="0.5", model="x:y")

    async with desk.local(scheduler=ScriptedScheduler(script)) as local:
        events: list[Event] = [event async for event in local.stream("Search!")]
    error = events[-1]
    assert error.type == "error"
    assert error.data["cost_usd"] == "0.502001"
    assert error.data["agent"] == "clerk"
    assert [data["cost_usd"] for data in only(events, "cost")] == ["0.000001", "0.002", "0.5"]
