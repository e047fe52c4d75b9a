"""Every interleaving of executions, crashes, late words, doubts and people, over the real SQL.

The model beside it knows the truth: which calls were really carried out, by whom, and whether anybody may
still carry one out. A call must never be carried out twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict, NotFound, RunLost
from admiralty.core.values import Access, EffectCall
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import conversations, effects, runs

from .world import CALLER

CALLS = ["call_a", "call_b"]
DONE = {"status": "ok", "content": "done", "ran": True, "session": {}}


@dataclass
class Hands:
    """An execution that was told to make a call: what it does with it is its own time."""

    access: Access
    carried_out: bool = False
    doubted: bool = False


@dataclass
class Truth:
    """What really became of a call."""

    carried_out: int = 0
    may_run: list[Hands] = field(default_factory=list)
    """Who was told to make it and has not said a word yet."""


class Executions(RuleBasedStateMachine):
    """One run, whose executions die at any moment, or go on as zombies."""

    database: ClassVar[Database]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.book = EffectBook(self.database, SystemClock())
        self.fence = 0
        self.live = False
        self.truth = {name: Truth() for name in CALLS}

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def write(self, work: Any) -> Any:
        return self.do(self.database.write(work))

    @initialize()
    def begin_anew(self) -> None:
        def clear(connection: sa.Connection) -> None:
            for table in (effects, runs, conversations):
                connection.execute(table.delete())
            of = {"id": "conv_1", "tenant": "acme", "fleet": "desk", "metadata": {}}
            connection.execute(conversations.insert(), of | {"created_at": 0.0, "updated_at": 0.0})
            run = {"id": "run_1", "conversation_id": "conv_1", "turn": 1, "tenant": "acme", "fleet": "desk"}
            run |= {"status": "queued", "owner": "", "lease_until": 0.0, "message": "m", "started_at": 0.0}
            connection.execute(runs.insert(), run)

        self.write(clear)

    def access(self, name: str, fence: int, *, resolved: Any = "") -> Access:
        return Access(
            id="x",
            caller=replace(CALLER, fence=fence),
            action="tool:call",
            resource="note",
            attributes={"effect": "write"},
            effect=EffectCall(call_id=name, digest=name * 4, arguments={}, resolved=resolved),
        )

    @rule()
    def take_over(self) -> None:
        self.fence += 1
        self.live = True
        changed = runs.update().values(fence=self.fence, status="running")
        self.write(lambda connection: connection.execute(changed))

    @precondition(lambda self: self.live)
    @rule()
    def park(self) -> None:
        self.live = False
        self.write(lambda connection: connection.execute(runs.update().values(status="parked")))

    @precondition(lambda self: self.fence)
    @rule(name=st.sampled_from(CALLS), behind=st.integers(0, 2), recalls=st.booleans())
    def ask(self, name: str, behind: int, recalls: bool) -> None:
        """An execution, perhaps one that has lost the run, is about to make the call."""
        truth, fence = self.truth[name], max(1, self.fence - behind)
        owns = self.live and fence == self.fence
        try:
            known = self.do(self.book.recall(self.access(name, fence))) if recalls else None
            known = known or self.do(self.book.begin(self.access(name, fence)))
        except RunLost:
            assert not owns
            return
        assert owns
        if known.state == "unknown":
            # The tool looks where it acts. An execution that may yet act is what it cannot see, so it
            # only says not_done where nobody is left that may.
            if truth.carried_out:
                self.do(self.book.finish(self.access(name, fence), DONE, by="reconcile"))
                return
            mine = [hands for hands in truth.may_run if hands.access.caller.fence == fence]
            if any(hands.doubted for hands in mine):
                return  # given up, and may still do it: the tool cannot tell
            if mine:
                again = self.do(self.book.begin(self.access(name, fence, resolved="not_done")))
                assert again.state == "unknown", "this very execution has it in hand"
                return
            truth.may_run.clear()
            known = self.do(self.book.begin(self.access(name, fence, resolved="not_done")))
        if known.state == "finished":
            assert truth.carried_out == (known.outcome == DONE)
        else:
            assert known.state == "begun"
            assert not truth.carried_out
            assert not truth.may_run, "two may make it"
            truth.may_run.append(Hands(self.access(name, fence)))

    @rule(name=st.sampled_from(CALLS))
    def carry_out(self, name: str) -> None:
        """Whoever was told to makes the call; whether it lives to tell is another matter."""
        for hands in self.truth[name].may_run:
            if not hands.carried_out:
                hands.carried_out = True
                self.truth[name].carried_out += 1

    @rule(name=st.sampled_from(CALLS), says=st.sampled_from(["done", "doubt", "nothing"]))
    def tell(self, name: str, says: str) -> None:
        """Whoever has the call in hand, zombie or not, says how it ended; or dies."""
        for hands in self.truth[name].may_run:
            if says == "done" and hands.carried_out:
                self.do(self.book.finish(hands.access, DONE, by="tool"))
            elif says == "doubt":
                self.do(self.book.doubt(hands.access))
                hands.doubted = True
            elif says == "nothing" and not hands.carried_out:
                self.do(self.book.forget(hands.access))
            else:
                continue
            if says != "doubt":
                self.truth[name].may_run.remove(hands)
                return

    @rule(name=st.sampled_from(CALLS), lies=st.booleans())
    def resolve(self, name: str, lies: bool) -> None:
        """A person looks: at what was carried out, once nobody is left who may."""
        truth = self.truth[name]
        if lies:
            with pytest.raises(NotFound):
                self.do(self.book.resolve("run_1", name, done=True, by="eve", tenant="evil"))
            return
        try:
            self.do(
                self.book.resolve(
                    "run_1", name, done=truth.carried_out > 0, by="ann", result="done", tenant="acme"
                )
            )
        except (Conflict, NotFound):
            return
        assert not self.live
        truth.may_run.clear()
        if truth.carried_out:
            told = effects.update().where(effects.c.call_id == name).values(outcome=DONE)
            self.write(lambda connection: connection.execute(told))

    @invariant()
    def nothing_is_done_twice(self) -> None:
        for truth in self.truth.values():
            assert truth.carried_out <= 1
        rows = self.do(self.book.of_run("run_1"))
        for row in rows:
            truth = self.truth[row.call_id]
            if row.status == "finished":
                assert truth.carried_out
            if row.status == "undone":
                assert not truth.carried_out
        known = {row.call_id for row in rows}
        for name, truth in self.truth.items():
            assert name in known or not truth.carried_out, "what was done is in the book"


@pytest.mark.requirement("effects.machine")
def test_no_interleaving_makes_a_call_twice(database_url: str) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        database = Database(database_url)

        class OnThis(Executions):
            """On the test's own database."""

        OnThis.database, OnThis.loop = database, loop
        case = OnThis.TestCase
        case.settings = settings(
            max_examples=80,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        try:
            case().runTest()
        finally:
            loop.run_until_complete(database.close())
