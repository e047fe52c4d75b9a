"""The desk's rules: what may be done to an order or a profile, and what then changes.

Pure functions over records: they return a :class:`Change` or raise :class:`ToolError` with the
reason in plain words. They know nothing of storage, nor of who is asking (see ``desk.py``).
Amounts are dollars. Balances are kept in whole cents; a payment for modified items is noted as the
sum of floats comes out, because that is how the records which replays are held to have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from admiralty.fleets.support.shop.records import (
    Address,
    Item,
    Order,
    Payment,
    PaymentMethod,
    Product,
    User,
    Variant,
)
from admiralty.tools import ToolError

CANCEL_REASONS = ("no longer needed", "ordered by mistake")

PENDING = "pending"
DELIVERED = "delivered"
CANCELLED = "cancelled"
ITEMS_MODIFIED = "pending (item modified)"
"""Still on its way to be packed, but closed to every further change: items change only once."""
RETURN_REQUESTED = "return requested"
EXCHANGE_REQUESTED = "exchange requested"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Records to be stored together, by id; whatever is not named stays as it is."""

    orders: Mapping[str, Order] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)


def cancel(order: Order, user: User, reason: str) -> Change:
    """Cancel a pending order and refund what each payment method still has in it."""
    _require_status(order, PENDING, "non-pending order cannot be cancelled")
    if reason not in CANCEL_REASONS:
        raise ToolError("invalid reason")
    # An order whose payment was moved holds a payment and a refund of the first method: only what
    # is left may be given back, else moving the payment and then cancelling would pay out twice.
    left: dict[str, float] = {}
    for entry in order["payment_history"]:
        amount = entry["amount"] if entry["transaction_type"] == "payment" else -entry["amount"]
        left[entry["payment_method_id"]] = left.get(entry["payment_method_id"], 0) + amount
    refunds = [_entry("refund", amount, method) for method, amount in left.items() if amount >= 0.005]
    for refund in refunds:
        user = _credit(user, refund["payment_method_id"], refund["amount"])
    cancelled: Order = {
        **order,
        "status": CANCELLED,
        "cancel_reason": reason,
        "payment_history": [*order["payment_history"], *refunds],
    }
    return _both(cancelled, user)


def modify_address(order: Order, address: Address) -> Change:
    """Send a pending order elsewhere."""
    _require_status(order, PENDING, "non-pending order cannot be modified")
    moved: Order = {**order, "address": address}
    return Change(orders={order["order_id"]: moved})


def modify_payment(order: Order, user: User, payment_method_id: str) -> Change:
    """Pay a pending order by another method and refund the first one."""
    _require_status(order, PENDING, "non-pending order cannot be modified")
    method = _method(user, payment_method_id)
    history = order["payment_history"]
    if len(history) != 1 or history[0]["transaction_type"] != "payment":
        raise ToolError("there should be exactly one payment for a pending order")
    before = history[0]["payment_method_id"]
    amount = history[0]["amount"]
    if before == payment_method_id:
        raise ToolError("the new payment method should be different from the current one")
    _require_balance(method, amount, "the order")
    paid: Order = {
        **order,
        "payment_history": [
            *history,
            _entry("payment", amount, payment_method_id),
            _entry("refund", amount, before),
        ],
    }
    user = _credit(user, payment_method_id, -amount)
    return _both(paid, _credit(user, before, amount))


def modify_items(
    order: Order,
    user: User,
    products: Mapping[str, Product],
    item_ids: Sequence[str],
    new_item_ids: Sequence[str],
    payment_method_id: str,
) -> Change:
    """Swap items of a pending order, charge or refund the difference, and close it to changes.

    ``products`` holds at least the products in the order, by id.
    """
    _require_status(order, PENDING, "non-pending order cannot be modified")
    _require_items(order, item_ids, "{} not found")
    swaps = _swaps(order, products, item_ids, new_item_ids)
    difference = _price_difference(swaps)
    method = _method(user, payment_method_id)
    _require_balance(method, round(difference, 2), "the new item")
    entry = _entry("payment" if difference > 0 else "refund", abs(difference), payment_method_id)
    modified: Order = {
        **order,
        "items": _swapped(order["items"], swaps),
        "status": ITEMS_MODIFIED,
        "payment_history": [*order["payment_history"], entry],
    }
    return _both(modified, _credit(user, payment_method_id, -difference))


