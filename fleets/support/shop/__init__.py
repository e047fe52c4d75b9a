"""The retail desk's shop: records, the rules for changing them, and where they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from admiralty.fleets.support.shop.desk import Desk
from admiralty.fleets.support.shop.source import ShopData, find_policy, load_shop_data
from admiralty.fleets.support.shop.sqlite import SQLiteStore, open_store
from admiralty.fleets.support.shop.store import MemoryStore, ShopStore

__all__ = [
    "Desk",
    "MemoryStore",
    "SQLiteStore",
    "Shop",
    "ShopData",
    "ShopStore",
    "find_policy",
    "load_shop_data",
    "open_shop",
]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """An open shop: its records, and the document with the desk's policy."""

    store: ShopStore
    policy: Path

    def desk(self, *, staff: bool = False, customer: str | None = None, rehearsal: bool = False) -> Desk:
        """Return the shop as staff, or as one (perhaps not yet identified) customer, may use it."""
        return Desk(store=self.store, staff=staff, customer=customer, rehearsal=rehearsal)

    def close(self) -> None:
        self.store.close()


def open_shop(data: Path | None, home: Path) -> Shop:
    """Open the shop of the files in ``data``, or the shipped one, with its state kept in ``home``.

    ``data`` holds users.json, orders.json, products.json and perhaps policy.md. What is written
    survives restarts and is seen by every process that opens the same data at the same home;
    changed data opens a fresh shop. Raises ConfigurationError naming the path and the remedy.
    """
    return Shop(store=open_store(load_shop_data(data), home), policy=find_policy(data))
