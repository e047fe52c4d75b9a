"""Scripted customers for the recorded retail tasks: each says what it wants, and yes to confirmations.

Two wordings: the task's own instruction, all at once; and plain sentences made from the recorded
actions, one request in a message. What counts as done is decided by the records alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from admiralty.fleets.support.shop import ShopData
from admiralty.fleets.support.tools import WRITE_TOOLS

Task = Mapping[str, Any]
WRITES = {tool.name for tool in WRITE_TOOLS if tool.confirm}
ASKS = "Please answer yes or no."


def recorded_words(task: Task) -> list[str]:
    """The instruction as it was recorded, in one message."""
    return [task["instruction"]]


def plain_words(task: Task, data: ShopData) -> list[str]:
    """One message for each recorded change, in everyday wording; the first says who it is."""
    speech = _Speech(task, data)
    said = [speech.request(action) for action in task["actions"] if action["name"] in WRITES]
    return [f"{speech.greeting()} {said[0]}", *said[1:]] if said else [speech.greeting()]


class _Speech:
    def __init__(self, task: Task, data: ShopData) -> None:
        self._task, self._data = task, data
        self._rng = random.Random(task["instruction"])

    def greeting(self) -> str:
        text = self._task["instruction"]
        name = re.search(r"name is (\w+ \w+)", text)
        assert name
        if email := re.search(r"email is (\S+@\S+?)\.(?=\s)", text):
            return f"Hello, I'm {name[1]}. My email is {email[1]}."
        zip_code = re.search(r"zip code is (\d+)", text)
        assert zip_code
        return f"Hi there! I am {name[1]} and I live in zip {zip_code[1]}."

    def request(self, action: Mapping[str, Any]) -> str:
        name, given = action["name"], action["arguments"]
        order = given.get("order_id", "")
        if name == "cancel_pending_order":
            why = "I don't need it anymore" if "needed" in given["reason"] else "I bought it by accident"
            return self._rng.choice(
                [f"Please cancel order {order}, {why}.", f"Could you cancel {order} for me? {why}."]
            )
        if name == "return_delivered_order_items":
            names = " and ".join(f"the {self._name(order, item)}" for item in given["item_ids"])
            pay = self._method(given["payment_method_id"])
            return self._rng.choice(
                [
                    f"I would like to return {names} from order {order}. Please refund it to {pay}.",
                    f"Can I send back {names} that came with {order}, and get the money on {pay}?",
                ]
            )
        if name.endswith("_items"):
            return self._swap(name, given)
        if name == "modify_pending_order_payment":
            return f"Please pay order {order} with {self._method(given['payment_method_id'])} instead."
        lines = ", ".join(given[key] for key in ("address1", "address2", "city", "state"))
        return self._rng.choice(
            [
                f"Please ship order {order} to {lines} {given['zip']} instead.",
                f"The address of order {order} is wrong, please change it to {lines} {given['zip']}.",
            ]
        )

    def _swap(self, name: str, given: Mapping[str, Any]) -> str:
        order = given["order_id"]
        verb, link = ("exchange", "for") if name.startswith("exchange") else ("change", "to")
        parts = [
            f"the {self._name(order, old)} {link} {self._wish(order, old, new)}"
            for old, new in zip(given["item_ids"], given["new_item_ids"], strict=True)
        ]
        pay = self._method(given["payment_method_id"])
        return f"In order {order}, I'd like to {verb} {', and '.join(parts)}. Use {pay} for the difference."

    def _item(self, order: str, item: str) -> Mapping[str, Any]:
        return next(part for part in self._data.orders[order]["items"] if part["item_id"] == item)

    def _name(self, order: str, item: str) -> str:
        found = self._item(order, item)
        alike = [part for part in self._data.orders[order]["items"] if part["name"] == found["name"]]
        name: str = found["name"]
        return f"{' '.join(found['options'].values())} {name}" if len(alike) > 1 else name.lower()

    def _wish(self, order: str, old: str, new: str) -> str:
        item = self._item(order, old)
        options = self._data.products[item["product_id"]]["variants"][new]["options"]
        wished = [(key, value) for key, value in options.items() if item["options"][key] != value]
        if not wished:
            return "the same one"
        return "one with " + " and ".join(
            f"{key} {value}"
            if value in ("yes", "no", "none") or self._rng.random() < 0.6
            else f"{value} {key}"
            for key, value in wished
        )

    def _method(self, key: str) -> str:
        method = self._data.users[self._task["user_id"]]["payment_methods"][key]
        if method["source"] == "credit_card":
            return f"my {method['brand']} card ending in {method['last_four']}"
        return {"paypal": "my PayPal account", "gift_card": "my gift card"}[method["source"]]