def exchange(
    order: Order,
    user: User,
    products: Mapping[str, Product],
    item_ids: Sequence[str],
    new_item_ids: Sequence[str],
    payment_method_id: str,
) -> Change:
    """Note that items of a delivered order shall be exchanged; money moves when they have come back."""
    _require_status(order, DELIVERED, "non-delivered order cannot be exchanged")
    _require_items(order, item_ids, "{} not found")
    difference = round(_price_difference(_swaps(order, products, item_ids, new_item_ids)), 2) + 0.0
    _require_balance(_method(user, payment_method_id), difference, "the price difference")
    exchanged: Order = {
        **order,
        "status": EXCHANGE_REQUESTED,
        "exchange_items": sorted(item_ids),
        "exchange_new_items": sorted(new_item_ids),
        "exchange_payment_method_id": payment_method_id,
        "exchange_price_difference": difference,
    }
    return Change(orders={order["order_id"]: exchanged})


def return_items(order: Order, user: User, item_ids: Sequence[str], payment_method_id: str) -> Change:
    """Note that items of a delivered order shall come back; the refund follows their arrival."""
    _require_status(order, DELIVERED, "non-delivered order cannot be returned")
    method = _method(user, payment_method_id)
    original = order["payment_history"][0]["payment_method_id"] if order["payment_history"] else None
    if method["source"] != "gift_card" and payment_method_id != original:
        raise ToolError("payment method should be either the original payment method or a gift card")
    _require_items(order, item_ids, "some item not found")
    returned: Order = {
        **order,
        "status": RETURN_REQUESTED,
        "return_items": sorted(item_ids),
        "return_payment_method_id": payment_method_id,
    }
    return Change(orders={order["order_id"]: returned})


def modify_user_address(user_id: str, user: User, address: Address) -> Change:
    """Change the default address of a profile; orders keep theirs."""
    moved: User = {**user, "address": address}
    return Change(users={user_id: moved})


# -- what the rules share -------------------------------------------------------------------------

_Swap = tuple[str, Item, Variant]
"""The id of an item in the order, the item, and the variant that takes its place."""


def _require_status(order: Order, status: str, problem: str) -> None:
    if order["status"] != status:
        raise ToolError(problem)


def _require_items(order: Order, item_ids: Sequence[str], problem: str) -> None:
    """Each id must be in the order, as often as it is named."""
    present = [item["item_id"] for item in order["items"]]
    for item_id in item_ids:
        if item_ids.count(item_id) > present.count(item_id):
            raise ToolError(problem.format(item_id))


def _swaps(
    order: Order, products: Mapping[str, Product], item_ids: Sequence[str], new_item_ids: Sequence[str]
) -> list[_Swap]:
    if len(item_ids) != len(new_item_ids):
        raise ToolError("the number of items to be exchanged should match")
    by_id = {item["item_id"]: item for item in reversed(order["items"])}
    swaps = []
    for item_id, new_item_id in zip(item_ids, new_item_ids, strict=True):
        product = products.get(by_id[item_id]["product_id"])
        variant = product["variants"].get(new_item_id) if product else None
        # One message for "unknown", "sold out" and "of another product": all three mean the same here.
        if variant is None or not variant["available"]:
            raise ToolError(f"new item {new_item_id} not found or available")
        swaps.append((item_id, by_id[item_id], variant))
    return swaps


def _price_difference(swaps: Sequence[_Swap]) -> float:
    """Return what the customer owes (above 0) or gets back (below), not rounded."""
    difference = 0.0
    for _, item, variant in swaps:
        difference += variant["price"] - item["price"]
    return difference


def _swapped(items: Sequence[Item], swaps: Sequence[_Swap]) -> list[Item]:
    """Return ``items`` after the swaps, one after the other."""
    result = list(items)
    for item_id, _, variant in swaps:
        index = next(i for i, item in enumerate(result) if item["item_id"] == item_id)
        result[index] = {
            **result[index],
            "item_id": variant["item_id"],
            "price": variant["price"],
            "options": variant["options"],
        }
    return result


def _method(user: User, payment_method_id: str) -> PaymentMethod:
    method = user["payment_methods"].get(payment_method_id)
    if method is None:
        raise ToolError("payment method not found")
    return method


def _require_balance(method: PaymentMethod, amount: float, purpose: str) -> None:
    if method["source"] == "gift_card" and method.get("balance", 0.0) < amount:
        raise ToolError(f"insufficient gift card balance to pay for {purpose}")


def _credit(user: User, payment_method_id: str, amount: float) -> User:
    """Return ``user`` with ``amount`` on the gift card; other methods hold no money here."""
    method = _method(user, payment_method_id)
    if method["source"] != "gift_card":
        return user
    card: PaymentMethod = {**method, "balance": round(method.get("balance", 0.0) + amount, 2)}
    return {**user, "payment_methods": {**user["payment_methods"], payment_method_id: card}}


def _entry(kind: str, amount: float, payment_method_id: str) -> Payment:
    return {
        "transaction_type": "payment" if kind == "payment" else "refund",
        "amount": amount,
        "payment_method_id": payment_method_id,
    }


def _both(order: Order, user: User) -> Change:
    return Change(orders={order["order_id"]: order}, users={order["user_id"]: user})
