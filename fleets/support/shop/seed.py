"""Makes the shop that ships with the fleet: invented products, people and orders, always the same.

``python -m admiralty.fleets.support.shop.seed OUT_DIR`` writes users.json, orders.json and
products.json. The first three customers are written by hand, for demonstrations; orders that have
a history (cancelled, returned ...) got it from the desk's own rules.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from admiralty.fleets.support.shop import rules
from admiralty.fleets.support.shop.records import (
    Address,
    Item,
    Order,
    PaymentMethod,
    Product,
    User,
    Variant,
)

SEED = 1805
MAX_VARIANTS = 8

_Options = dict[str, list[str]]

# Name, base price, options. The first value of each option is the cheapest.
_CATALOGUE: tuple[tuple[str, float, _Options], ...] = (
    ("Rain Jacket", 89.5, {"color": ["navy", "moss", "coral"], "size": ["S", "M", "L"]}),
    ("Ceramic Mug Set", 34.0, {"color": ["sand", "slate"], "pieces": ["2", "4", "6"]}),
    ("Record Player", 189.0, {"color": ["walnut", "black"], "speed": ["2-speed", "3-speed"]}),
    ("Wool Blanket", 74.25, {"color": ["grey", "rust", "forest"], "size": ["throw", "queen"]}),
    ("Cast Iron Skillet", 42.8, {"diameter": ["8 inch", "10 inch", "12 inch"], "lid": ["no", "yes"]}),
    ("Chef Knife", 68.9, {"blade": ["6 inch", "8 inch"], "handle": ["beech", "oak", "resin"]}),
    ("Camping Tent", 214.0, {"persons": ["2", "3", "4"], "color": ["olive", "orange"]}),
    ("Sleeping Bag", 119.4, {"comfort": ["10 C", "0 C", "-10 C"], "length": ["regular", "long"]}),
    ("Cool Box", 96.0, {"volume": ["20 l", "35 l"], "color": ["white", "teal"]}),
    ("Board Game", 46.5, {"edition": ["base", "deluxe"], "language": ["English", "Spanish", "French"]}),
    ("Fountain Pen", 58.0, {"nib": ["fine", "medium", "broad"], "color": ["black", "burgundy"]}),
    ("Studio Microphone", 134.9, {"connection": ["USB", "XLR"], "stand": ["desk", "boom arm"]}),
    ("Travel Pillow", 27.6, {"filling": ["foam", "down"], "color": ["grey", "plum", "mint"]}),
    ("Linen Bedding", 148.0, {"size": ["twin", "queen", "king"], "color": ["white", "clay"]}),
    ("Hammock", 82.3, {"width": ["single", "double"], "color": ["natural", "indigo", "sunset"]}),
    ("Bird Feeder", 31.75, {"material": ["pine", "cedar"], "mount": ["hanging", "pole"]}),
    ("Watering Can", 24.9, {"volume": ["5 l", "9 l"], "color": ["zinc", "green", "copper"]}),
    ("Folding Umbrella", 38.2, {"canopy": ["95 cm", "110 cm"], "color": ["black", "red", "check"]}),
)

_NAMES = (
    ("Priya", "Anand"),
    ("Jonas", "Berger"),
    ("Amara", "Diallo"),
    ("Felix", "Eklund"),
    ("Ingrid", "Fontaine"),
    ("Mateo", "Gallo"),
    ("Leila", "Haddad"),
    ("Tobias", "Ivarsen"),
    ("Hana", "Joshi"),
    ("Oscar", "Keller"),
    ("Nadia", "Lindqvist"),
    ("Kofi", "Mensah"),
    ("Elena", "Novak"),
    ("Ruben", "Ortega"),
    ("Yara", "Petrov"),
    ("Samir", "Quiroga"),
    ("Greta", "Rahman"),
    ("Diego", "Sandoval"),
    ("Aisha", "Tanaka"),
    ("Henrik", "Ueda"),
    ("Camila", "Vargas"),
    ("Emeka", "Weber"),
    ("Freya", "Yilmaz"),
    ("Luca", "Zimmer"),
    ("Zoe", "Abara"),
    ("Rahul", "Bianchi"),
    ("Marta", "Castro"),
    ("Idris", "Dvorak"),
    ("Clara", "Eze"),
    ("Anton", "Farouk"),
    ("Noor", "Greene"),
    ("Paolo", "Holm"),
    ("Vera", "Iyer"),
    ("Kai", "Jansen"),
    ("Dunya", "Kowal"),
    ("Stefan", "Lopes"),
    ("Lina", "Moreau"),
)
_STREETS = ("Alder Lane", "Quay Street", "Foundry Road", "Orchard Way", "Juniper Court", "Mill Terrace")
_CITIES = (
    ("Portland", "OR", "972"),
    ("Boise", "ID", "837"),
    ("Madison", "WI", "537"),
    ("Savannah", "GA", "314"),
    ("Tucson", "AZ", "857"),
    ("Duluth", "MN", "558"),
    ("Albany", "NY", "122"),
    ("Santa Fe", "NM", "875"),
)
_KINDS = ("credit_card", "gift_card", "paypal")
_BRANDS = ("visa", "mastercard", "amex")

_STATUSES = (
    *["pending"] * 35,
    *["delivered"] * 30,
    *["processed"] * 10,
    *["cancelled"] * 6,
    *["return requested"] * 3,
    *["exchange requested"] * 3,
    *["pending (item modified)"] * 3,
)


def generate() -> dict[str, dict[str, Any]]:
    """Return the shop's records by file: ``{"users": {id: record}, "orders": ..., "products": ...}``."""
    return _Seeder().run()


