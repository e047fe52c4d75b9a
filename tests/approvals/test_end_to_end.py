"""From the question to the answer: asked, waited for, decided, gone on with, on any process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict
from admiralty.core.values import Event
from admiralty.runtime.api import ApiParts, create_app
from admiralty.runtime.approvals import Approval, ApprovalStore, Decider
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.figures import Figures
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.local import LocalFleet
from admiralty.runtime.storage.keys import ApiKeys

from .desk import US, Obedient, process, settings_of, waits

ANN = Decider(tenant="us", name="key_ann")
REFUND = [[["refund", {"amount": 30}]]]


@dataclass
class Place:
    """Where everything of a test is kept."""

    home: Path
    url: str
    world: Path

    def process(self, **options: Any) -> Any:
        return process(self.home, self.url, self.world, **options)

    @property
    def done(self) -> list[str]:
        """What tools have done."""
        return self.world.read_text().splitlines() if self.world.exists() else []


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str) -> Place:
    return Place(tmp_path / "home", sqlite_url, tmp_path / "world")


@pytest.fixture
def any_place(tmp_path: Path, database_url: str) -> Place:
    return Place(tmp_path / "home", database_url, tmp_path / "world")


async def asked(local: LocalFleet, run: str) -> Approval:
    """Return the one approval of a run that waits."""
    (found,) = await ApprovalStore(local.database).find(run=run, status="pending")
    return found


async def ended(local: LocalFleet, conversation: str, run: str) -> Sequence[Event]:
    """Return the run's stored events once it has ended."""
    live = await local.conversations.follow(US, conversation, run)
    async with asyncio.timeout(20):
        events = [event async for event in live.follow()]
    numbers = [event.seq for event in events if event.type != "token"]
    assert numbers == list(range(1, len(numbers) + 1))
    return events


async def pending(local: LocalFleet, conversation: str, run: str, *, number: int) -> None:
    """Return when a run asks a person for the time ``number``."""
    live = await local.conversations.follow(US, conversation, run)
    async with asyncio.timeout(20):
        async for event in live.follow():
            number -= event.type == "approval" and event.data["status"] == "pending"
            if number == 0:
                return
    raise AssertionError("the run ended before")


def told(events: Sequence[Event]) -> list[str]:
    return [event.data["status"] for event in events if event.type == "approval"]


