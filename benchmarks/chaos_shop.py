"""A shop for the support fleet: a customer with a pending order for each conversation, and a book of changes.

The book is kept by triggers in the shop's own file: in the transaction of each change, unknown to the fleet.
What is done twice stands there twice, also where the shop's rules would not show it.
"""

import copy
import json
import sqlite3
from collections import Counter
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

from admiralty.fleets.support.shop import load_shop_data, open_shop

CUSTOMER, ORDER = "maya_chen_1001", "#W1001001"
"""Whom all customers and orders resemble."""


def order_of(number: int) -> str:
    """Return the order of conversation ``number``."""
    return f"#W{2_000_000 + number}"


def email_of(number: int) -> str:
    """Return the address of its customer."""
    return f"customer.{number}@example.com"


def dialogue(number: int) -> list[str]:
    """Return what is said in a conversation: every other order is cancelled, the rest go elsewhere."""
    order, me = order_of(number), f"My email is {email_of(number)}."
    if number % 2:
        ask = f"Please send my order {order} to {number + 1} Main St, Apt 4, Springfield, IL 62701. {me}"
    else:
        ask = f"Please cancel order {order}, I don't need it anymore. {me}"
    return [ask, "Yes, please.", f"What is the status of order {order}?"]


def make_shop(folder: Path, customers: int) -> None:
    """Write the shop's data for so many customers."""
    folder.mkdir(parents=True)
    shipped: dict[str, Any] = {}
    for name in ("users", "orders", "products"):
        text = files("admiralty.fleets.support").joinpath("data", f"{name}.json").read_text()
        shipped[name] = json.loads(text)
    user, order = shipped["users"][CUSTOMER], shipped["orders"][ORDER]
    for number in range(customers):
        user_id = f"customer_{number}_2001"
        mine = copy.deepcopy(user) | {"email": email_of(number), "orders": [order_of(number)]}
        mine["name"] = {"first_name": "Cus", "last_name": f"Tomer{number}"}
        shipped["users"][user_id] = mine
        own = copy.deepcopy(order) | {"order_id": order_of(number), "user_id": user_id}
        shipped["orders"][order_of(number)] = own
    for name, records in shipped.items():
        (folder / f"{name}.json").write_text(json.dumps(records))


class ChangeBook:
    """What was changed in the shop, however it came to it."""

    def __init__(self, data: Path, home: Path) -> None:
        """Seed the shop in the fleet's home, and begin to write down its changes."""
        open_shop(data, home).close()
        self._path = home / f"shop-{load_shop_data(data).digest[:16]}-1.sqlite3"
        with self._open() as connection:
            connection.execute("CREATE TABLE changes (id TEXT, body TEXT)")
            connection.execute(
                "CREATE TRIGGER book_order AFTER UPDATE OF body ON orders "
                "BEGIN INSERT INTO changes VALUES (new.id, new.body); END"
            )

    def counts(self) -> Counter[str]:
        """Return how often each order was changed."""
        with self._open() as connection:
            return Counter(
                dict(connection.execute("SELECT id, count(*) FROM changes GROUP BY id").fetchall())
            )

    def was_done(self, arguments: Any) -> bool:
        """Tell whether the order that a call names was changed."""
        return self.counts()[str(arguments.get("order_id"))] > 0

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self._path, timeout=20.0, isolation_level=None))
