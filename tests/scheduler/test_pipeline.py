"""The scheduler's pipeline: stages in order, nothing ungoverned."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from admiralty.core.errors import ConfigurationError, ProviderUnavailable
from admiralty.core.ports import AnswerStream
from admiralty.core.values import ModelReply
from admiralty.runtime.scheduler import LocalScheduler
from admiralty.runtime.scheduler.pipeline import Attempt, Next

from .conftest import CALL, reply


@pytest.mark.requirement("scheduler.order")
async def test_stages_run_in_the_order_of_the_list_and_see_the_answer_in_reverse() -> None:
    seen: list[str] = []

    def stage(name: str) -> Any:
        async def run(attempt: Attempt, following: Next) -> AnswerStream:
            seen.append(f"{name} in")
            async with aclosing(following(attempt)) as stream:
                async for chunk in stream:
                    seen.append(f"{name} out")
                    yield chunk

        return run

    async def answer(attempt: Attempt, _: Next) -> AnswerStream:
        yield reply()

    await LocalScheduler([stage("a"), stage("b"), answer]).complete(CALL)
    assert seen == ["a in", "b in", "b out", "a out"]


@pytest.mark.requirement("scheduler.closed")
async def test_nothing_is_answered_where_no_stage_answers() -> None:
    with pytest.raises(ConfigurationError, match="no stages"):
        LocalScheduler([])

    async def passes(attempt: Attempt, following: Next) -> AnswerStream:
        async for chunk in following(attempt):
            yield chunk

    with pytest.raises(ConfigurationError, match="dispatch must be the last"):
        await LocalScheduler([passes]).complete(CALL)

    async def silent(attempt: Attempt, following: Next) -> AnswerStream:
        chunks: list[ModelReply] = []
        for chunk in chunks:
            yield chunk

    with pytest.raises(ProviderUnavailable):
        await LocalScheduler([silent]).complete(CALL)
