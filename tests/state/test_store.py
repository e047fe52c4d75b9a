"""What every adapter of the StateStore port does."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from admiralty.core.errors import InvalidRequest, Locked, LockLost, RunLost, TooLarge, VersionConflict
from admiralty.core.ports import StateStore
from admiralty.core.state import Check, StateChange, Write
from admiralty.core.values import Caller, Identity
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import conversations, runs, state_values
from admiralty.tools import SharedState

from .conftest import ANN, CLERK, HISTORY, RIVAL, World


async def first(changes: AsyncIterator[StateChange], number: int) -> list[StateChange]:
    async with asyncio.timeout(10):
        return [await anext(changes) for _ in range(number)]


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.requirement("state.values")
async def test_a_value_is_read_as_it_was_written_with_its_version_and_time(world: World) -> None:
    assert isinstance(world.store, StateStore)
    state = world.state()
    assert await state.get("basket") is None
    assert await state.put("basket", {"apples": 2}) == 1
    world.clock.time += 5
    assert await state.put("basket", {"apples": 3}) == 2
    found = await state.get("basket")
    assert found is not None
    assert (found.namespace, found.key, found.value, found.version, found.updated_at) == (
        "shared", "basket", {"apples": 3}, 2, world.clock.time,
    )  # fmt: skip
    assert await state.value("basket") == {"apples": 3}
    assert await state.value("nothing", 7) == 7
    assert set(await state.get_many(["basket", "nothing"])) == {"basket", "nothing"}


@pytest.mark.requirement("state.values")
async def test_json_keeps_its_types_and_digits(state: SharedState) -> None:
    values: list[Any] = [
        None, True, 0, 1, 1.0, -0.5, 1e300, 5e-324, 2**53 + 1, 10**40, "", "1", "1.0",
        "ünï \U0001f600", [], {}, [[1, [2.0, None]], {"a": {"b": [False]}}],
        {"": 0, "a b": {"c": "\n\t\"'\\"}},
    ]  # fmt: skip
    for value in values:
        await state.put("k", value)
        found = await state.value("k", "nothing")
        assert (found, type(found), repr(found)) == (value, type(value), repr(value))


@pytest.mark.requirement("state.bad_values")
async def test_what_is_no_json_is_refused(state: SharedState) -> None:
    values: list[Any] = [
        math.nan, math.inf, [-math.inf], {1: 2}, {"a": {2}}, b"x", object(), {"a\0": 1, "a\ufffd": 2},
        10**5000,
    ]  # fmt: skip
    for value in values:
        with pytest.raises(InvalidRequest, match="value"):
            await state.put("k", value)
        with pytest.raises(InvalidRequest, match="value"):
            await state.update("k", functools.partial(_constant, value))
    assert await state.get("k") is None


def _constant(value: Any, _: Any) -> Any:
    return value


@pytest.mark.requirement("state.bad_values")
async def test_values_that_are_too_large_or_too_deep_are_refused(state: SharedState) -> None:
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    await state.put("k", deep)
    with pytest.raises(InvalidRequest, match="deeper"):
        await state.put("k", [deep])
    await state.put("k", "x" * 999_998)
    for text in ("x" * 999_999, "ü" * 500_000):
        with pytest.raises(TooLarge):
            await state.put("k", text)


@pytest.mark.requirement("state.bad_values")
async def test_characters_that_no_database_takes_are_replaced(state: SharedState) -> None:
    await state.put("k", {"a\0b": ["x\0y", "half \ud800"]})
    assert await state.value("k") == {"a\ufffdb": ["x\ufffdy", "half \ufffd"]}


@pytest.mark.requirement("state.bad_values")
async def test_names_that_could_not_stand_in_a_url_are_refused(state: SharedState) -> None:
    for name in ("", "a/b", ".", "..", "a\0", "a\n", "\ud800", "x" * 201):
        await refuses_name(state, name)


async def refuses_name(state: SharedState, name: str) -> None:
    for work in (
        state.get(name), state.put(name, 1), state.put("k", 1, namespace=name), state.delete(name),
        state.find(namespace=name), state.history(name), state.acquire(name), state.watch(name),
        state.update(name, lambda _: 1),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match="name"):
            await work


@pytest.mark.requirement("state.values")
async def test_a_namespaces_values_are_found_by_prefix_in_the_order_of_their_bytes(
    state: SharedState,
) -> None:
    keys = ["order:10", "order:2", "order:Z", "order:a", "order:ä", "order_x", "x%", "%", "order:"]
    for key in keys:
        await state.put(key, key)
    await state.delete("order:2")
    await state.put("order:1", 0, namespace="elsewhere")
    found = [one.key for one in await state.find("order:")]
    assert found == ["order:", "order:10", "order:Z", "order:a", "order:ä"]
    assert [one.key for one in await state.find("order:", after="order:10", limit=2)] == [
        "order:Z",
        "order:a",
    ]
    assert [one.key for one in await state.find("%")] == ["%"]
    assert [one.value for one in await state.find()] == sorted(set(keys) - {"order:2"}, key=str.encode)


# -- versions -------------------------------------------------------------------------------------


@pytest.mark.requirement("state.versions")
async def test_a_write_that_names_an_old_version_is_refused_and_told_the_present_one(
    state: SharedState,
) -> None:
    assert await state.create("k", "a") == 1
    with pytest.raises(VersionConflict) as caught:
        await state.create("k", "b")
    assert caught.value.details == {"namespace": "shared", "key": "k", "expected": 0, "found": 1}
    assert await state.compare_and_set("k", "b", 1) == 2
    for stale in (0, 1, 3):
        with pytest.raises(VersionConflict):
            await state.compare_and_set("k", "c", stale)
        with pytest.raises(VersionConflict):
            await state.delete("k", expected=stale)
    assert await state.value("k") == "b"


@pytest.mark.requirement("state.versions")
async def test_a_value_that_was_deleted_and_made_again_is_never_taken_for_the_old_one(
    state: SharedState,
) -> None:
    await state.create("k", "a")
    assert await state.delete("k", expected=1) == 2
    assert await state.get("k") is None
    assert await state.delete("k") == 0
    with pytest.raises(VersionConflict) as caught:
        await state.compare_and_set("k", "a", 2)
    assert caught.value.details["found"] == 0
    assert await state.create("k", "a") == 3
    with pytest.raises(VersionConflict):
        await state.compare_and_set("k", "b", 1)
    again = await state.update("k", lambda value: value + "!")
    assert (again.value, again.version) == ("a!", 4)


@pytest.mark.requirement("state.versions")
async def test_a_version_is_a_whole_number(state: SharedState) -> None:
    wrong: list[Any] = [-1, True, 1.0, "1"]
    for expected in wrong:
        with pytest.raises(InvalidRequest, match="version"):
            await state.compare_and_set("k", 1, expected)


# -- updates --------------------------------------------------------------------------------------


@pytest.mark.requirement("state.update")
async def test_64_writers_on_one_key_lose_nothing_and_each_learns_its_own_version(world: World) -> None:
    others = [world.state(), world.another().state()]

    async def write(number: int) -> list[int]:
        state = others[number % 2]
        return [
            (await state.update("n", lambda n: n + 1, default=0, attempts=1000)).version for _ in range(5)
        ]

    async with asyncio.timeout(60):
        told = await asyncio.gather(*(write(number) for number in range(64)))
    assert await world.state().value("n") == 320
    assert sorted(version for versions in told for version in versions) == list(range(1, 321))


@pytest.mark.requirement("state.update")
async def test_an_update_gives_up_after_so_many_attempts(world: World) -> None:
    state, other = world.state(), world.another().state()
    await state.put("k", 0)
    runs = 0

    async def interfere() -> None:
        await other.update("k", lambda n: n + 1)

    def merge(value: int) -> int:
        nonlocal runs
        runs += 1
        interfering.append(asyncio.ensure_future(interfere()))
        return value + 100

    interfering: list[asyncio.Future[None]] = []
    # Somebody who always comes in between: another process's write lands before ours.
    chain = world.store.primitives.chain

    async def late(writes: Any) -> Any:
        await asyncio.gather(*interfering)
        return await chain(writes)

    world.store.primitives.chain = late  # type: ignore[method-assign]
    with pytest.raises(VersionConflict):
        await state.update("k", merge, attempts=3)
    assert runs == 3
    assert await state.value("k") == 3


@pytest.mark.requirement("state.update")
async def test_what_goes_wrong_in_a_merge_function_is_its_callers_alone(state: SharedState) -> None:
    def fail(_: Any) -> Any:
        raise StopIteration("no")

    async def wait(_: Any) -> Any:
        return 1

    good = [state.update("k", lambda n: n + 1, default=0) for _ in range(4)]
    bad = [state.update("k", merge, default=0) for merge in (fail, wait, lambda n: None, lambda n: 1 // 0)]
    results = await asyncio.gather(*[work for pair in zip(good, bad, strict=True) for work in pair],
                                   return_exceptions=True)  # fmt: skip
    assert [type(result).__name__ for result in results[1::2]] == [
        "RuntimeError", "InvalidRequest", "InvalidRequest", "ZeroDivisionError",
    ]  # fmt: skip
    assert [getattr(result, "value", result) for result in results[::2]] == [1, 2, 3, 4]


@pytest.mark.requirement("state.update")
async def test_a_merge_function_may_change_its_copy_and_nobody_elses(state: SharedState) -> None:
    default: dict[str, Any] = {"items": []}

    def add(value: dict[str, Any]) -> dict[str, Any]:
        value["items"].append(1)
        return value

    made = await asyncio.gather(*(state.update("k", add, default=default) for _ in range(3)))
    assert [len(one.value["items"]) for one in made] == [1, 2, 3]
    assert default == {"items": []}


@pytest.mark.requirement("state.update")
async def test_one_who_leaves_does_not_hold_up_the_others(state: SharedState) -> None:
    leaving = [asyncio.ensure_future(state.update("k", lambda n: n + 100, default=0)) for _ in range(3)]
    staying = [asyncio.ensure_future(state.update("k", lambda n: n + 1, default=0)) for _ in range(3)]
    for task in leaving:
        task.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*staying)
    assert (await state.value("k")) % 100 == 3


# -- transactions ---------------------------------------------------------------------------------


@pytest.mark.requirement("state.transactions")
async def test_a_transaction_writes_all_or_nothing(world: World) -> None:
    state = world.state()
    await state.put("a", 10)
    await state.put("b", 0)
    writes = [
        Write(namespace="shared", key="a", value=4, expected=1),
        Write(namespace="other", key="new", value=1, expected=0),
        Write(namespace="shared", key="b", delete=True, expected=2),
    ]
    with pytest.raises(VersionConflict) as caught:
        await world.store.transact(ANN, writes)
    assert (caught.value.details["key"], caught.value.details["found"]) == ("b", 1)
    assert await state.value("a") == 10
    assert await state.get("new", namespace="other") is None

    writes[2] = dataclasses.replace(writes[2], expected=1)
    done = await world.store.transact(ANN, writes, checks=[Check(namespace="shared", key="c", expected=0)])
    assert done.versions == (2, 1, 2)
    with pytest.raises(VersionConflict):
        await world.store.transact(ANN, [], checks=[Check(namespace="shared", key="a", expected=1)])


@pytest.mark.requirement("state.transactions")
async def test_what_a_transaction_only_reads_must_not_have_changed_either(world: World) -> None:
    """Two who each look at the other's value before they leave: never do both go (write skew)."""
    state, other = world.state(), world.another().state()
    for name in ("ann", "bob"):
        await state.put(name, "on call")

    def leave(view: SharedState, me: str, colleague: str) -> Any:
        async def work(transaction: Any) -> bool:
            if await transaction.get(colleague) != "on call" or await transaction.get(me) != "on call":
                return False
            transaction.put(me, "away")
            return True

        return view.transact(work)

    async with asyncio.timeout(20):
        went = await asyncio.gather(leave(state, "ann", "bob"), leave(other, "bob", "ann"))
    assert sorted(went) == [False, True]


