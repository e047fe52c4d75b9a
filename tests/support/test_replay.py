"""The recorded tasks of a retail desk, replayed through our tools."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from admiralty.core.values import Caller, Identity
from admiralty.evals.replay import RecordedTask, World, read_tasks, replay
from admiralty.fleets.support.shop import (
    MemoryStore,
    Shop,
    ShopStore,
    SQLiteStore,
    find_policy,
    load_shop_data,
    open_shop,
)
from admiralty.fleets.support.tools import CUSTOMER, TOOLS
from admiralty.tools import ToolContext, ToolExecutor

Acting = Literal["customer", "staff"]

CALLER = Caller(
    identity=Identity(), fleet="support", agent="replay", agent_version="1", conversation_id="c", run_id="r"
)


@pytest.fixture(scope="module")
def tasks(retail: Path) -> list[RecordedTask]:
    return list(read_tasks(retail / "tasks_train.jsonl.gz"))


@pytest.fixture(params=["memory", "sqlite"])
def fresh_store(request: pytest.FixtureRequest, retail: Path, tmp_path: Path) -> Callable[[], ShopStore]:
    """Gives a store with the recorded shop as it was before any task."""
    if request.param == "memory":
        return MemoryStore(load_shop_data(retail)).fork
    open_shop(retail, tmp_path).close()
    (seeded,) = tmp_path.glob("*.sqlite3")
    copies = (tmp_path / f"copy-{number}" for number in itertools.count())
    opened: list[tuple[SQLiteStore, Path]] = []

    def copy() -> SQLiteStore:
        while opened:
            store, path = opened.pop()
            store.close()
            path.unlink()
        path = next(copies)
        shutil.copy(seeded, path)
        opened.append((SQLiteStore(path), path))
        return opened[-1][0]

    return copy


def world(store: ShopStore, acting: Acting, user_id: str) -> World:
    session: dict[str, Any] = {CUSTOMER: user_id} if acting == "customer" else {}
    resources = SimpleNamespace(shop=Shop(store=store, policy=find_policy(None)))

    def context(number: int) -> ToolContext:
        return ToolContext(
            caller=CALLER,
            call_id=str(number),
            turn=1,
            user_message="",
            session=session,
            resources=resources,
            acting=acting,
            confirmed=True,
        )

    return World(context=context, changed=store.changed)


@pytest.mark.requirement("support.replay")
@pytest.mark.parametrize("acting", ["staff", "customer"])
async def test_every_recorded_call_comes_out_as_recorded_and_leaves_exactly_the_recorded_changes(
    tasks: list[RecordedTask], fresh_store: Callable[[], ShopStore], acting: Acting
) -> None:
    result = await replay(
        tasks,
        ToolExecutor(TOOLS),
        lambda task: world(fresh_store(), acting, task.facts["user_id"]),
        error_texts=True,
    )
    assert result.same, str(result)[:5000]
    assert (result.tasks, result.calls, result.errors) == (500, 768, 20)


@pytest.mark.requirement("support.tools")
def test_the_tools_have_the_names_and_parameters_of_a_retail_desk(retail: Path) -> None:
    def shape(parameters: dict[str, Any]) -> dict[str, Any]:
        properties = {
            name: {key: schema[key] for key in ("type", "enum") if key in schema}
            | ({"items": schema["items"]["type"]} if "items" in schema else {})
            for name, schema in parameters["properties"].items()
        }
        return {"properties": properties, "required": sorted(parameters.get("required", []))}

    wanted = json.loads((retail / "tools.json").read_text())
    ours = {tool.name: tool.schema["function"]["parameters"] for tool in TOOLS}
    assert {tool["name"] for tool in wanted} == set(ours) - {"search_policy"}
    for tool in wanted:
        assert shape(ours[tool["name"]]) == shape(tool["parameters"]), tool["name"]


async def test_reads_give_the_records_of_the_recorded_shop(retail: Path) -> None:
    data = load_shop_data(retail)
    executor, staff = ToolExecutor(TOOLS), world(MemoryStore(data), "staff", "").context

    async def read(name: str, **arguments: str) -> Any:
        outcome = await executor.execute(name, arguments, staff(0))
        return json.loads(outcome.content) if outcome.content.startswith("{") else outcome.content

    for order_id, order in itertools.islice(data.orders.items(), 0, None, 50):
        assert await read("get_order_details", order_id=order_id) == order
    for user_id, user in itertools.islice(data.users.items(), 0, None, 50):
        assert await read("get_user_details", user_id=user_id) == user
        assert await read("find_user_id_by_email", email=user["email"].upper()) == user_id
        by_name = await read("find_user_id_by_name_zip", **user["name"], zip=user["address"]["zip"])
        assert by_name == user_id
    for product_id, product in itertools.islice(data.products.items(), 0, None, 10):
        assert await read("get_product_details", product_id=product_id) == product
    types = await read("list_all_product_types")
    assert list(types) == sorted(product["name"] for product in data.products.values())
    assert await read("get_order_details", order_id="W1") == "Error: order not found"
    assert await read("get_product_details", product_id="1") == "Error: product not found"
    assert await read("get_user_details", user_id="nobody") == "Error: user not found"
    assert await read("find_user_id_by_email", email="nobody@example.com") == "Error: user not found"
