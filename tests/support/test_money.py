"""Whatever a customer does in whatever order, the money adds up."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admiralty.fleets.support.shop import Desk, MemoryStore, ShopStore, load_shop_data
from admiralty.fleets.support.shop.records import Item
from admiralty.fleets.support.shop.rules import CANCEL_REASONS
from admiralty.tools import ToolError

DATA = load_shop_data(None)
CUSTOMERS = sorted(DATA.users)
ACTIONS = ("cancel", "payment", "items", "exchange", "return")


def act(desk: Desk, store: ShopStore, action: str, order_id: str, choice: int, method: str) -> None:
    """Do one of the things that a customer may ask for; what is chosen may well be refused."""
    order = store.order(order_id)
    assert order is not None
    item = order["items"][choice % len(order["items"])]
    if action == "cancel":
        desk.cancel(order_id, CANCEL_REASONS[choice % 2])
    elif action == "payment":
        desk.modify_payment(order_id, method)
    elif action == "return":
        desk.return_items(order_id, [item["item_id"]], method)
    elif action == "items":
        desk.modify_items(order_id, [item["item_id"]], [other(item, choice)], method)
    else:
        desk.exchange(order_id, [item["item_id"]], [other(item, choice)], method)


def other(item: Item, choice: int) -> str:
    """Return one of the product's variants; it may be sold out, or the same."""
    variants = list(DATA.products[item["product_id"]]["variants"])
    return variants[choice % len(variants)]


@pytest.mark.requirement("support.refund_once")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    customer=st.sampled_from(CUSTOMERS),
    steps=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(0, 11), st.integers(0, 3)),
        max_size=8,
    ),
)
def test_what_an_order_was_paid_is_what_its_items_cost_and_cards_lose_no_cent(
    customer: str, steps: list[tuple[str, int, int, int]]
) -> None:
    store = MemoryStore(DATA)
    desk = Desk(store=store, customer=customer)
    before = DATA.users[customer]
    orders, methods = before["orders"], list(before["payment_methods"])
    for action, which, choice, pay in steps:
        with suppress(ToolError):
            act(desk, store, action, orders[which % len(orders)], choice, methods[pay % len(methods)])

    moved: defaultdict[str, float] = defaultdict(float)
    for order_id in orders:
        order, original = store.order(order_id), DATA.orders[order_id]
        assert order is not None
        assert order["payment_history"][: len(original["payment_history"])] == original["payment_history"]
        held: defaultdict[str, float] = defaultdict(float)
        for number, entry in enumerate(order["payment_history"]):
            assert entry["amount"] >= 0
            signed = entry["amount"] if entry["transaction_type"] == "payment" else -entry["amount"]
            held[entry["payment_method_id"]] += signed
            if number >= len(original["payment_history"]):
                moved[entry["payment_method_id"]] -= signed
        cost = 0.0 if order["status"] == "cancelled" else sum(item["price"] for item in order["items"])
        assert sum(held.values()) == pytest.approx(cost, abs=0.005), order_id

    after = store.user(customer)
    assert after is not None
    for method_id, method in after["payment_methods"].items():
        if method["source"] == "gift_card":
            was = before["payment_methods"][method_id]["balance"]
            assert method["balance"] == pytest.approx(was + moved[method_id], abs=0.005)
            assert method["balance"] >= 0
            assert method["balance"] == round(method["balance"], 2)
