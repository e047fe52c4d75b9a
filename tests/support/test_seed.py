"""The shipped shop is what its generator makes, and shows every case."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from admiralty.fleets.support.shop import ShopData
from admiralty.fleets.support.shop.seed import main
from admiralty.fleets.support.shop.source import SHIPPED


@pytest.mark.requirement("support.seed")
def test_the_shipped_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    main([str(tmp_path)])
    for name in ("users.json", "orders.json", "products.json"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes(), (
            f"{name}: run python -m admiralty.fleets.support.shop.seed fleets/support/data"
        )
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 300_000


def test_the_shipped_shop_shows_every_status_and_every_way_to_pay(shipped: ShopData) -> None:
    assert (len(shipped.users), len(shipped.orders), len(shipped.products)) == (40, 90, 18)
    assert set(Counter(order["status"] for order in shipped.orders.values())) == {
        "pending",
        "pending (item modified)",
        "processed",
        "delivered",
        "cancelled",
        "return requested",
        "exchange requested",
    }
    paid = {
        entry["payment_method_id"].rpartition("_")[0]
        for order in shipped.orders.values()
        for entry in order["payment_history"]
    }
    assert paid == {"credit_card", "gift_card", "paypal"}


def test_the_shipped_records_agree_with_each_other(shipped: ShopData) -> None:
    for user_id, user in shipped.users.items():
        assert re.fullmatch(r"[a-z]+_[a-z]+_\d{4}", user_id)
        assert all(shipped.orders[order_id]["user_id"] == user_id for order_id in user["orders"])
    assert sum(len(user["orders"]) for user in shipped.users.values()) == len(shipped.orders)
    for order_id, order in shipped.orders.items():
        assert re.fullmatch(r"#W\d{7}", order_id)
        user = shipped.users[order["user_id"]]
        assert all(
            entry["payment_method_id"] in user["payment_methods"] for entry in order["payment_history"]
        )
        for item in order["items"]:
            variant = shipped.products[item["product_id"]]["variants"][item["item_id"]]
            assert (item["price"], item["options"]) == (variant["price"], variant["options"])
    for product in shipped.products.values():
        available = [variant["available"] for variant in product["variants"].values()]
        assert sum(available) >= 2
        assert not all(available), "one that is sold out shows that case"


def test_the_shipped_shop_shares_nothing_with_the_recorded_one(shipped: ShopData, retail: Path) -> None:
    for name, ours in (("users", shipped.users), ("orders", shipped.orders), ("products", shipped.products)):
        theirs = json.loads((retail / f"{name}.json").read_text())
        assert not set(ours) & set(theirs)
    theirs = json.loads((retail / "products.json").read_text()).values()
    assert not {product["name"] for product in shipped.products.values()} & {p["name"] for p in theirs}
