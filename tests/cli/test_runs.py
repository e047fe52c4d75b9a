"""`admiralty runs` and `admiralty prune`, on the database of a fleet that has ended, and then goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from admiralty.core.errors import AdmiraltyError
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS
from admiralty.runtime.cli.main import app
from admiralty.runtime.local import LocalFleet, open_local
from admiralty.runtime.scheduler.dispatch import by_account

from ..api.refunds import Clerk, Shop, refund_fleet
from .conftest import Run

Work = Callable[[LocalFleet], Awaitable[Any]]


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def with_fleet(tmp_path: Path, shop: Shop) -> Callable[[Work], Any]:
    """Opens the clerk's fleet in a home, does something, and closes it."""

    def do(work: Work) -> Any:
        settings = Settings.load(
            home=tmp_path / "home",
            embedder="hashing",
            models=dict.fromkeys(TIERS, "scripted:one"),
            prices={"scripted:*": {"input": "0", "output": "0"}},
            max_attempts=1,
        )

        async def run() -> Any:
            async with open_local(
                refund_fleet(shop), settings=settings, providers=by_account([Clerk()])
            ) as local:
                return await work(local)

        return asyncio.run(run())

    return do


async def talk(local: LocalFleet) -> tuple[str, str, str]:
    """One turn that is done, one that is parked, one that waits, each in a conversation of its own."""
    done = await local.ask("hello [there]")
    with pytest.raises(AdmiraltyError) as parked:
        await local.ask("post W1")
    waiting = await local.ask("refund W2")
    assert (waiting.status, waiting.text, waiting.agent) == ("waiting", "", "clerk")
    return done.run_id, str(parked.value.details["run_id"]), waiting.run_id


def told(run: Run, *arguments: str) -> Any:
    answer = run(*arguments, "--home", "home", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.requirement("runs.cli", "doors.local")
def test_the_operator_clears_up_what_fleets_have_left(
    admiralty: Run, with_fleet: Callable[[Work], Any], shop: Shop
) -> None:
    done, parked, waiting = with_fleet(talk)
    assert [run["id"] for run in told(admiralty, "runs", "list")] == [waiting, parked, done]
    [listed] = told(admiralty, "runs", "list", "--status", "parked", "--tenant", "default")
    table = admiralty("runs", "list", "--home", "home", COLUMNS="250").stdout
    for text in (done, "hello [there]", "default", "parked", "waiting"):
        assert text in table

    shown = told(admiralty, "runs", "show", parked)
    [effect] = shown.pop("effects")
    assert shown == listed
    assert (shown["error"]["code"], effect["status"], effect["tool"]) == ("effect_unknown", "unknown", "post")
    page = admiralty("runs", "show", parked, "--home", "home", COLUMNS="250").stdout
    for text in ("post W1", effect["call_id"], "effect_unknown", "unknown"):
        assert text in page

    resolve = ("runs", "resolve", parked, effect["call_id"])
    assert told(admiralty, *resolve, "--not-done", "--by", "ann")["resolved_by"] == "ann"
    said = admiralty(*resolve, "--done", "--result", "It left.", "--home", "home")
    assert f"admiralty runs retry {parked}" in said.stdout, "who was wrong may say so before the retry"
    assert told(admiralty, "runs", "retry", parked, "--by", "ann")["status"] == "queued"
    assert told(admiralty, "runs", "cancel", waiting)["status"] == "cancelled"

    async def until_done(local: LocalFleet) -> str:
        live = await local.conversations.follow(local.identity, shown["conversation_id"], parked)
        async with asyncio.timeout(10):
            last = [event async for event in live.follow()][-1]
        return str(last.data["message"])

    assert with_fleet(until_done) == "Done: It left."
    assert (shop.posted, shop.refunded) == (["W1"], [])

    assert "Say what to remove" in admiralty("prune", "--home", "home").stderr
    assert "Removed 0 turns" in admiralty("prune", "--turns", "1", "--home", "home").stdout
    assert "Removed 3 turns" in admiralty("prune", "--days", "0.0000001", "--home", "home").stdout
    assert told(admiralty, "runs", "list") == []


@pytest.mark.requirement("runs.cli")
def test_what_cannot_be_is_refused_with_a_remedy(with_fleet: Callable[[Work], Any], tmp_path: Path) -> None:
    async def hello(local: LocalFleet) -> str:
        return (await local.ask("hello")).run_id

    done = with_fleet(hello)
    home, nowhere = str(tmp_path / "home"), str(tmp_path / "nowhere")
    for arguments, remedy in (
        (("runs", "list", "--status", "lost"), "parked"),
        (("runs", "show", "run_x"), "run_x"),
        (("runs", "retry", done), "only what failed"),
        (("runs", "cancel", "run_x"), "run_x"),
        (("runs", "resolve", done, "call_x"), "--not-done"),
        (("runs", "resolve", done, "call_x", "--not-done", "--result", "x"), "--done"),
        (("runs", "resolve", done, "call_x", "--done"), "call_x"),
        (("runs", "retry", done, "--by", " "), "--by"),
        (("runs", "list", "--home", nowhere), "no such file"),
        (("prune", "--turns", "1", "--home", nowhere), "no such file"),
    ):
        # In this process: a command of its own takes seconds to import what it needs.
        refused = CliRunner().invoke(app, [*arguments, *(() if "--home" in arguments else ("--home", home))])
        assert isinstance(refused.exception, AdmiraltyError), arguments
        assert remedy in refused.exception.message
