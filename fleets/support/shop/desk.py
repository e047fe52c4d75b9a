"""The desk: what one customer, or the shop's own staff, may see and do.

Customers are held to the policy in code, whatever a model may say: they must have been identified,
see and change only what is theirs, and are not told whether another's record exists. Staff have no
such bounds. Knows neither conversations nor models (see ``tools.py`` of the fleet).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from admiralty.fleets.support.shop import rules
from admiralty.fleets.support.shop.records import Address, Order, Product, User
from admiralty.fleets.support.shop.rules import Change
from admiralty.fleets.support.shop.store import Records, ShopStore
from admiralty.tools import ToolError

NOT_IDENTIFIED = (
    "the customer is not authenticated yet. Find their user id first, by email or by name and zip code"
)
ONE_CUSTOMER = "can only help one user per conversation, and only with that user's own records"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The shop as one party may use it. Every method raises ToolError where it must refuse."""

    store: ShopStore
    staff: bool = False
    customer: str | None = None
    """User id of the customer that was identified; of no meaning for staff."""
    rehearsal: bool = False
    """Check and work out every change, but store none."""

    # -- identification ---------------------------------------------------------------------------

    def find_by_email(self, email: str) -> str:
        """Return the id of the user with this email."""
        return self._identified(self.store.user_id_by_email(email))

    def find_by_name_zip(self, first_name: str, last_name: str, zip_code: str) -> str:
        """Return the id of the user of this name at this zip."""
        return self._identified(self.store.user_id_by_name_zip(first_name, last_name, zip_code))

    # -- reading ----------------------------------------------------------------------------------

    def user(self, user_id: str) -> User:
        """Return a profile."""
        return self._user(self.store, user_id)

    def order(self, order_id: str) -> Order:
        """Return an order."""
        return self._order(self.store, order_id)

    def product(self, product_id: str) -> Product:
        """Return a product with its variants."""
        product = self.store.product(product_id)
        if product is None:
            raise ToolError("product not found")
        return product

    def product_types(self) -> dict[str, str]:
        """Return the product ids by product name, sorted by name."""
        return dict(sorted((product["name"], product["product_id"]) for product in self.store.products()))

    # -- changing ---------------------------------------------------------------------------------

    def cancel(self, order_id: str, reason: str) -> Order:
        """Cancel a pending order."""
        return self._change_order(order_id, lambda order, user, _: rules.cancel(order, user, reason))

    def modify_address(self, order_id: str, address: Address) -> Order:
        """Change the shipping address of a pending order."""
        return self._change_order(order_id, lambda order, *_: rules.modify_address(order, address))

    def modify_payment(self, order_id: str, payment_method_id: str) -> Order:
        """Change how a pending order is paid."""
        return self._change_order(
            order_id, lambda order, user, _: rules.modify_payment(order, user, payment_method_id)
        )

    def modify_items(
        self, order_id: str, item_ids: Sequence[str], new_item_ids: Sequence[str], payment_method_id: str
    ) -> Order:
        """Swap items of a pending order."""
        self._require_any(item_ids)
        return self._change_order(
            order_id,
            lambda order, user, records: rules.modify_items(
                order, user, _products(order, records), item_ids, new_item_ids, payment_method_id
            ),
        )

    def exchange(
        self, order_id: str, item_ids: Sequence[str], new_item_ids: Sequence[str], payment_method_id: str
    ) -> Order:
        """Ask for items of a delivered order to be exchanged."""
        self._require_any(item_ids)
        return self._change_order(
            order_id,
            lambda order, user, records: rules.exchange(
                order, user, _products(order, records), item_ids, new_item_ids, payment_method_id
            ),
        )

    def return_items(self, order_id: str, item_ids: Sequence[str], payment_method_id: str) -> Order:
        """Ask for items of a delivered order to be taken back."""
        self._require_any(item_ids)
        return self._change_order(
            order_id, lambda order, user, _: rules.return_items(order, user, item_ids, payment_method_id)
        )

    def modify_user_address(self, user_id: str, address: Address) -> User:
        """Change the default address of a profile."""
        change = self._change(
            lambda records: rules.modify_user_address(user_id, self._user(records, user_id), address)
        )
        return change.users[user_id]

    # -- guards -----------------------------------------------------------------------------------

    def _identified(self, user_id: str | None) -> str:
        if not self.staff and self.customer is not None and user_id != self.customer:
            raise ToolError(ONE_CUSTOMER)  # the same for an unknown user: this must not tell which
        if user_id is None:
            raise ToolError("user not found")
        return user_id

    def _user(self, records: Records, user_id: str) -> User:
        if not self.staff:
            if self.customer is None:
                raise ToolError(NOT_IDENTIFIED)
            if user_id != self.customer:
                raise ToolError(ONE_CUSTOMER)
        user = records.user(user_id)
        if user is None:
            raise ToolError("user not found")
        return user

    def _order(self, records: Records, order_id: str) -> Order:
        if not self.staff and self.customer is None:
            raise ToolError(NOT_IDENTIFIED)
        order = records.order(order_id)
        if order is None or not (self.staff or order["user_id"] == self.customer):
            raise ToolError("order not found" if self.staff else "order not found among this user's orders")
        return order

    def _require_any(self, item_ids: Sequence[str]) -> None:
        if not item_ids and not self.staff:
            raise ToolError("name at least one item")

    def _change_order(self, order_id: str, rule: Callable[[Order, User, Records], Change]) -> Order:
        """Apply ``rule`` to the order and its user as they are inside the transaction."""

        def decide(records: Records) -> Change:
            order = self._order(records, order_id)
            user = records.user(order["user_id"])
            if user is None:
                raise ToolError("user not found")
            return rule(order, user, records)

        return self._change(decide).orders[order_id]

    def _change(self, decide: Callable[[Records], Change]) -> Change:
        return decide(self.store) if self.rehearsal else self.store.change(decide)


def _products(order: Order, records: Records) -> dict[str, Product]:
    ids = {item["product_id"] for item in order["items"]}
    found = {product_id: records.product(product_id) for product_id in ids}
    return {product_id: product for product_id, product in found.items() if product is not None}
