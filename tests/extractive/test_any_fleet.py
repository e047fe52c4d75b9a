"""The rules work from schemas, messages and results alone: here for a library instead of a shop."""

from __future__ import annotations

import pytest

from .conftest import Desk


@pytest.mark.requirement("extractive.generic")
async def test_a_fleet_of_another_trade_reads_confirms_and_acts(desk: Desk) -> None:
    asked = await desk.say("I'd like to renew L-0001 please")
    assert "email" in asked
    weeks = await desk.say("ada@example.com")
    assert desk.calls == ["find_member_id_by_email", "get_member_details", "get_loan_details"]
    assert "“two”" in weeks
    assert "“four”" in weeks
    confirm = await desk.say("four weeks")
    assert "L-0001" in confirm
    assert desk.library.renewed == []
    await desk.say("yes")
    assert desk.library.renewed == [("L-0001", "four")]


async def test_a_state_that_a_tools_name_rules_out_is_refused_before_asking(desk: Desk) -> None:
    answer = await desk.say("Renew L-0002 for two weeks, my email is ada@example.com")
    assert "overdue" in answer
    assert "active" in answer
    assert desk.library.renewed == []


async def test_the_only_record_in_the_right_state_is_taken_where_none_is_named(desk: Desk) -> None:
    assert "L-0001" in await desk.say("Please renew my loan for two weeks. ada@example.com")
    await desk.say("yes")
    assert desk.library.renewed == [("L-0001", "two")]


async def test_nothing_is_called_twice_with_the_same_arguments_in_a_turn(desk: Desk) -> None:
    await desk.say("Where is my loan L-0002? And L-0001? My email is ada@example.com")
    assert len(desk.calls) == len(set(desk.calls)) + 1, "one detail for each of the two loans"


async def test_an_error_of_a_tool_is_told_in_its_own_words(desk: Desk) -> None:
    assert "no such member" in await desk.say("Renew L-0001, I am eve@example.com")
    desk.conversation = None
    assert "no such loan" in await desk.say("ada@example.com, renew L-9999 for two weeks")
