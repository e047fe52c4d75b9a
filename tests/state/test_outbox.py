"""A tool call and what it writes to shared state, kept together: done once, or not at all."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, ToolMessage

from admiralty.agents import Agent, Fleet, inline_prompt
from admiralty.core.errors import InvalidRequest, RunLost, VersionConflict
from admiralty.core.ports import AnswerStream
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, EffectCall, ModelCall, ModelReply, Usage
from admiralty.runtime.effects.outbox import OutboxEffect
from admiralty.runtime.effects.values import row_of
from admiralty.runtime.local import open_local
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.runtime.storage.tables import effects
from admiralty.runtime.testing import calls
from admiralty.tools import OUTBOX, ToolContext, tool
from admiralty.tools.state import Transaction

from .conftest import CLERK, World
from .test_store import put_run

CALLER = dataclasses.replace(CLERK, fence=2)
CALL = EffectCall(call_id="call_1", digest="d", arguments={"item": "lamp"})


async def take_one(transaction: Transaction) -> str:
    left = await transaction.get("lamp", 10) - 1
    transaction.put("lamp", left)
    return f"{left} are left."


def effect_of(world: World, caller: Any = CALLER) -> OutboxEffect:
    return OutboxEffect(caller, CALL, world.clock, lambda result: {"status": "ok", "content": result})


async def begin(world: World) -> None:
    await put_run(world.database, fence=2)
    row = row_of(CALLER, CALL, tool="take", effect="write", at=0.0)
    await world.database.write(lambda connection: connection.execute(effects.insert(), row) and None)


async def kept(world: World) -> tuple[str, Any]:
    def work(connection: sa.Connection) -> tuple[str, Any]:
        row = connection.execute(sa.select(effects)).mappings().one()
        return row["status"], row["outcome"]

    return await world.database.read(work)


@pytest.mark.requirement("state.outbox")
async def test_a_call_is_completed_with_what_it_writes_and_not_a_second_time(world: World) -> None:
    await begin(world)
    state = world.state(CALLER)
    assert await state.transact(take_one, effect=effect_of(world)) == "9 are left."
    assert await kept(world) == ("finished", {"status": "ok", "content": "9 are left."})
    with pytest.raises(RunLost):
        await state.transact(take_one, effect=effect_of(world))
    assert await state.value("lamp") == 9


@pytest.mark.requirement("state.outbox")
async def test_where_nothing_is_written_the_call_is_not_done_either(world: World) -> None:
    await begin(world)
    state = world.state(CALLER)
    await state.put("lamp", 5)

    async def too_late(transaction: Transaction) -> str:
        text = await take_one(transaction)
        await world.state(CALLER).update("lamp", lambda number: number - 1)
        return text

    with pytest.raises(VersionConflict):
        await state.transact(too_late, attempts=2, effect=effect_of(world))
    assert await kept(world) == ("begun", None)
    assert await state.value("lamp") == 3
    results = await asyncio.gather(
        state.transact(take_one, effect=effect_of(world)),
        *(state.update("lamp", lambda number: number - 1) for _ in range(5)),
        *(state.put(f"other-{number}", 1) for number in range(5)),
    )
    assert str(results[0]).endswith("left.")
    assert (await kept(world))[0] == "finished"


@pytest.mark.requirement("state.outbox", "state.zombies")
async def test_an_older_execution_completes_nothing_nor_does_anybody_elses_run(world: World) -> None:
    await begin(world)
    old = dataclasses.replace(CALLER, fence=1)
    with pytest.raises(RunLost):
        await world.state(old).transact(take_one, effect=effect_of(world, old))
    for liar in (old, dataclasses.replace(CALLER, run_id="run_2"), CALLER.identity):
        with pytest.raises(InvalidRequest, match="own run"):
            await world.state(liar).transact(take_one, effect=effect_of(world))
    assert await kept(world) == ("begun", None)
    assert await world.state(CALLER).get("lamp") is None


class Wishes:
    """A model that asks for the tool, then says what came of it."""

    name = "scripted"

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        last = call.messages[-1]
        message = AIMessage(f"It says: {last.text}") if isinstance(last, ToolMessage) else calls(("take", {}))
        yield ModelReply(
            message=message, model=f"scripted:{model}", tier="small", usage=Usage(input_tokens=1),
            cost=None, seconds=0.0,
        )  # fmt: skip


@pytest.mark.requirement("state.outbox")
async def test_in_a_turn_the_tools_row_is_finished_by_its_own_transaction(tmp_path: Path) -> None:
    @tool(effect="write", reconcile=OUTBOX)
    async def take(ctx: ToolContext) -> str:
        """Take a lamp from the stock."""
        return await ctx.state.transact(take_one, effect=ctx.effect)

    clerk = Agent("clerk", prompt=inline_prompt("You are a clerk."), tools=[take])
    settings = Settings.load(
        home=tmp_path, embedder="hashing", models=dict.fromkeys(TIERS, "scripted:one"),
        prices={"scripted:*": {"input": "0", "output": "0"}},
    )  # fmt: skip
    fleet = Fleet("desk", agents=[clerk], entry="clerk")
    async with open_local(fleet, settings=settings, providers=by_account([Wishes()])) as local:
        assert (await local.ask("A lamp.")).text == "It says: 9 are left."
        assert await local.state().value("lamp") == 9
        rows = await local.database.read(lambda one: one.execute(sa.select(effects)).mappings().all())
    assert [(row["status"], row["resolved_by"]) for row in rows] == [("finished", "outbox")]