@pytest.mark.requirement("state.transactions")
async def test_transfers_between_many_accounts_in_all_orders_keep_the_sum(world: World) -> None:
    names = [f"account-{number}" for number in range(4)]
    views = [world.state(), world.another().state()]
    for name in names:
        await views[0].put(name, 100)

    async def transfer(number: int) -> None:
        source, target = names[number % 4], names[(number * 7 + 1 + number // 4) % 4]

        async def work(transaction: Any) -> None:
            transaction.put(source, await transaction.get(source) - 1)
            transaction.put(target, await transaction.get(target) + 1)
            assert await transaction.get(source) is not None

        await views[number % 2].transact(work, attempts=200)

    async with asyncio.timeout(60):
        await asyncio.gather(*(transfer(number) for number in range(48)))
    found = await views[0].get_many(names)
    assert sum(one.value for one in found.values() if one) == 400


@pytest.mark.requirement("state.transactions")
async def test_a_transaction_that_cannot_be_is_refused(world: World) -> None:
    twice = [Write(namespace="a", key="k", value=1), Write(namespace="a", key="k", value=2)]
    with pytest.raises(InvalidRequest, match="twice"):
        await world.store.transact(ANN, twice)
    with pytest.raises(InvalidRequest, match="twice"):
        await world.store.transact(ANN, twice[:1], checks=[Check(namespace="a", key="k", expected=0)])
    with pytest.raises(InvalidRequest, match="101"):
        await world.store.transact(ANN, [Write(namespace="a", key=str(n), value=1) for n in range(101)])


# -- tenants --------------------------------------------------------------------------------------


@pytest.mark.requirement("state.tenants")
async def test_a_tenant_reaches_nothing_of_another_whatever_it_calls_itself(world: World) -> None:
    mine = world.state()
    await mine.put("k", "secret")
    lock = await mine.acquire("lock", lease=1000)
    for liar in (
        RIVAL,
        dataclasses.replace(RIVAL, tenant="acme "),
        dataclasses.replace(RIVAL, tenant="ACME"),
        dataclasses.replace(RIVAL, tenant="rival", tags={"tenant": "acme"}, admin=True, team="acme"),
        dataclasses.replace(CLERK, identity=RIVAL),
    ):
        theirs = world.state(liar)
        assert await theirs.get("k") is None
        assert await theirs.find() == []
        assert await theirs.history("k") == []
        changes = await theirs.watch(after=0)
        assert await theirs.put("k", "theirs") == 1
        assert [change.value for change in await first(changes, 1)] == ["theirs"]
        await changes.aclose()
        assert (await theirs.acquire("lock", lease=1000)).fence == 1
        with pytest.raises(LockLost):
            await theirs.put("k", 1, lock=lock)
        await theirs.delete("k")
        world_of = await theirs.find()
        assert world_of == []
        # Make the place new for the next liar, who may be the same tenant.
        await world.database.write(_forget)
    assert await mine.value("k") == "secret"


def _forget(connection: sa.Connection) -> None:
    for name in ("state_values", "state_history", "state_locks"):
        connection.execute(sa.text(f"DELETE FROM {name} WHERE tenant != 'acme'"))


# -- history --------------------------------------------------------------------------------------


@pytest.mark.requirement("state.history")
async def test_history_tells_who_wrote_each_version(world: World) -> None:
    people, agent = world.state(ANN), world.state(CLERK)
    await people.put("k", 1)
    await agent.update("k", lambda n: n + 1)
    await people.delete("k")
    deletion, update, creation = await agent.history("k")
    assert (creation.version, creation.value, creation.writer.user, creation.writer.key_id) == (
        1, 1, "ann", "key_1",
    )  # fmt: skip
    assert creation.writer.agent == ""
    writer = update.writer
    assert (writer.fleet, writer.agent, writer.agent_version) == ("desk", "clerk", "v7")
    assert (writer.conversation_id, writer.run_id, writer.user) == ("conv_1", "run_1", "ann")
    assert (deletion.version, deletion.deleted, deletion.value, deletion.at) == (
        3, True, None, world.clock.time,
    )  # fmt: skip
    assert [one.version for one in await agent.history("k", before=3, limit=1)] == [2]


@pytest.mark.requirement("state.history")
async def test_so_many_versions_are_kept_besides_the_present_one(state: SharedState) -> None:
    for number in range(HISTORY + 4):
        await state.put("k", number)
    last = HISTORY + 4
    kept = await state.history("k")
    assert [one.version for one in kept] == list(range(last, last - HISTORY - 1, -1))
    assert [one.value for one in kept] == [one.version - 1 for one in kept]


# -- watching -------------------------------------------------------------------------------------


@pytest.mark.requirement("state.watch")
async def test_a_watcher_is_told_every_version_in_order_also_of_another_process(world: World) -> None:
    mine, other = world.state(), world.another().state()
    await mine.put("k", 0)
    changes = await mine.watch("k")
    for number in range(1, 4):
        await (mine if number % 2 else other).put("k", number)
    told = await first(changes, 3)
    assert [(one.version, one.value, one.missed) for one in told] == [(2, 1, 0), (3, 2, 0), (4, 3, 0)]
    waiting = asyncio.ensure_future(anext(changes))
    await other.delete("k")
    deleted = await asyncio.wait_for(waiting, 10)
    assert (deleted.version, deleted.deleted) == (5, True)
    await mine.put("unwatched", 1)
    await mine.put("k", 9)
    assert (await first(changes, 1))[0].version == 6
    await changes.aclose()


@pytest.mark.requirement("state.watch")
async def test_a_watcher_can_begin_behind_a_version_and_is_told_what_is_not_kept_any_more(
    state: SharedState,
) -> None:
    for number in range(1, HISTORY + 5):
        await state.put("k", number)
    changes = await state.watch("k", after=1)
    told = await first(changes, HISTORY + 1)
    assert [one.version for one in told] == list(range(4, HISTORY + 5))
    assert [one.missed for one in told] == [2] + [0] * HISTORY
    await changes.aclose()
    changes = await state.watch("k", after=HISTORY + 2)
    assert [one.version for one in await first(changes, 2)] == [HISTORY + 3, HISTORY + 4]
    await changes.aclose()


@pytest.mark.requirement("state.watch")
async def test_a_whole_namespace_can_be_watched_by_prefix(state: SharedState) -> None:
    await state.put("order:1", "old")
    changes = await state.watch(prefix="order:")
    everything = await state.watch(prefix="order:", after=0)
    await state.put("order:2", "new")
    await state.put("other", "not this")
    await state.put("order:1", "changed")
    assert {(one.key, one.version) for one in await first(changes, 2)} == {("order:2", 1), ("order:1", 2)}
    assert {(one.key, one.version) for one in await first(everything, 3)} == {
        ("order:1", 1), ("order:1", 2), ("order:2", 1),
    }  # fmt: skip
    await changes.aclose()
    await everything.aclose()
    with pytest.raises(InvalidRequest, match="after"):
        await state.watch(prefix="order:", after=3)


@pytest.mark.requirement("state.watch")
async def test_a_watcher_misses_nothing_while_many_write(world: World) -> None:
    changes = await world.state().watch("n")
    writers = [world.state(), world.another().state()]
    told: list[int] = []

    async def follow() -> None:
        async for change in changes:
            told.append(change.version)
            assert change.missed == 0 or change.missed == change.version - (told[-2] if told[1:] else 0) - 1
            if change.version >= 60:
                return

    following = asyncio.ensure_future(follow())
    for number in range(60):
        await writers[number % 2].update("n", lambda n: n + 1, default=0)
    async with asyncio.timeout(20):
        await following
    await changes.aclose()
    assert told == sorted(set(told))


# -- locks ----------------------------------------------------------------------------------------


@pytest.mark.requirement("state.locks")
async def test_a_lock_has_one_holder_and_goes_to_the_next_when_it_is_released(world: World) -> None:
    state, other = world.state(), world.another().state()
    held = await state.acquire("door", lease=30)
    with pytest.raises(Locked) as caught:
        await other.acquire("door", lease=30)
    assert caught.value.details["lease_until"] == world.clock.time + 30
    waiting = asyncio.ensure_future(other.acquire("door", lease=30, wait=10))
    await state.put("guarded", 1, lock=held)
    await state.release(held)
    got = await asyncio.wait_for(waiting, 10)
    assert got.fence == held.fence + 1
    with pytest.raises(LockLost):
        await state.put("guarded", 2, lock=held)
    await state.release(held)  # a late release takes nobody's lock away
    await other.put("guarded", 3, lock=got)


@pytest.mark.requirement("state.locks")
async def test_when_a_lease_has_ended_another_takes_the_lock_and_the_old_fence_is_refused(
    world: World,
) -> None:
    state, other = world.state(), world.state(CLERK)
    old = await state.acquire("door", lease=30)
    world.clock.time += 29
    old = await state.renew(old, lease=30)
    world.clock.time += 29
    with pytest.raises(Locked):
        await other.acquire("door", lease=30)
    world.clock.time += 2
    new = await other.acquire("door", lease=30)
    assert new.fence > old.fence
    for work in (
        state.put("k", 1, lock=old), state.delete("k", lock=old), state.renew(old),
        state.commit([Write(namespace="shared", key="k", value=1)], locks=[new, old]),
    ):  # fmt: skip
        with pytest.raises(LockLost):
            await work
    assert await state.get("k") is None
    await other.put("k", "new", lock=new)


@pytest.mark.requirement("state.locks")
async def test_a_lock_is_given_back_at_the_end_of_its_block_also_after_an_error(state: SharedState) -> None:
    fences = []

    async def guarded() -> None:
        async with state.lock("door") as lock:
            fences.append(lock.fence)
            await state.put("k", 1, lock=lock)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await guarded()
    async with state.lock("door", wait=0) as again:
        assert again.fence == fences[0] + 1
    with pytest.raises(LockLost):
        await state.put("k", 2, lock=again)


@pytest.mark.requirement("state.locks")
async def test_one_who_leaves_while_taking_a_lock_does_not_keep_it(state: SharedState) -> None:
    taking = asyncio.ensure_future(state.acquire("door", lease=1000))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    async with asyncio.timeout(10):
        await state.acquire("door", lease=1000, wait=10)


@pytest.mark.requirement("state.locks")
async def test_a_lease_is_a_time_of_at_most_a_day(state: SharedState) -> None:
    for lease in (0, -1, math.nan, math.inf, 100_000):
        with pytest.raises(InvalidRequest, match="lease"):
            await state.acquire("door", lease=lease)


# -- runs that were taken over --------------------------------------------------------------------


@pytest.mark.requirement("state.zombies")
async def test_a_run_that_was_taken_over_writes_nothing_and_its_neighbours_do(world: World) -> None:
    await put_run(world.database, fence=2)
    zombie = world.state(dataclasses.replace(CLERK, fence=1))
    present = world.state(dataclasses.replace(CLERK, fence=2))
    works: list[Any] = []
    for number in range(3):
        works += [
            zombie.update("k", lambda n: n + 100, default=0),
            present.update("k", lambda n: n + 1, default=0),
        ]
        works += [zombie.put(f"z{number}", 1), zombie.acquire(f"l{number}")]
    results = await asyncio.gather(*works, return_exceptions=True)
    for position, result in enumerate(results):
        assert isinstance(result, RunLost) == (position % 4 != 1), result
    assert await present.value("k") == 3
    assert [one.key for one in await present.find()] == ["k"]


async def put_run(database: Database, fence: int) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(
            conversations.insert().values(
                id="conv_1", tenant="acme", fleet="desk", metadata={}, created_at=0, updated_at=0
            )
        )
        connection.execute(
            runs.insert().values(
                id="run_1", conversation_id="conv_1", turn=1, status="running", owner="p", lease_until=0,
                fence=fence, message="hello", started_at=0,
            )
        )  # fmt: skip

    await database.write(work)


# -- what is stored -------------------------------------------------------------------------------


@pytest.mark.requirement("state.tenants")
async def test_a_tenants_name_of_any_characters_stays_its_own(world: World) -> None:
    strange = Identity(tenant="a'; --\ud800\0/ü")
    await world.state(strange).put("k", 1)
    assert await world.state(strange).value("k") == 1
    rows = await world.database.read(
        lambda one: one.execute(sa.select(state_values.c.tenant)).scalars().all()
    )
    assert rows == ["a'; --\ufffd\ufffd/ü"]


@pytest.mark.requirement("state.values")
async def test_a_caller_and_the_key_that_asked_for_him_share_their_tenants_state(world: World) -> None:
    caller = Caller(
        identity=Identity(tenant="acme"), fleet="other", agent="x", agent_version="v", conversation_id="c",
        run_id="r",
    )  # fmt: skip
    await world.state(caller).put("k", "from an agent of another fleet")
    assert await world.state(ANN).value("k") == "from an agent of another fleet"


@pytest.mark.requirement("state.update")
async def test_an_update_made_from_one_that_was_refused_is_refused_though_its_version_fits(
    world: World,
) -> None:
    state = world.state()
    await state.put("k", "ours")
    await state.put("k", "somebody else's")  # while we made versions 2 and 3 of the first
    chain = [Write(namespace="shared", key="k", value=n, expected=n) for n in (1, 2, 3)]
    results = await world.store.primitives.chain([(ANN, write) for write in chain])
    assert [type(result) for result in results] == [VersionConflict] * 3
    assert await state.value("k") == "somebody else's"