@pytest.mark.requirement("approvals.survive")
async def test_a_run_waits_through_the_death_of_its_process_and_goes_on_on_another(any_place: Place) -> None:
    place = any_place
    script = Path(__file__).with_name("desk.py")
    arguments = [str(script), str(place.home), place.url, str(place.world), json.dumps(REFUND)]
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), 60)
        conversation, run = line.decode().split()
    finally:
        child.kill()
        await asyncio.wait_for(child.wait(), 10)
    assert place.done == []

    def approvals(*arguments: str) -> Any:
        command = [sys.executable, "-c", "from admiralty.runtime.cli import main; main()", "approvals"]
        environment = os.environ | {"ADMIRALTY_DATABASE_URL": place.url}
        answer = subprocess.run(
            [*command, *arguments, "--home", str(place.home), "--json"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    (waiting,) = await asyncio.to_thread(approvals, "list")
    assert (waiting["tool"], waiting["arguments"], waiting["run_id"]) == ("refund", {"amount": 30}, run)
    await asyncio.to_thread(approvals, "approve", waiting["id"], "--reason", "It is right.")
    model = Obedient()
    async with place.process(model=model) as local:
        events = await ended(local, conversation, run)
    assert (events[-1].type, events[-1].data["message"]) == ("done", "refunded 30")
    assert place.done == ["refunded 30"]
    assert told(events) == ["pending", "approved"]
    assert model.asked == ["refunded 30"], "the model is not asked again what it had answered"


@pytest.mark.requirement("approvals.survive")
async def test_of_several_processes_one_goes_on_and_does_it_once(any_place: Place) -> None:
    place = any_place
    async with AsyncExitStack() as stack:
        first, *others = [await stack.enter_async_context(place.process()) for _ in range(3)]
        conversations = [await waits(first, REFUND) for _ in range(4)]
        for number, (_, run) in enumerate(conversations):
            local = others[number % 2]
            await ApprovalStore(local.database).decide((await asked(local, run)).id, "approve", by=ANN)
        for conversation, run in conversations:
            events = await ended(others[0], conversation, run)
            assert events[-1].data["message"] == "refunded 30"
    assert place.done == ["refunded 30"] * 4


@pytest.mark.requirement("approvals.api")
async def test_what_a_person_edits_over_the_api_is_what_is_done(place: Place) -> None:
    async with place.process() as local:
        keys = ApiKeys(local.database)
        admin, _ = await keys.create(tenant="us", admin=True)
        parts = ApiParts(
            conversations=local.conversations,
            keys=keys,
            reports=Reports(local.database),
            budgets=Budgets(local.database),
            figures=Figures(local.database, SystemClock()),
            effects=EffectBook(local.database, SystemClock()),
            approvals=ApprovalStore(local.database),
            settings=settings_of(place.home, place.url),
            version="1",
        )
        conversation, run = await waits(local, REFUND)
        transport = httpx.ASGITransport(create_app(parts))
        headers = {"Authorization": f"Bearer {admin}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://app", headers=headers) as client:
            (one,) = (await client.get("/v1/approvals")).json()["data"]
            path = f"/v1/approvals/{one['id']}/decide"
            wrong = await client.post(path, json={"verdict": "approve", "arguments": {"amount": "lots"}})
            assert wrong.status_code == 400
            body = {"verdict": "approve", "arguments": {"amount": 20}}
            assert (await client.post(path, json=body)).status_code == 200
        events = await ended(local, conversation, run)
    assert events[-1].data["message"] == "refunded 20"
    assert place.done == ["refunded 20"]


@pytest.mark.requirement("approvals.ask")
async def test_a_no_is_read_by_the_agent_and_nothing_is_done(place: Place) -> None:
    async with place.process() as local:
        conversation, run = await waits(local, REFUND)
        store = ApprovalStore(local.database)
        await store.decide((await asked(local, run)).id, "reject", reason="Not in December.", by=ANN)
        events = await ended(local, conversation, run)
    assert "Not in December." in events[-1].data["message"]
    assert events[-1].type == "done"
    assert (told(events), place.done) == (["pending", "rejected"], [])
    (outcome,) = [e.data["status"] for e in events if e.type == "tool" and e.data["status"] != "started"]
    assert outcome == "denied"


@pytest.mark.requirement("approvals.ask")
async def test_a_tool_asks_by_itself_where_it_sees_need(place: Place) -> None:
    async with place.process() as local:
        answer = await local.ask(json.dumps([[["order", {"pieces": 5}]]]))
        assert answer.text == "ordered 5"
        conversation, run = await waits(local, [[["order", {"pieces": 50}]]])
        approval = await asked(local, run)
        assert (approval.kind, approval.reason) == ("tool", "50 are many.")
        await ApprovalStore(local.database).decide(approval.id, "approve", by=ANN)
        events = await ended(local, conversation, run)
    assert events[-1].data["message"] == "ordered 50"
    assert place.done == ["ordered 5", "ordered 50"]


@pytest.mark.requirement("approvals.ask")
async def test_a_policy_asks_and_is_asked_again_after_the_yes(place: Place, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "own.cedar").write_text("""
        @id("notes-by-a-person") @approval("Notes are read by others.")
        forbid (principal, action == Action::"tool:call", resource == Tool::"note")
        unless { context.approvals.contains("person") };
    """)
    async with place.process(policies=policies) as local:
        conversation, run = await waits(local, [[["note", {"text": "x"}]]])
        approval = await asked(local, run)
        assert (approval.kind, approval.reason) == ("policy", "Notes are read by others.")
        await ApprovalStore(local.database).decide(approval.id, "approve", arguments={"text": "y"}, by=ANN)
        events = await ended(local, conversation, run)
    assert events[-1].data["message"] == "noted y"
    assert place.done == ["noted y"]


@pytest.mark.requirement("approvals.ask")
async def test_an_agent_asks_a_person_and_gets_their_words(place: Place) -> None:
    async with place.process() as local:
        conversation, run = await waits(local, [[["ask_person", {"question": "Is Ann a friend?"}]]])
        approval = await asked(local, run)
        assert (approval.kind, approval.reason) == ("agent", "Is Ann a friend?")
        await ApprovalStore(local.database).decide(approval.id, "approve", reason="An old one.", by=ANN)
        events = await ended(local, conversation, run)
    assert events[-1].data["message"] == "An old one."


@pytest.mark.requirement("approvals.survive")
async def test_what_was_done_before_the_pause_is_not_done_again(place: Place) -> None:
    step = [["note", {"text": "before"}], ["refund", {"amount": 1}], ["note", {"text": "after"}]]
    async with place.process(model=(model := Obedient())) as local:
        conversation, run = await waits(local, [step, [["refund", {"amount": 2}]]])
    async with place.process(model=(other := Obedient())) as local:
        store = ApprovalStore(local.database)
        await store.decide((await asked(local, run)).id, "approve", by=ANN)
        await pending(local, conversation, run, number=2)
        second = await asked(local, run)
        assert second.arguments == {"amount": 2}
        await store.decide(second.id, "approve", by=ANN)
        events = await ended(local, conversation, run)
    assert sorted(place.done) == ["noted after", "noted before", "refunded 1", "refunded 2"]
    assert events[-1].data["message"] == "noted before | refunded 1 | noted after | refunded 2"
    assert told(events) == ["pending", "approved"] * 2
    assert len(model.asked) + len(other.asked) == 3, "each of the model's three answers is paid once"
    assert sum(event.type == "cost" for event in events) == 3


@pytest.mark.requirement("approvals.expiry")
async def test_where_nobody_answers_the_run_goes_on_by_the_default(place: Place) -> None:
    async with place.process(approval_seconds=0.3) as local:
        refused, refused_run = await waits(local, REFUND)
        passed, passed_run = await waits(local, [[["tidy", {}]]])
        no, yes = await ended(local, refused, refused_run), await ended(local, passed, passed_run)
    assert "Nobody has allowed refund in time." in no[-1].data["message"]
    assert yes[-1].data["message"] == "tidied"
    assert (told(no), told(yes)) == (["pending", "expired"], ["pending", "approved"])
    assert place.done == ["tidied"]


@pytest.mark.requirement("approvals.decide")
async def test_a_cancelled_run_asks_nobody_any_more(place: Place) -> None:
    async with place.process() as local:
        conversation, run = await waits(local, REFUND)
        approval = await asked(local, run)
        await local.conversations.cancel(US, conversation, run)
        events = await ended(local, conversation, run)
        assert events[-1].type == "error"
        store = ApprovalStore(local.database)
        with pytest.raises(Conflict, match="was withdrawn"):
            await store.decide(approval.id, "approve", by=ANN)
        answer = await local.ask(json.dumps([[["note", {"text": "next"}]]]), conversation=conversation)
        assert answer.text == "noted next"
    assert place.done == ["noted next"]
