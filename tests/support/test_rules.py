"""What the desk refuses and what it does, through its tools, on both stores."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from admiralty.fleets.support.shop import Shop
from admiralty.tools import ToolOutcome

Call = Callable[..., Awaitable[ToolOutcome]]

MAYA_PENDING = "#W1001001"
MAYA_DELIVERED = "#W1001002"
MAYA_PROCESSED = "#W1001003"
MAYA_CARD = "credit_card_7871916"
MAYA_GIFT_CARD = "gift_card_8993293"  # holds 60.00
SOFIA_PENDING = "#W1003001"  # paid by her gift card, which holds 240.00
SOFIA_DELIVERED = "#W1003002"  # the same bird feeder twice, paid by PayPal
SOFIA_PENDING_BY_PAYPAL = "#W1003004"
SOFIA_GIFT_CARD = "gift_card_3923409"
SOFIA_CARD = "credit_card_3591471"
SOFIA_PAYPAL = "paypal_9028533"


def items(shop: Shop, order_id: str) -> list[str]:
    order = shop.store.order(order_id)
    assert order is not None
    return [item["item_id"] for item in order["items"]]


def variants(shop: Shop, order_id: str, place: int, *, available: bool = True) -> list[str]:
    """Ids of the variants of an ordered product, cheapest first, without the one ordered."""
    order = shop.store.order(order_id)
    assert order is not None
    product = shop.store.product(order["items"][place]["product_id"])
    assert product is not None
    found = [v for v in product["variants"].values() if v["available"] == available]
    ids = [v["item_id"] for v in sorted(found, key=lambda v: v["price"])]
    return [item_id for item_id in ids if item_id != order["items"][place]["item_id"]]


def balance(shop: Shop, user_id: str, card: str) -> float:
    user = shop.store.user(user_id)
    assert user is not None
    return user["payment_methods"][card]["balance"]


def swap(order_id: str, old: list[str], new: list[str], method: str) -> dict[str, Any]:
    return {"order_id": order_id, "item_ids": old, "new_item_ids": new, "payment_method_id": method}


ADDRESS = {
    "address1": "7 Harbor Row",
    "address2": "",
    "city": "Astoria",
    "state": "OR",
    "country": "USA",
    "zip": "97103",
}


async def test_an_order_that_is_not_pending_is_neither_cancelled_nor_modified(maya: Call, shop: Shop) -> None:
    for order_id in (MAYA_PROCESSED, MAYA_DELIVERED):
        old, new = items(shop, order_id)[:1], variants(shop, order_id, 0)[:1]
        cancelled = await maya("cancel_pending_order", {"order_id": order_id, "reason": "no longer needed"})
        assert cancelled.content == "Error: non-pending order cannot be cancelled"
        for name, arguments in (
            ("modify_pending_order_address", {"order_id": order_id, **ADDRESS}),
            ("modify_pending_order_payment", {"order_id": order_id, "payment_method_id": MAYA_GIFT_CARD}),
            ("modify_pending_order_items", swap(order_id, old, new, MAYA_CARD)),
        ):
            assert (await maya(name, arguments)).content == "Error: non-pending order cannot be modified"
    assert shop.store.changed() == {}


async def test_an_order_that_is_not_delivered_is_neither_returned_nor_exchanged(
    maya: Call, shop: Shop
) -> None:
    for order_id in (MAYA_PENDING, MAYA_PROCESSED):
        old, new = items(shop, order_id)[:1], variants(shop, order_id, 0)[:1]
        exchanged = await maya("exchange_delivered_order_items", swap(order_id, old, new, MAYA_CARD))
        assert exchanged.content == "Error: non-delivered order cannot be exchanged"
        back = {"order_id": order_id, "item_ids": old, "payment_method_id": MAYA_GIFT_CARD}
        returned = await maya("return_delivered_order_items", back)
        assert returned.content == "Error: non-delivered order cannot be returned"
    assert shop.store.changed() == {}


async def test_a_cancellation_needs_one_of_the_two_reasons(maya: Call, shop: Shop) -> None:
    outcome = await maya("cancel_pending_order", {"order_id": MAYA_PENDING, "reason": "found it cheaper"})
    assert outcome.content == "Error: invalid reason"
    assert shop.store.changed() == {}


async def test_cancelling_refunds_a_gift_card_at_once(sofia: Call, shop: Shop) -> None:
    outcome = await sofia("cancel_pending_order", {"order_id": SOFIA_PENDING, "reason": "no longer needed"})
    order = json.loads(outcome.content)
    assert (order["status"], order["cancel_reason"]) == ("cancelled", "no longer needed")
    assert [entry["transaction_type"] for entry in order["payment_history"]] == ["payment", "refund"]
    assert balance(shop, "sofia_ruiz_1003", SOFIA_GIFT_CARD) == 357.85  # 240.00 and the 117.85 of the order
    again = await sofia("cancel_pending_order", {"order_id": SOFIA_PENDING, "reason": "no longer needed"})
    assert again.content == "Error: non-pending order cannot be cancelled"
    assert balance(shop, "sofia_ruiz_1003", SOFIA_GIFT_CARD) == 357.85


@pytest.mark.requirement("support.refund_once")
async def test_moving_the_payment_and_then_cancelling_pays_the_money_back_only_once(
    sofia: Call, shop: Shop
) -> None:
    moved = await sofia(
        "modify_pending_order_payment", {"order_id": SOFIA_PENDING, "payment_method_id": SOFIA_CARD}
    )
    assert moved.status == "ok"
    assert balance(shop, "sofia_ruiz_1003", SOFIA_GIFT_CARD) == 357.85
    cancelled = await sofia("cancel_pending_order", {"order_id": SOFIA_PENDING, "reason": "no longer needed"})
    history = json.loads(cancelled.content)["payment_history"]
    assert history[3:] == [{"transaction_type": "refund", "amount": 117.85, "payment_method_id": SOFIA_CARD}]
    assert balance(shop, "sofia_ruiz_1003", SOFIA_GIFT_CARD) == 357.85


async def test_a_payment_moves_once_and_only_to_another_method_that_can_pay(sofia: Call, maya: Call) -> None:
    async def move(who: Call, order_id: str, method: str) -> str:
        arguments = {"order_id": order_id, "payment_method_id": method}
        return (await who("modify_pending_order_payment", arguments)).content

    same = "Error: the new payment method should be different from the current one"
    assert await move(sofia, SOFIA_PENDING, SOFIA_GIFT_CARD) == same
    assert await move(sofia, SOFIA_PENDING, MAYA_CARD) == "Error: payment method not found"
    short = "Error: insufficient gift card balance to pay for the order"
    assert await move(maya, MAYA_PENDING, MAYA_GIFT_CARD) == short
    assert (await move(sofia, SOFIA_PENDING, SOFIA_CARD)).startswith("{")
    once = "Error: there should be exactly one payment for a pending order"
    assert await move(sofia, SOFIA_PENDING, SOFIA_PAYPAL) == once


async def test_a_gift_card_that_takes_over_a_payment_is_charged_at_once(sofia: Call, shop: Shop) -> None:
    order = shop.store.order(SOFIA_PENDING_BY_PAYPAL)
    assert order is not None
    amount = order["payment_history"][0]["amount"]
    arguments = {"order_id": SOFIA_PENDING_BY_PAYPAL, "payment_method_id": SOFIA_GIFT_CARD}
    moved = json.loads((await sofia("modify_pending_order_payment", arguments)).content)
    assert moved["status"] == "pending"
    assert moved["payment_history"][1:] == [
        {"transaction_type": "payment", "amount": amount, "payment_method_id": SOFIA_GIFT_CARD},
        {"transaction_type": "refund", "amount": amount, "payment_method_id": SOFIA_PAYPAL},
    ]
    assert balance(shop, "sofia_ruiz_1003", SOFIA_GIFT_CARD) == round(240 - amount, 2)


async def test_items_are_modified_once_and_the_gift_card_pays_the_difference(sofia: Call, shop: Shop) -> None:
    old, new = items(shop, SOFIA_PENDING)[0], variants(shop, SOFIA_PENDING, 0)[-1]
    outcome = await sofia("modify_pending_order_items", swap(SOFIA_PENDING, [old], [new], SOFIA_GIFT_CARD))
    order = json.loads(outcome.content)
    assert order["status"] == "pending (item modified)"
    assert order["items"][0]["item_id"] == new
    paid = order["payment_history"][-1]
    assert (paid["transaction_type"], paid["payment_method_id"]) == ("payment", SOFIA_GIFT_CARD)
    assert balance(shop, "sofia_ruiz_1003", SOFIA_GIFT_CARD) == round(240 - paid["amount"], 2)
    again = await sofia("modify_pending_order_items", swap(SOFIA_PENDING, [new], [old], SOFIA_GIFT_CARD))
    assert again.content == "Error: non-pending order cannot be modified"
    cancel = await sofia("cancel_pending_order", {"order_id": SOFIA_PENDING, "reason": "no longer needed"})
    assert cancel.content == "Error: non-pending order cannot be cancelled"


@pytest.mark.parametrize(
    ("name", "order_id"),
    [("modify_pending_order_items", MAYA_PENDING), ("exchange_delivered_order_items", MAYA_DELIVERED)],
)
@pytest.mark.requirement("support.rules")
async def test_items_are_swapped_only_for_available_variants_of_the_same_product(
    maya: Call, shop: Shop, name: str, order_id: str
) -> None:
    first, second = items(shop, order_id)
    good = variants(shop, order_id, 0)[0]
    of_other_product = variants(shop, order_id, 1)[0]
    sold_out = variants(shop, order_id, 0, available=False)[0]

    async def refused(old: list[str], new: list[str], method: str = MAYA_CARD) -> str:
        outcome = await maya(name, swap(order_id, old, new, method))
        assert outcome.status == "error", outcome.content
        return outcome.content

    assert await refused([first], [of_other_product]) == (
        f"Error: new item {of_other_product} not found or available"
    )
    assert await refused([first], [sold_out]) == f"Error: new item {sold_out} not found or available"
    assert await refused([first], ["1"]) == "Error: new item 1 not found or available"
    assert await refused(["1"], [good]) == "Error: 1 not found"
    assert await refused([first, first], [good, good]) == f"Error: {first} not found"
    assert await refused([first, second], [good]) == (
        "Error: the number of items to be exchanged should match"
    )
    assert await refused([first], [good], "paypal_0000000") == "Error: payment method not found"
    assert await refused([], []) == "Error: name at least one item"
    assert shop.store.changed() == {}


async def test_a_gift_card_must_cover_the_price_difference(daniel: Call, shop: Shop) -> None:
    tent, hammock = "#W1002001", "#W1002002"
    card = "gift_card_4755883"  # holds 8.50
    old, new = items(shop, tent)[:1], variants(shop, tent, 0)[-1:]
    outcome = await daniel("exchange_delivered_order_items", swap(tent, old, new, card))
    assert outcome.content == "Error: insufficient gift card balance to pay for the price difference"
    old, new = items(shop, hammock), variants(shop, hammock, 0)[-1:]
    outcome = await daniel("modify_pending_order_items", swap(hammock, old, new, card))
    assert outcome.content == "Error: insufficient gift card balance to pay for the new item"
    assert shop.store.changed() == {}


async def test_an_exchange_is_noted_once_and_no_money_moves_yet(maya: Call, shop: Shop) -> None:
    old = items(shop, MAYA_DELIVERED)
    new = [variants(shop, MAYA_DELIVERED, place)[0] for place in (0, 1)]
    outcome = await maya("exchange_delivered_order_items", swap(MAYA_DELIVERED, old, new, MAYA_GIFT_CARD))
    order = json.loads(outcome.content)
    assert order["status"] == "exchange requested"
    assert order["exchange_items"] == sorted(old)
    assert order["exchange_new_items"] == sorted(new)
    assert order["exchange_payment_method_id"] == MAYA_GIFT_CARD
    assert order["exchange_price_difference"] == round(order["exchange_price_difference"], 2)
    assert [item["item_id"] for item in order["items"]] == old
    assert balance(shop, "maya_chen_1001", MAYA_GIFT_CARD) == 60
    again = await maya("exchange_delivered_order_items", swap(MAYA_DELIVERED, old, new, MAYA_GIFT_CARD))
    assert again.content == "Error: non-delivered order cannot be exchanged"


async def test_a_refund_goes_to_the_original_method_or_a_gift_card_only(sofia: Call, shop: Shop) -> None:
    feeder = items(shop, SOFIA_DELIVERED)[0]

    async def give_back(item_ids: list[str], method: str) -> ToolOutcome:
        arguments = {"order_id": SOFIA_DELIVERED, "item_ids": item_ids, "payment_method_id": method}
        return await sofia("return_delivered_order_items", arguments)

    assert (await give_back([feeder], SOFIA_CARD)).content == (
        "Error: payment method should be either the original payment method or a gift card"
    )
    assert (await give_back([feeder], MAYA_CARD)).content == "Error: payment method not found"
    assert (await give_back([feeder] * 3, SOFIA_PAYPAL)).content == "Error: some item not found"
    assert (await give_back([], SOFIA_PAYPAL)).content == "Error: name at least one item"
    assert shop.store.changed() == {}
    order = json.loads((await give_back([feeder, feeder], SOFIA_GIFT_CARD)).content)
    assert order["status"] == "return requested"
    assert order["return_items"] == [feeder, feeder]
    assert order["return_payment_method_id"] == SOFIA_GIFT_CARD


async def test_addresses_of_an_order_and_of_the_profile_change_apart(maya: Call, shop: Shop) -> None:
    await maya("modify_pending_order_address", {"order_id": MAYA_PENDING, **ADDRESS})
    changed = shop.store.changed()
    assert set(changed) == {"orders"}
    assert changed["orders"][MAYA_PENDING]["address"] == ADDRESS
    await maya("modify_user_address", {"user_id": "maya_chen_1001", **ADDRESS})
    changed = shop.store.changed()
    assert set(changed["orders"]) == {MAYA_PENDING}
    assert changed["users"]["maya_chen_1001"]["address"] == ADDRESS
    by_old_zip = shop.store.user_id_by_name_zip("Maya", "Chen", "97209")
    assert (by_old_zip, shop.store.user_id_by_name_zip("maya", "CHEN", "97103")) == (None, "maya_chen_1001")


async def test_a_call_that_does_not_fit_the_schema_is_refused_in_words(maya: Call, shop: Shop) -> None:
    for arguments in (
        {"order_id": MAYA_PENDING},
        {"order_id": MAYA_PENDING, "reason": "no longer needed", "force": True},
        {"order_id": [MAYA_PENDING], "reason": "no longer needed"},
    ):
        assert (await maya("cancel_pending_order", arguments)).content.startswith("Error: ")
    assert shop.store.changed() == {}
