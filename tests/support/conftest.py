"""The shop on both stores, conversations with its tools, and the recorded data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from admiralty.core.values import Caller, Identity
from admiralty.fleets.support.shop import (
    MemoryStore,
    Shop,
    ShopData,
    find_policy,
    load_shop_data,
    open_shop,
)
from admiralty.fleets.support.tools import TOOLS
from admiralty.tools import ToolContext, ToolExecutor, ToolOutcome

CALLER = Caller(
    identity=Identity(),
    fleet="support",
    agent="reasoning",
    agent_version="1",
    conversation_id="conversation",
    run_id="run",
)


@dataclass(frozen=True, kw_only=True)
class Resources:
    shop: Shop


class Conversation:
    """Calls tools as an agent in one conversation would. Calls count as confirmed unless said otherwise."""

    def __init__(
        self, shop: Shop, executor: ToolExecutor, acting: Literal["customer", "staff"], memory: Any = None
    ) -> None:
        self.session: MutableMapping[str, Any] = {}
        self._shop, self._executor, self._acting, self._memory = shop, executor, acting, memory

    async def __call__(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        confirmed: bool = True,
        turn: int = 1,
        message: str = "",
    ) -> ToolOutcome:
        ctx = ToolContext(
            caller=CALLER,
            call_id=f"call-{turn}",
            turn=turn,
            user_message=message,
            session=self.session,
            resources=Resources(shop=self._shop),
            memory=self._memory,
            acting=self._acting,
            confirmed=confirmed,
        )
        return await self._executor.execute(name, arguments or {}, ctx)


@pytest.fixture(scope="session")
def executor() -> ToolExecutor:
    return ToolExecutor(TOOLS)


@pytest.fixture(scope="session")
def shipped() -> ShopData:
    return load_shop_data(None)


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, shipped: ShopData, tmp_path: Path) -> Iterator[Shop]:
    """The shipped shop, fresh, on each kind of store."""
    if request.param == "memory":
        shop = Shop(store=MemoryStore(shipped), policy=find_policy(None))
    else:
        shop = open_shop(None, tmp_path / "home")
    yield shop
    shop.close()


@pytest.fixture
def staff(shop: Shop, executor: ToolExecutor) -> Conversation:
    return Conversation(shop, executor, "staff")


@pytest.fixture
def stranger(shop: Shop, executor: ToolExecutor) -> Conversation:
    """A customer who has not been identified."""
    return Conversation(shop, executor, "customer")


@pytest.fixture
async def maya(shop: Shop, executor: ToolExecutor) -> Conversation:
    """A customer, identified by email."""
    conversation = Conversation(shop, executor, "customer")
    outcome = await conversation("find_user_id_by_email", {"email": "maya.chen@example.com"})
    assert outcome.content == "maya_chen_1001"
    return conversation


@pytest.fixture
async def daniel(shop: Shop, executor: ToolExecutor) -> Conversation:
    """A customer with little on the gift card, identified by email."""
    conversation = Conversation(shop, executor, "customer")
    outcome = await conversation("find_user_id_by_email", {"email": "Daniel.Okafor@example.com"})
    assert outcome.content == "daniel_okafor_1002"
    return conversation


@pytest.fixture
async def sofia(shop: Shop, executor: ToolExecutor) -> Conversation:
    """A customer with all kinds of payment method, identified by name and zip."""
    conversation = Conversation(shop, executor, "customer")
    arguments = {"first_name": "Sofia", "last_name": "Ruiz", "zip": "85732"}
    assert (await conversation("find_user_id_by_name_zip", arguments)).content == "sofia_ruiz_1003"
    return conversation


@pytest.fixture(scope="session")
def retail() -> Path:
    """The directory with the recorded retail data, which is not part of the project."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    directory = Path(os.environ.get("ADMIRALTY_TEST_DATA") or beside) / "retail"
    if not (directory / "tasks_train.jsonl.gz").is_file():
        problem = f"no recorded retail data at {directory}: set ADMIRALTY_TEST_DATA to the directory above it"
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    return directory
