"""``ctx.state`` in tools and graphs, from one fleet to another; and views that check what they hold."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, ConfigDict, Field

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.errors import (
    ConfigurationError,
    Conflict,
    DefinitionError,
    InvalidRequest,
    RunLost,
    VersionConflict,
)
from admiralty.core.settings import Settings
from admiralty.core.values import Identity
from admiralty.runtime.agents.graph import GraphContext
from admiralty.runtime.testing import ScriptedScheduler, calls
from admiralty.tools import SharedState, ToolContext, ToolExecutor, tool

from .conftest import CLERK, World


@tool(effect="write")
async def take(item: str, ctx: ToolContext) -> int:
    """Take an item from the stock.

    Args:
        item: Its name.
    """
    left = await ctx.state.update(item, lambda number: number - 1, default=10, namespace="stock")
    return int(left.value)


@tool(effect="read")
async def stock(item: str, ctx: ToolContext) -> Any:
    """Say how many of an item there are.

    Args:
        item: Its name.
    """
    return await ctx.state.within("stock").value(item)


def fleet(name: str, **agent: Any) -> Fleet:
    clerk = Agent("clerk", prompt=inline_prompt("You are a clerk."), **{"tools": [take, stock]} | agent)
    return Fleet(name, agents=[clerk], entry="clerk")


# -- in tools and graphs --------------------------------------------------------------------------


@pytest.mark.requirement("state.context")
async def test_agents_of_two_fleets_on_one_database_share_what_their_tools_write(
    database_url: str, tmp_path: Path
) -> None:
    def settings(name: str) -> Settings:
        return Settings.load(home=tmp_path / name, database_url=database_url, embedder="hashing")

    takes = ScriptedScheduler([calls(("take", {"item": "lamp"})), "Taken."])
    looks = ScriptedScheduler([calls(("stock", {"item": "lamp"})), "There are nine."] * 2)
    async with (
        fleet("shop").local(settings=settings("shop"), scheduler=takes) as shop,
        fleet("store").local(settings=settings("store"), scheduler=looks) as store,
    ):
        sold = await shop.ask("One lamp, please.")
        answer = await store.ask("How many lamps?")
        [told] = [one.data for one in answer.events if one.type == "tool" and one.data["status"] == "ok"]
        assert told["result"] == "9"
        [change] = await store.state("stock").history("lamp")
        writer = change.writer
        assert (writer.fleet, writer.agent, writer.conversation_id) == ("shop", "clerk", sold.conversation_id)
        assert writer.agent_version == takes.calls[0].caller.agent_version
    async with fleet("rival").local(
        settings=settings("rival"), scheduler=looks, identity=Identity(tenant="rival")
    ) as rival:
        assert await rival.state("stock").find() == []


@pytest.mark.requirement("state.context")
async def test_a_graphs_nodes_reach_the_state_of_whom_the_visit_is_for() -> None:
    def build(context: GraphContext) -> Any:
        async def note(_: MessagesState) -> dict[str, Any]:
            seen = await context.state.update("visits", lambda number: number + 1, default=0)
            return {"messages": [AIMessage(f"Visit {seen.value}.")]}

        graph: Any = StateGraph(MessagesState)
        graph.add_node("note", note)
        graph.add_edge(START, "note")
        graph.add_edge("note", END)
        return graph.compile()

    async with fleet("desk", graph=build, tools=[]).local(scheduler=ScriptedScheduler([])) as local:
        assert (await local.ask("Hello.")).text == "Visit 1."
        assert (await local.ask("Hello again.")).text == "Visit 2."
        assert [one.writer.agent for one in await local.state().history("visits")] == ["clerk", "clerk"]


@pytest.mark.requirement("state.context")
async def test_a_tool_called_where_there_is_no_state_is_told_so() -> None:
    context = ToolContext(caller=CLERK, call_id="c", turn=1, user_message="")
    with pytest.raises(ConfigurationError, match="ToolContext"):
        await context.state.get("k")
    outcome = await ToolExecutor([stock]).execute("stock", {"item": "lamp"}, context)
    assert outcome.failed


@pytest.mark.requirement("state.context", "state.zombies")
async def test_a_tool_whose_run_was_taken_over_ends_the_visit_not_the_models_turn(world: World) -> None:
    async def lost(*_: Any, **__: Any) -> Any:
        raise RunLost("Run run_1 was taken over by another process; nothing was written.")

    world.store.primitives.chain = lost  # type: ignore[method-assign]
    context = ToolContext(caller=CLERK, call_id="c", turn=1, user_message="", state=world.state(CLERK))
    with pytest.raises(RunLost):
        await ToolExecutor([take]).execute("take", {"item": "lamp"}, context)


# -- typed views ----------------------------------------------------------------------------------


class Item(BaseModel):
    name: str
    count: int = Field(ge=0)


class Unknown:
    """What pydantic knows nothing of."""


class Basket(BaseModel):
    model_config = ConfigDict(validate_default=True)

    items: list[Item] = Field(default_factory=list)
    since: dt.datetime | None = None
    state: Literal["open", "paid"] = Field("open", alias="status")


@pytest.mark.requirement("state.typed")
async def test_a_typed_view_gives_and_takes_models(state: SharedState) -> None:
    baskets = state.typed(Basket)
    assert await baskets.get("ann") is None
    since = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
    assert await baskets.create("ann", Basket(items=[Item(name="lamp", count=1)], since=since)) == 1

    def add(basket: Basket) -> Basket:
        basket.items.append(Item(name="tea", count=2))
        return basket

    changed = await baskets.update("ann", add)
    assert (changed.version, [item.name for item in changed.value.items]) == (2, ["lamp", "tea"])
    found = await baskets.get("ann")
    assert found is not None
    assert (found.value, found.value.since) == (changed.value, since)
    assert await state.value("ann") == {
        "items": [{"name": "lamp", "count": 1}, {"name": "tea", "count": 2}],
        "since": "2026-11-22T12:00:00Z",
        "status": "open",
    }
    assert await baskets.compare_and_set("ann", Basket(), 2) == 3
    with pytest.raises(VersionConflict):
        await baskets.compare_and_set("ann", Basket(), 2)
    started = await baskets.update("bob", add, default=Basket())
    assert [item.name for item in started.value.items] == ["tea"]
    assert [one.key for one in await baskets.find()] == ["ann", "bob"]
    assert await baskets.within("elsewhere").get("ann") is None
    assert await baskets.delete("bob", expected=1) == 2
    assert await state.typed(dict[str, float]).put("here", {"x": 1, "y": 2.5}) == 1
    with pytest.raises(DefinitionError, match="typed"):
        state.typed(Unknown)


@pytest.mark.requirement("state.typed")
async def test_what_does_not_fit_is_neither_written_nor_given_out(state: SharedState) -> None:
    baskets = state.typed(Basket)
    wrong = Basket(items=[Item(name="lamp", count=1)])
    wrong.items[0].count = -1
    with pytest.raises(InvalidRequest, match=r"no Basket: items\.0\.count"):
        await baskets.put("ann", wrong)
    with pytest.raises(InvalidRequest, match="no Basket"):
        await baskets.update("ann", lambda _: wrong, default=Basket())
    with pytest.raises(Conflict, match="nothing under 'ann' to update"):
        await baskets.update("ann", lambda basket: basket)
    assert await state.get("ann") is None

    await state.put("ann", {"items": [{"name": "lamp"}]})
    for work in (baskets.get("ann"), baskets.find(), baskets.update("ann", lambda basket: basket)):
        with pytest.raises(Conflict, match=r"under 'ann'.* is no Basket: items\.0\.count"):
            await work
    assert (await state.value("ann")) == {"items": [{"name": "lamp"}]}