def write(directory: Path) -> None:
    """Write the shop's three files into ``directory``, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, records in generate().items():
        (directory / f"{name}.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


class _Seeder:
    """Draws everything from one generator, in a fixed order."""

    def __init__(self) -> None:
        # Only choice, sample and randint are used: their sequences are the same in every Python 3.
        self._random = Random(SEED)
        self._numbers: set[int] = set()
        self._products: dict[str, Product] = {}
        self._users: dict[str, User] = {}
        self._orders: dict[str, Order] = {}

    def run(self) -> dict[str, dict[str, Any]]:
        for name, price, options in _CATALOGUE:
            product = self._product(name, price, options)
            self._products[product["product_id"]] = product
        self._people_by_hand()
        for first, last in _NAMES:
            self._person(first, last, self._random.choice(_CITIES), self._random.sample(_KINDS, 2))
        self._fill_orders()
        return {"users": self._users, "orders": self._orders, "products": self._products}

    def _people_by_hand(self) -> None:
        maya = self._person(
            "Maya", "Chen", _CITIES[0], ["credit_card", "gift_card"], balance=60.0, zip_code="97209"
        )
        self._order(maya, "pending", [("Rain Jacket", 0), ("Ceramic Mug Set", 1)], pay=0)
        self._order(maya, "delivered", [("Record Player", 0), ("Wool Blanket", 2)], pay=0)
        self._order(maya, "processed", [("Fountain Pen", 1)], pay=1)
        daniel = self._person("Daniel", "Okafor", _CITIES[2], ["paypal", "gift_card"], balance=8.5)
        self._order(daniel, "delivered", [("Camping Tent", 1), ("Sleeping Bag", 0)], pay=0)
        self._order(daniel, "pending", [("Hammock", 0)], pay=0)
        sofia = self._person(
            "Sofia", "Ruiz", _CITIES[4], ["gift_card", "credit_card", "paypal"], balance=240.0
        )
        self._order(sofia, "pending", [("Chef Knife", 0), ("Cast Iron Skillet", 3)], pay=0)
        self._order(sofia, "delivered", [("Bird Feeder", 1), ("Bird Feeder", 1)], pay=2)
        self._order(sofia, "cancelled", [("Watering Can", 0)], pay=1)
        self._order(sofia, "pending", [("Travel Pillow", 1)], pay=2)

    def _fill_orders(self) -> None:
        statuses = list(_STATUSES)
        for order in self._orders.values():
            statuses.remove(order["status"])
        statuses = self._random.sample(statuses, len(statuses))
        people = list(self._users)[3:]
        names = [product["name"] for product in self._products.values()]
        for status, user_id in zip(statuses, itertools.cycle(people), strict=False):
            count = self._random.randint(1, 4)
            # An item is asked for by its place among the product's variants that are available.
            wanted = [(name, self._random.randint(0, 2)) for name in self._random.sample(names, count)]
            methods = len(self._users[user_id]["payment_methods"])
            self._order(user_id, status, wanted, pay=self._random.randint(0, methods - 1))

    def _product(self, name: str, price: float, options: _Options) -> Product:
        combinations = list(itertools.product(*(range(len(values)) for values in options.values())))
        chosen = sorted(self._random.sample(combinations, min(MAX_VARIANTS, len(combinations))))
        # The last of every product is sold out, so that this case can be shown with any of them.
        variants: dict[str, Variant] = {}
        for number, steps in enumerate(chosen):
            item_id = self._number(10)
            cents = round(price * 100 * (1 + 0.06 * sum(steps))) + self._random.randint(0, 99)
            variants[item_id] = {
                "item_id": item_id,
                "options": {key: options[key][step] for key, step in zip(options, steps, strict=True)},
                "available": number < len(chosen) - 1,
                "price": cents / 100,
            }
        return {"name": name, "product_id": self._number(10), "variants": variants}

    def _person(
        self,
        first: str,
        last: str,
        place: tuple[str, str, str],
        kinds: Sequence[str],
        *,
        balance: float | None = None,
        zip_code: str | None = None,
    ) -> str:
        user_id = f"{first}_{last}_{1001 + len(self._users)}".lower()
        city, state, prefix = place
        address: Address = {
            "address1": f"{self._random.randint(12, 980)} {self._random.choice(_STREETS)}",
            "address2": f"Apt {self._random.randint(1, 60)}" if self._random.randint(0, 1) else "",
            "city": city,
            "country": "USA",
            "state": state,
            "zip": zip_code or f"{prefix}{self._random.randint(1, 99):02d}",
        }
        methods = [self._payment_method(kind, balance) for kind in kinds]
        self._users[user_id] = {
            "name": {"first_name": first, "last_name": last},
            "address": address,
            "email": f"{first}.{last}@example.com".lower(),
            "payment_methods": {method["id"]: method for method in methods},
            "orders": [],
        }
        return user_id

    def _payment_method(self, kind: str, balance: float | None) -> PaymentMethod:
        number = f"{kind}_{self._number(7)}"
        if kind == "credit_card":
            brand, last_four = self._random.choice(_BRANDS), f"{self._random.randint(0, 9999):04d}"
            return {"source": "credit_card", "brand": brand, "last_four": last_four, "id": number}
        if kind == "gift_card":
            drawn = self._random.randint(0, 20000) / 100
            return {"source": "gift_card", "balance": drawn if balance is None else balance, "id": number}
        return {"source": "paypal", "id": number}

    def _order(self, user_id: str, status: str, wanted: Sequence[tuple[str, int]], *, pay: int) -> None:
        user = self._users[user_id]
        number = list(self._users).index(user_id) + 1
        order_id = f"#W1{number:03d}{len(user['orders']) + 1:03d}"
        items = [self._item(name, place) for name, place in wanted]
        amount = round(sum(item["price"] for item in items), 2)
        method = list(user["payment_methods"])[pay]
        sent = status in ("processed", "delivered", "return requested", "exchange requested")
        parcel = [item["item_id"] for item in items]
        order: Order = {
            "order_id": order_id,
            "user_id": user_id,
            "address": user["address"],
            "items": items,
            "fulfillments": [{"tracking_id": [self._number(12)], "item_ids": parcel}] if sent else [],
            "status": status,
            "payment_history": [
                {"transaction_type": "payment", "amount": amount, "payment_method_id": method}
            ],
        }
        user["orders"].append(order_id)
        self._orders[order_id] = order
        self._give_history(order)

    def _give_history(self, order: Order) -> None:
        """Bring the order to its status by the rule that leads there."""
        status, order_id = order["status"], order["order_id"]
        user = self._users[order["user_id"]]
        first = order["items"][0]
        before = "pending" if status in (rules.CANCELLED, rules.ITEMS_MODIFIED) else "delivered"
        earlier: Order = {**order, "status": before}
        method = order["payment_history"][0]["payment_method_id"]
        if status == rules.CANCELLED:
            change = rules.cancel(earlier, user, self._random.choice(rules.CANCEL_REASONS))
        elif status == rules.RETURN_REQUESTED:
            change = rules.return_items(earlier, user, [first["item_id"]], method)
        elif status in (rules.EXCHANGE_REQUESTED, rules.ITEMS_MODIFIED):
            rule = rules.exchange if status == rules.EXCHANGE_REQUESTED else rules.modify_items
            others = [self._item(first["name"], place)["item_id"] for place in (0, 1)]
            new = others[first["item_id"] == others[0]]
            change = rule(earlier, user, self._products, [first["item_id"]], [new], method)
        else:
            return
        self._orders[order_id] = change.orders[order_id]
        self._users |= change.users

    def _item(self, name: str, place: int) -> Item:
        product = next(product for product in self._products.values() if product["name"] == name)
        variant = list(product["variants"].values())[place]
        return {
            "name": name,
            "product_id": product["product_id"],
            "item_id": variant["item_id"],
            "price": variant["price"],
            "options": variant["options"],
        }

    def _number(self, digits: int) -> str:
        """Return a number of so many digits that was not used before."""
        while True:
            number = self._random.randint(10 ** (digits - 1), 10**digits - 1)
            if number not in self._numbers:
                self._numbers.add(number)
                return str(number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shop into the directory that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m admiralty.fleets.support.shop.seed", description=__doc__)
    parser.add_argument("directory", type=Path, help="where users.json, orders.json and products.json go")
    write(parser.parse_args(arguments).directory)


if __name__ == "__main__":
    main()
