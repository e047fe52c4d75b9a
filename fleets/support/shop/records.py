"""The shape of the shop's records: plain JSON objects, exactly as its files and its tools give them.

Records are never changed in place: a rule returns new ones. Keys that a file has beyond these are
kept. This module knows neither rules nor storage.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class Name(TypedDict):
    """A person's name."""

    first_name: str
    last_name: str


class Address(TypedDict):
    """A postal address; ``zip`` is text because zips begin with zeros."""

    address1: str
    address2: str
    city: str
    state: str
    country: str
    zip: str


class PaymentMethod(TypedDict):
    """A way to pay. A gift card has a balance in dollars, a credit card its brand and last digits."""

    id: str
    source: Literal["credit_card", "gift_card", "paypal"]
    brand: NotRequired[str]
    last_four: NotRequired[str]
    balance: NotRequired[float]


class User(TypedDict):
    """A customer. The record does not hold its own id: that is its key."""

    name: Name
    address: Address
    email: str
    payment_methods: dict[str, PaymentMethod]
    orders: list[str]


class Item(TypedDict):
    """One piece in an order: a variant of a product at the price paid."""

    name: str
    product_id: str
    item_id: str
    price: float
    options: dict[str, str]


class Fulfillment(TypedDict):
    """A parcel: its tracking numbers and what lies in it."""

    tracking_id: list[str]
    item_ids: list[str]


class Payment(TypedDict):
    """A payment or refund in dollars; the amount is never negative."""

    transaction_type: Literal["payment", "refund"]
    amount: float
    payment_method_id: str


class Order(TypedDict):
    """An order. The keys that may be missing come with a cancellation, a return or an exchange."""

    order_id: str
    user_id: str
    address: Address
    items: list[Item]
    fulfillments: list[Fulfillment]
    status: str
    payment_history: list[Payment]
    cancel_reason: NotRequired[str]
    return_items: NotRequired[list[str]]
    return_payment_method_id: NotRequired[str]
    exchange_items: NotRequired[list[str]]
    exchange_new_items: NotRequired[list[str]]
    exchange_payment_method_id: NotRequired[str]
    exchange_price_difference: NotRequired[float]


class Variant(TypedDict):
    """What can be ordered of a product: one combination of its options."""

    item_id: str
    options: dict[str, str]
    available: bool
    price: float


class Product(TypedDict):
    """A kind of product with its variants by item id."""

    name: str
    product_id: str
    variants: dict[str, Variant]
