"""Where the shop's records are kept: the seam, and the store in memory that tests and replays use.

A store keeps records and makes changes one at a time; it knows no rule. The store that survives
restarts is in ``sqlite.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from admiralty.fleets.support.shop.records import Order, Product, User
from admiralty.fleets.support.shop.rules import Change
from admiralty.fleets.support.shop.source import ShopData


class Records(Protocol):
    """Reads records by id; ``None`` where there is none. What it returns must not be written to."""

    def user(self, user_id: str) -> User | None: ...

    def order(self, order_id: str) -> Order | None: ...

    def product(self, product_id: str) -> Product | None: ...


class ShopStore(Records, Protocol):
    """Keeps the records. Safe to use from several threads."""

    def products(self) -> list[Product]:
        """Return all products, in the order of the source."""
        ...

    def user_id_by_email(self, email: str) -> str | None:
        """Return the first user with this address, in whatever case."""
        ...

    def user_id_by_name_zip(self, first_name: str, last_name: str, zip_code: str) -> str | None:
        """Return the first user of this name (in whatever case) and zip."""
        ...

    def change(self, decide: Callable[[Records], Change]) -> Change:
        """Store what ``decide`` returns, as one transaction, and return it.

        ``decide`` reads inside the transaction: no other change, of this process or another, comes
        between what it reads and what is stored. If it raises, nothing is stored.
        """
        ...

    def changed(self) -> dict[str, dict[str, Any]]:
        """Return the records that differ from the source: ``{"orders": {id: record}, "users": ...}``.

        Kinds without a changed record are left out.
        """
        ...

    def close(self) -> None:
        """Let go of files. A closed store is not used again."""
        ...


class MemoryStore:
    """Records in memory: what has changed lies over a base that is shared and never written."""

    def __init__(self, data: ShopData) -> None:
        self._data = data
        self._users: dict[str, User] = {}
        self._orders: dict[str, Order] = {}
        self._writing = threading.Lock()

    def fork(self) -> MemoryStore:
        """Return a fresh, unchanged copy over the same base; costs nothing."""
        return MemoryStore(self._data)

    def user(self, user_id: str) -> User | None:
        return self._users.get(user_id) or self._data.users.get(user_id)

    def order(self, order_id: str) -> Order | None:
        return self._orders.get(order_id) or self._data.orders.get(order_id)

    def product(self, product_id: str) -> Product | None:
        return self._data.products.get(product_id)

    def products(self) -> list[Product]:
        return list(self._data.products.values())

    def user_id_by_email(self, email: str) -> str | None:
        wanted = email.lower()
        return next((key for key, user in self._all_users() if user["email"].lower() == wanted), None)

    def user_id_by_name_zip(self, first_name: str, last_name: str, zip_code: str) -> str | None:
        wanted = (first_name.lower(), last_name.lower(), zip_code)
        return next((key for key, user in self._all_users() if name_zip(user) == wanted), None)

    def change(self, decide: Callable[[Records], Change]) -> Change:
        with self._writing:
            change = decide(self)
            self._orders |= change.orders
            self._users |= change.users
        return change

    def changed(self) -> dict[str, dict[str, Any]]:
        kinds: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
            ("orders", self._orders, self._data.orders),
            ("users", self._users, self._data.users),
        ]
        found = {
            kind: {key: record for key, record in now.items() if record != before.get(key)}
            for kind, now, before in kinds
        }
        return {kind: records for kind, records in found.items() if records}

    def close(self) -> None:
        pass

    def _all_users(self) -> Iterator[tuple[str, User]]:
        for user_id, user in self._data.users.items():
            yield user_id, self._users.get(user_id, user)


def name_zip(user: User) -> tuple[str, str, str]:
    """Return what a user is found by besides the email: lower-case names, and the zip as it is."""
    name = user["name"]
    return name["first_name"].lower(), name["last_name"].lower(), user["address"]["zip"]
