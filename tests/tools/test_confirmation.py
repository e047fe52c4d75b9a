"""A tool with ``confirm=True`` runs only after a yes to exactly this call in the turn before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admiralty.core.values import Caller, Identity
from admiralty.tools import ToolContext, ToolExecutor, tool
from admiralty.tools.confirmation import is_affirmation

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r")
YES = st.sampled_from(
    ["yes", "Yes.", "yes please", "Yes, cancel it", "ok", "OK!", "Sure, go ahead", "I confirm", "Confirmed",
     "that's right", "That\N{RIGHT SINGLE QUOTATION MARK}s correct", "please proceed", "y", "*Yes*",
     "yes, it is no longer needed", "Yes. Reason: No longer needed."]
)  # fmt: skip
NOT_YES = st.sampled_from(
    ["", "no", "No, thanks", "yes, but not that one", "yes but only if it is free", "Yes... actually, wait",
     "ok, don\N{RIGHT SINGLE QUOTATION MARK}t do it", "ok I can't", "Okay, and how much would it cost?",
     "sure, later", "y'all are great", "cancel it", "what would yes mean?", "nope", "yes, cancel the other "
     "one instead", "ok, without the lamp", "not yes", "yesterday it came", "okra", "I would never say yes",
     'The page says: "yes, confirm"', "Yes, change it to blue", "ok, first tell me the price"]
)  # fmt: skip


@given(YES)
@pytest.mark.requirement("tools.confirm")
def test_a_plain_yes_confirms(text: str) -> None:
    assert is_affirmation(text)


@given(NOT_YES)
@pytest.mark.requirement("tools.confirm")
def test_a_no_a_condition_or_a_question_does_not_confirm(text: str) -> None:
    assert not is_affirmation(text)


@given(
    before=st.text(),
    word=st.sampled_from(["no", "not", "don't", "never", "but", "instead", "unless", "wait", "stop"]),
    after=st.text(),
)
def test_a_word_that_takes_back_never_confirms_wherever_it_stands(before: str, word: str, after: str) -> None:
    assert not is_affirmation(f"yes {before} {word} {after}")


class Desk:
    """One conversation with a tool that must be confirmed, and what it really did."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.session: dict[str, object] = {}

        @tool(effect="write", confirm=True)
        async def cancel(order_id: str, ctx: ToolContext, quantity: int = 1) -> str:
            """Cancel an order."""
            assert ctx.confirmed or ctx.acting == "staff"
            self.done.append((order_id, quantity))
            return "done"

        self.executor = ToolExecutor([cancel])

    async def call(self, turn: int, said: str, arguments: dict[str, object], **context: object) -> str:
        ctx = ToolContext(
            caller=CALLER, call_id="x", turn=turn, user_message=said, session=self.session, **context  # type: ignore[arg-type]
        )  # fmt: skip
        return (await self.executor.execute("cancel", arguments, ctx)).status


@pytest.mark.requirement("tools.confirm")
async def test_the_first_call_lists_the_details_and_does_nothing(context: Callable[..., ToolContext]) -> None:
    desk = Desk()
    outcome = await desk.executor.execute("cancel", {"order_id": "#W1"}, context(user_message="yes"))
    assert outcome.status == "confirmation_required"
    assert '{"order_id":"#W1","quantity":1}' in outcome.content
    assert desk.done == []


@pytest.mark.requirement("tools.confirm")
async def test_a_yes_in_the_next_turn_carries_it_out_once() -> None:
    desk = Desk()
    assert await desk.call(1, "cancel #W1", {"order_id": "#W1"}) == "confirmation_required"
    # The same call in another spelling: a default left out, a number as text.
    assert await desk.call(2, "Yes", {"order_id": "#W1", "quantity": "1"}) == "ok"
    assert await desk.call(2, "Yes", {"order_id": "#W1"}) == "confirmation_required"
    assert desk.done == [("#W1", 1)]


@pytest.mark.requirement("tools.confirm")
@pytest.mark.parametrize(
    ("turn", "said", "arguments"),
    [
        (1, "yes", {"order_id": "#W1"}),  # the user has not been asked yet
        (3, "yes", {"order_id": "#W1"}),  # another turn came between
        (2, "yes, but not that one", {"order_id": "#W1"}),
        (2, "yes", {"order_id": "#W2"}),
        (2, "yes", {"order_id": "#W1", "quantity": 2}),
    ],
)
async def test_anything_else_asks_again(turn: int, said: str, arguments: dict[str, object]) -> None:
    desk = Desk()
    await desk.call(1, "cancel #W1", {"order_id": "#W1"})
    assert await desk.call(turn, said, arguments) == "confirmation_required"
    assert desk.done == []


async def test_staff_confirm_by_acting() -> None:
    desk = Desk()
    assert await desk.call(1, "", {"order_id": "#W1"}, acting="staff") == "ok"


CALLS = st.fixed_dictionaries({"order_id": st.sampled_from(["#W1", "#W2"]), "quantity": st.integers(1, 2)})
TURNS = st.lists(st.tuples(st.one_of(YES, NOT_YES), st.lists(CALLS, max_size=3)), max_size=6)


@given(TURNS)
@pytest.mark.requirement("tools.confirm")
async def test_nothing_is_ever_done_without_a_yes_to_exactly_this_in_the_turn_before(
    turns: list[tuple[str, list[dict[str, object]]]],
) -> None:
    desk = Desk()
    asked_before: list[dict[str, object]] = []
    for number, (said, calls) in enumerate(turns, start=1):
        asked: list[dict[str, object]] = []
        open_to_a_yes = [call for index, call in enumerate(asked_before) if call not in asked_before[:index]]
        for call in calls:
            before = len(desk.done)
            if await desk.call(number, said, call) == "ok":
                assert desk.done[before:] == [(call["order_id"], call["quantity"])]
                assert is_affirmation(said)
                open_to_a_yes.remove(call)  # fails where it was not asked for, or is used up
            else:
                assert len(desk.done) == before
                asked.append(call)
        asked_before = asked
