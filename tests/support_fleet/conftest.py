"""The support fleet in this process, on the shipped shop, without any key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.settings import Settings
from admiralty.fleets.support import fleet


@dataclass
class Talk:
    """One conversation with a running fleet."""

    desk: Any
    conversation: str | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    """(tool, status) of the last answer."""
    metadata: dict[str, Any] = field(default_factory=dict)
    agent: str = ""

    async def say(self, message: str) -> str:
        answer = await self.desk.ask(message, conversation=self.conversation)
        self.conversation = answer.conversation_id
        self.metadata, self.agent = answer.metadata, answer.agent
        self.calls = [
            (event.data["name"], event.data["status"])
            for event in answer.events
            if event.type == "tool" and event.data["status"] != "started"
        ]
        text: str = answer.text
        return text

    @property
    def tools(self) -> list[str]:
        return [name for name, _ in self.calls]

    def order(self, order_id: str) -> Any:
        """The order as the shop has it now."""
        return self.desk.resources.shop.store.order(order_id)

    @property
    def changed(self) -> dict[str, dict[str, Any]]:
        changed: dict[str, dict[str, Any]] = self.desk.resources.shop.store.changed()
        return changed


@asynccontextmanager
async def open_talk(home: Path, data: Path | None = None, embedder: str = "hashing") -> AsyncIterator[Talk]:
    settings = Settings.load(home=home, data=data, database_url="sqlite://", embedder=embedder)
    async with fleet.local(home=home, settings=settings) as desk:
        yield Talk(desk)


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    """A new conversation, in a shop of its own."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(open_talk(tmp_path))


@pytest.fixture
def open_with(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Talk]]:
    """Opens the fleet on other data, or with another embedder."""

    def open_it(data: Path | None = None, embedder: str = "hashing") -> AbstractAsyncContextManager[Talk]:
        return open_talk(tmp_path / "home", data, embedder)

    return open_it
