"""Reads and checks the files that a shop is opened from. Knows nothing of where they are kept later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from admiralty.core.errors import ConfigurationError
from admiralty.fleets.support.shop.records import Order, Product, User

SHIPPED = Path(__file__).resolve().parent.parent / "data"
"""The project's own shop, made by ``seed.py``."""

POLICY_FILE = "policy.md"

_REMEDY = (
    "Give a directory with users.json, orders.json and products.json (and policy.md, if the desk's "
    "policy differs), or leave the setting out for the shop that ships with the fleet."
)


@dataclass(frozen=True, kw_only=True)
class ShopData:
    """The records of a shop by id, as its files have them, and a digest of those files."""

    users: Mapping[str, User]
    orders: Mapping[str, Order]
    products: Mapping[str, Product]
    digest: str


def find_policy(data: Path | None) -> Path:
    """Return the policy document of the shop at ``data``: its own, or else the shipped one."""
    own = data / POLICY_FILE if data is not None else None
    return own if own is not None and own.is_file() else SHIPPED / POLICY_FILE


def load_shop_data(data: Path | None) -> ShopData:
    """Read the shop's files from the directory ``data``, or those that ship with the fleet.

    Raises ConfigurationError, naming the path and what to do, if one is missing, is not what it
    should be, or names a record that is not there.
    """
    directory = SHIPPED if data is None else data
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: not a directory with a shop's data. {_REMEDY}")
    digest = hashlib.sha256()
    users = _read(directory / "users.json", TypeAdapter(dict[str, User]), digest)
    orders = _read(directory / "orders.json", TypeAdapter(dict[str, Order]), digest)
    products = _read(directory / "products.json", TypeAdapter(dict[str, Product]), digest)
    _check_references(directory, users, orders)
    return ShopData(users=users, orders=orders, products=products, digest=digest.hexdigest())


def _read(path: Path, shape: TypeAdapter[Any], digest: hashlib._Hash) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
    digest.update(len(content).to_bytes(8, "big") + content)
    try:
        records = json.loads(content)
        shape.validate_python(records)  # only checked: what is kept is the record exactly as it came
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigurationError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} problems). Mend the file."
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: not JSON ({error}). Mend the file.") from error
    assert isinstance(records, dict)  # noqa: S101 - the shape has been checked
    return records


def _check_references(directory: Path, users: Mapping[str, User], orders: Mapping[str, Order]) -> None:
    for key, order in orders.items():
        if order["order_id"] != key or order["user_id"] not in users:
            raise ConfigurationError(
                f"{directory / 'orders.json'}: order {key!r} calls itself {order['order_id']!r} and belongs "
                f"to {order['user_id']!r}, but the one must be its key and the other stand in users.json. "
                "Mend the files."
            )
