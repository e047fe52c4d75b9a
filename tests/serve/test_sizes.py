"""What is sent to an agent's deployment must fit through gRPC, also what a visit is made again from."""

from __future__ import annotations

import pickle

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.core.errors import LimitExceeded
from admiralty.core.values import (
    Caller,
    Identity,
    JournalEntry,
    ModelReply,
    Recorded,
    Usage,
    Visit,
    VisitResult,
)
from admiralty.runtime.durable.naming import of_visit
from admiralty.runtime.serve.remote import check_size


def entry(key: str, characters: int) -> JournalEntry:
    reply = ModelReply(
        message=AIMessage("x" * characters), model="m", tier="small", usage=Usage(), cost=None, seconds=0.0
    )
    return JournalEntry(key=key, session={}, reply=reply)


def visit(*entries: JournalEntry, number: int = 0) -> Visit:
    caller = Caller(
        identity=Identity(), fleet="f", agent="a", agent_version="v", conversation_id="c", run_id="r", fence=2
    )
    recorded = of_visit(Recorded(replies={entry.key: entry for entry in entries}), number)
    return Visit(caller=caller, turn=1, messages=(HumanMessage("hi"),), session={}, recorded=recorded)


@pytest.mark.requirement("durable.size")
def test_a_visit_whose_record_is_too_large_to_be_sent_is_refused_with_what_to_do() -> None:
    check_size(visit(entry("0.1", 2_000_000)))
    with pytest.raises(LimitExceeded, match=r"a takes 4,000,\d+ bytes; .*placement=\"inline\"") as refused:
        check_size(visit(entry("0.1", 2_000_000), entry("0.2", 2_000_000)))
    assert refused.value.details["limit"] == "recorded"


@pytest.mark.requirement("durable.size")
def test_a_visit_is_sent_its_own_record_only_and_arrives_as_it_was() -> None:
    sent = visit(entry("0.1", 4_000_000), entry("1.1", 10), entry("10.1", 4_000_000), number=1)
    check_size(sent)
    assert list(sent.recorded.replies) == ["1.1"]
    assert pickle.loads(pickle.dumps(sent)) == sent
    result = VisitResult(messages=(), session={}, journal=tuple(sent.recorded.replies.values()))
    assert pickle.loads(pickle.dumps(result)) == result
