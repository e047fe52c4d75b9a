"""Customers are held to their own records, and to confirmation, by code."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from admiralty.core.values import Passage
from admiralty.fleets.support.shop import Shop
from admiralty.fleets.support.tools import TRANSFER, WRITE_TOOLS
from admiralty.tools import ToolExecutor, ToolOutcome

Call = Callable[..., Awaitable[ToolOutcome]]

MAYA, SOFIA = "maya_chen_1001", "sofia_ruiz_1003"
NOT_IDENTIFIED = "Error: the customer is not authenticated yet"
ONE_CUSTOMER = "Error: can only help one user per conversation"
ADDRESS = {
    "address1": "7 Harbor Row",
    "address2": "",
    "city": "Astoria",
    "state": "OR",
    "country": "USA",
    "zip": "97103",
}


def writes(order_id: str, user_id: str) -> list[tuple[str, dict[str, Any]]]:
    swap = {
        "order_id": order_id,
        "item_ids": ["3708189118"],
        "new_item_ids": ["4448618970"],
        "payment_method_id": "credit_card_7871916",
    }
    back = {key: value for key, value in swap.items() if key != "new_item_ids"}
    return [
        ("cancel_pending_order", {"order_id": order_id, "reason": "no longer needed"}),
        ("modify_pending_order_address", {"order_id": order_id, **ADDRESS}),
        (
            "modify_pending_order_payment",
            {"order_id": order_id, "payment_method_id": "credit_card_7871916"},
        ),
        ("modify_pending_order_items", swap),
        ("exchange_delivered_order_items", swap),
        ("return_delivered_order_items", back),
        ("modify_user_address", {"user_id": user_id, **ADDRESS}),
    ]


def test_the_list_of_writes_in_these_tests_is_complete() -> None:
    assert {name for name, _ in writes("", "")} == {tool.name for tool in WRITE_TOOLS if tool.confirm}
    assert {tool.name for tool in WRITE_TOOLS if not tool.confirm} == {"transfer_to_human_agents"}


@pytest.mark.requirement("support.identify")
async def test_before_the_customer_is_identified_only_products_are_told(stranger: Call, shop: Shop) -> None:
    product = shop.store.products()[0]
    for name, arguments in (
        ("get_user_details", {"user_id": MAYA}),
        ("get_order_details", {"order_id": "#W1001001"}),
        ("get_order_details", {"order_id": "#W9999999"}),
        *writes("#W1001001", MAYA),
    ):
        assert (await stranger(name, arguments)).content.startswith(NOT_IDENTIFIED), name
    assert shop.store.changed() == {}
    told = await stranger("get_product_details", {"product_id": product["product_id"]})
    assert json.loads(told.content) == product
    assert product["name"] in json.loads((await stranger("list_all_product_types")).content)


@pytest.mark.requirement("support.one_customer")
async def test_another_customers_records_are_refused_as_if_they_did_not_exist(maya: Call, shop: Shop) -> None:
    for name, arguments in writes("#W1003001", SOFIA):
        unknown = {key: "#W9999999" if key == "order_id" else value for key, value in arguments.items()}
        unknown |= {key: "nobody_at_all_0" for key in arguments if key == "user_id"}
        theirs, nobodys = await maya(name, arguments), await maya(name, unknown)
        assert theirs.status == nobodys.status == "error"
        assert theirs.content == nobodys.content, name
    for name, key, theirs_id, unknown_id in (
        ("get_order_details", "order_id", "#W1003001", "#W9999999"),
        ("get_user_details", "user_id", SOFIA, "nobody_at_all_0"),
        ("find_user_id_by_email", "email", "sofia.ruiz@example.com", "nobody@example.com"),
    ):
        theirs, nobodys = await maya(name, {key: theirs_id}), await maya(name, {key: unknown_id})
        assert theirs.status == "error"
        assert theirs.content == nobodys.content
    assert shop.store.changed() == {}


@pytest.mark.requirement("support.one_customer")
async def test_a_conversation_serves_the_customer_who_was_identified_first(maya: Call) -> None:
    by_name = {"first_name": "Sofia", "last_name": "Ruiz", "zip": "85732"}
    for name, arguments in (
        ("find_user_id_by_email", {"email": "sofia.ruiz@example.com"}),
        ("find_user_id_by_name_zip", by_name),
    ):
        assert (await maya(name, arguments)).content.startswith(ONE_CUSTOMER)
    again = await maya("find_user_id_by_email", {"email": "MAYA.CHEN@example.com"})
    assert again.content == MAYA
    details = await maya("get_user_details", {"user_id": MAYA})
    assert json.loads(details.content)["name"]["first_name"] == "Maya"


async def test_a_failed_identification_identifies_nobody(stranger: Call) -> None:
    wrong_zip = {"first_name": "Maya", "last_name": "Chen", "zip": "00000"}
    assert (await stranger("find_user_id_by_name_zip", wrong_zip)).content == "Error: user not found"
    refused = await stranger("get_order_details", {"order_id": "#W1001001"})
    assert refused.content.startswith(NOT_IDENTIFIED)


async def test_staff_see_and_change_every_customers_records(staff: Call, shop: Shop) -> None:
    for user_id in (MAYA, SOFIA):
        assert (await staff("get_user_details", {"user_id": user_id})).status == "ok"
        assert (await staff("modify_user_address", {"user_id": user_id, **ADDRESS})).status == "ok"
    assert set(shop.store.changed()["users"]) == {MAYA, SOFIA}


@pytest.mark.requirement("support.confirm")
async def test_every_write_waits_for_the_customers_yes(maya: Call, shop: Shop) -> None:
    asked = []
    for name, arguments in writes("#W1001001", MAYA):
        outcome = await maya(name, arguments, confirmed=False, message=f"please do {name}")
        assert outcome.status != "ok", name
        asked += [name] if outcome.status == "confirmation_required" else []
    assert {"cancel_pending_order", "modify_pending_order_address", "modify_user_address"} <= set(asked)
    assert shop.store.changed() == {}


@pytest.mark.requirement("tools.rehearse")
async def test_what_the_rules_refuse_is_refused_before_anybody_is_asked(maya: Call, shop: Shop) -> None:
    cancel = {"order_id": "#W1001002", "reason": "no longer needed"}
    outcome = await maya("cancel_pending_order", cancel, confirmed=False, message="cancel #W1001002")
    assert (outcome.status, outcome.content) == ("error", "Error: non-pending order cannot be cancelled")
    assert shop.store.changed() == {}


@pytest.mark.requirement("support.confirm")
async def test_a_yes_carries_out_the_very_action_that_was_asked_about(maya: Call, shop: Shop) -> None:
    cancel = {"order_id": "#W1001001", "reason": "no longer needed"}
    other = {"order_id": "#W1001001", "reason": "ordered by mistake"}

    async def say(turn: int, message: str, arguments: dict[str, Any]) -> str:
        outcome = await maya("cancel_pending_order", arguments, confirmed=False, turn=turn, message=message)
        return outcome.status

    assert await say(1, "cancel my order", cancel) == "confirmation_required"
    assert await say(2, "yes, but tell me the price first", cancel) == "confirmation_required"
    assert await say(3, "yes", other) == "confirmation_required"
    assert shop.store.changed() == {}
    assert await say(4, "yes", other) == "ok"
    assert shop.store.changed()["orders"]["#W1001001"]["cancel_reason"] == "ordered by mistake"


async def test_a_transfer_to_a_human_is_noted_in_the_conversation(shop: Shop, stranger: Any) -> None:
    outcome = await stranger("transfer_to_human_agents", {"summary": "wants to buy the shop"}, turn=3)
    assert outcome.content == "Transfer successful"
    assert stranger.session[TRANSFER] == {"turn": 3, "summary": "wants to buy the shop"}


async def test_a_thought_changes_nothing_and_says_nothing(stranger: Call, shop: Shop) -> None:
    outcome = await stranger("think", {"thought": "is it pending?"})
    assert (outcome.status, outcome.content) == ("ok", "")


class Documents:
    """A memory with one passage."""

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        return [
            Passage(
                source="policy.md",
                heading="Desk policy > Refund of a return",
                text=f"{corpus}: {query}",
                start=10,
                end=40,
                score=0.5,
            )
        ]

    async def embed(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError


@pytest.mark.requirement("support.citations")
async def test_policy_passages_come_with_their_citation_and_place(
    shop: Shop, executor: ToolExecutor, stranger: Any
) -> None:
    missing = await stranger("search_policy", {"query": "refund"})
    assert missing.content == "Error: the policy cannot be searched here"
    conversation = type(stranger)(shop, executor, "customer", Documents())
    outcome = await conversation("search_policy", {"query": "refund"})
    assert json.loads(outcome.content) == [
        {
            "citation": "[policy.md, Refund of a return]",
            "heading": "Desk policy > Refund of a return",
            "text": "policy: refund",
            "source": "policy.md",
            "start": 10,
            "end": 40,
        }
    ]
