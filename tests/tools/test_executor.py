"""Running a tool call: whatever happens inside, what comes out is an outcome that a model can read."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
import threading
from collections.abc import Callable
from decimal import Decimal

import pytest
from pydantic import BaseModel

from admiralty.core.errors import DefinitionError, NotFound
from admiralty.tools import ToolContext, ToolError, ToolExecutor, tool

Context = Callable[..., ToolContext]


class Order(BaseModel):
    id: str
    total: Decimal


@dataclasses.dataclass
class Parcel:
    order: Order
    weight: float


@tool(effect="read")
async def order(order_id: str, quantity: int = 1) -> Order:
    """Read an order."""
    if order_id == "#W0":
        raise ToolError("There is no order #W0. Ask for the number again.")
    return Order(id=order_id, total=Decimal("1.10") * quantity)


@tool(effect="read")
def parcel(order_id: str) -> dict[str, object]:
    """Read a parcel, in a thread."""
    return {"parcel": Parcel(order=Order(id=order_id, total=Decimal(2)), weight=1.5), "größe": "groß"}


@tool(effect="read")
async def slow() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return ""


fast_slow = dataclasses.replace(slow, timeout=0.02)


@pytest.mark.requirement("tools.execute")
async def test_results_are_read_as_json_and_text_as_it_is(context: Context) -> None:
    @tool
    def text() -> str:
        """Say it."""
        return 'plain "text"'

    executor = ToolExecutor([order, parcel, text])
    outcome = await executor.execute("order", {"order_id": "#W1", "quantity": "2"}, context())
    assert outcome.status == "ok"
    assert json.loads(outcome.content) == {"id": "#W1", "total": "2.20"}
    assert 0 <= outcome.seconds < 5
    nested = await executor.execute("parcel", {"order_id": "#W1"}, context())
    assert json.loads(nested.content)["parcel"] == {"order": {"id": "#W1", "total": "2"}, "weight": 1.5}
    assert "größe" in nested.content
    assert (await executor.execute("text", {}, context())).content == 'plain "text"'


@pytest.mark.requirement("tools.execute")
async def test_sync_tools_run_in_a_thread_and_async_ones_on_the_loop(context: Context) -> None:
    threads: dict[str, threading.Thread] = {}

    @tool
    def blocking() -> None:
        """Run."""
        threads["sync"] = threading.current_thread()

    @tool
    async def waiting() -> None:
        """Run."""
        threads["async"] = threading.current_thread()

    executor = ToolExecutor([blocking, waiting])
    for name in executor.tools:
        assert (await executor.execute(name, {}, context())).content == "null"
    assert threads["async"] is threading.current_thread()
    assert threads["sync"] is not threading.current_thread()


@pytest.mark.requirement("tools.arguments")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Error: order_id: Field required"),
        ({"order_id": "#W1", "colour": "red"}, "Error: colour: Extra inputs are not permitted"),
        (
            {"order_id": 1, "quantity": "two"},
            "Error: order_id: Input should be a valid string; quantity: Input should be a valid integer, "
            "unable to parse string as an integer",
        ),
    ],
)
async def test_wrong_arguments_are_told_to_the_model_by_name(
    context: Context, arguments: dict[str, object], message: str
) -> None:
    outcome = await ToolExecutor([order]).execute("order", arguments, context())
    assert (outcome.status, outcome.content) == ("error", message)


@pytest.mark.requirement("tools.errors")
async def test_an_unknown_tool_is_answered_with_the_known_ones(context: Context) -> None:
    outcome = await ToolExecutor([parcel, order]).execute("orders", {}, context())
    assert outcome.content == "Error: there is no tool 'orders'. Tools: order, parcel."
    assert (await ToolExecutor([]).execute("x", {}, context())).content.endswith("Tools: none.")


@pytest.mark.requirement("tools.errors")
async def test_a_tool_error_is_told_to_the_model_in_its_own_words(context: Context) -> None:
    outcome = await ToolExecutor([order]).execute("order", {"order_id": "#W0"}, context())
    assert outcome.content == "Error: There is no order #W0. Ask for the number again."


@pytest.mark.requirement("tools.errors")
@pytest.mark.parametrize(
    "error", [ValueError("secret path"), SystemExit("secret"), TimeoutError("secret"), NotFound("secret")]
)
async def test_an_unexpected_error_tells_the_log_but_not_the_model(
    context: Context, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    @tool
    async def broken() -> None:
        """Break."""
        raise error

    @tool
    def exits() -> None:
        """Break in a thread."""
        if isinstance(error, SystemExit):
            sys.exit("secret")
        raise error

    executor = ToolExecutor([broken, exits])
    for name in executor.tools:
        with caplog.at_level(logging.ERROR):
            outcome = await executor.execute(name, {}, context())
        assert outcome.content == f"Error: {name} failed unexpectedly. Do not try again in this turn."
        assert "secret" in caplog.text
        caplog.clear()


@pytest.mark.requirement("tools.errors")
async def test_a_result_that_is_no_json_is_an_error_too(context: Context) -> None:
    @tool
    async def strange() -> object:
        """Return what JSON cannot say."""
        return {("a", "b"): 1}

    assert (await ToolExecutor([strange]).execute("strange", {}, context())).status == "error"


@pytest.mark.requirement("tools.timeout")
async def test_a_tool_that_takes_too_long_is_given_up(context: Context) -> None:
    release = threading.Event()

    @tool(timeout=0.02)
    def blocked() -> None:
        """Wait in a thread."""
        release.wait(10)

    executor = ToolExecutor([fast_slow, blocked])
    try:
        for name in executor.tools:
            outcome = await executor.execute(name, {}, context())
            assert outcome.status == "error"
            assert outcome.content == f"Error: {name} did not answer within 0.02 s."
    finally:
        release.set()


async def test_cancelling_a_call_cancels_the_tool(context: Context) -> None:
    task = asyncio.create_task(ToolExecutor([slow]).execute("slow", {}, context()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.requirement("tools.errors")
async def test_a_result_longer_than_a_model_can_bear_is_refused(context: Context) -> None:
    @tool
    async def everything() -> str:
        """Return everything."""
        return "x" * 60_001

    outcome = await ToolExecutor([everything]).execute("everything", {}, context())
    assert outcome.content == "Error: the result of everything is too long (60001 characters)."


@pytest.mark.requirement("tools.definition_errors")
def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match=r"tools = 'slow': two tools have this name\. Rename one"):
        ToolExecutor([slow, fast_slow])


async def test_what_one_call_writes_to_the_session_the_next_one_reads(context: Context) -> None:
    @tool
    async def remember(ctx: ToolContext, what: str | None = None) -> str:
        """Remember."""
        if what:
            ctx.session["what"] = what
        return str(ctx.session.get("what"))

    session: dict[str, object] = {}
    executor = ToolExecutor([remember])
    await executor.execute("remember", {"what": "keys"}, context(session=session))
    assert (await executor.execute("remember", {}, context(session=session))).content == "keys"


@pytest.mark.requirement("tools.rehearse")
async def test_a_rehearsal_comes_before_the_question_and_is_no_execution(context: Context) -> None:
    seen: list[bool] = []

    @tool(effect="write", confirm=True, rehearse=True)
    def launch(name: str, ctx: ToolContext) -> str:
        """Launch something."""
        seen.append(ctx.rehearsal)
        if name == "nothing":
            raise ToolError("there is nothing to launch")
        return "rehearsed" if ctx.rehearsal else "launched"

    executor, session = ToolExecutor([launch]), dict[str, object]()
    refused = await executor.execute("launch", {"name": "nothing"}, context(turn=1, session=session))
    asked = await executor.execute("launch", {"name": "ship"}, context(turn=1, session=session))
    assert (refused.status, asked.status) == ("error", "confirmation_required")
    done = await executor.execute(
        "launch", {"name": "ship"}, context(turn=2, session=session, user_message="yes")
    )
    assert (done.status, done.content) == ("ok", "launched")
    assert seen == [True, True, False]


def test_a_rehearsal_without_confirmation_or_context_is_a_mistake() -> None:
    with pytest.raises(DefinitionError, match="rehearse"):

        @tool(effect="write", rehearse=True)
        def launch(name: str) -> str:
            """Launch something."""
            return name
