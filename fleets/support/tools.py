"""The tools of the retail desk, as models see them.

Each is a thin shell: it says in words what it does, and hands on to the desk, which holds the
rules. Who the customer is stands in the conversation's session and is written here only, when they
have been found by email or by name and zip; a model cannot claim it.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol, cast

from pydantic import Field

from admiralty.fleets.support.shop import Desk, Shop
from admiralty.fleets.support.shop.arithmetic import evaluate
from admiralty.fleets.support.shop.records import Address, Order, Product, User
from admiralty.fleets.support.shop.rules import CANCEL_REASONS
from admiralty.tools import Tool, ToolContext, ToolError, tool

CUSTOMER = "customer"
"""Key in the session: user id of the authenticated customer."""
TRANSFER = "transfer"
"""Key in the session: ``{"turn", "summary"}`` once the customer was handed to a human."""
POLICY_CORPUS = "policy"
"""Name of the corpus with the desk's policy in the fleet's memory."""


class Resources(Protocol):
    """What the tools need of the object that the fleet's setup returns."""

    @property
    def shop(self) -> Shop: ...


def _entity(of: str, pattern: str, *examples: str) -> Any:
    """Describe a parameter that names a thing, so that it can also be found in text without a model.

    The pattern is told, not enforced: a malformed id gets the tool's own answer.
    """
    return Field(examples=list(examples), json_schema_extra={"x-entity": {"of": of, "pattern": pattern}})


UserId = Annotated[str, _entity("user_id", r"\b[a-z]+_[a-z]+_\d{4}\b", "first_last_0000")]
OrderId = Annotated[str, _entity("order_id", r"#W\d{7}\b", "#W0000000")]
ItemId = Annotated[str, _entity("item_id", r"\b\d{10}\b", "0000000000")]
ProductId = Annotated[str, _entity("product_id", r"\b\d{10}\b", "0000000000")]
PaymentMethodId = Annotated[
    str,
    _entity("payment_method_id", r"\b(?:credit_card|gift_card|paypal)_\d{7}\b", "gift_card_0000000"),
]
Email = Annotated[str, _entity("email", r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b", "name@example.com")]
Zip = Annotated[str, _entity("zip", r"\b\d{5}\b", "00000")]
Reason = Annotated[str, Field(json_schema_extra={"enum": list(CANCEL_REASONS)})]


def _desk(ctx: ToolContext) -> Desk:
    shop = cast("Resources", ctx.resources).shop
    return shop.desk(staff=ctx.acting == "staff", customer=ctx.session.get(CUSTOMER), rehearsal=ctx.rehearsal)


def _identify(ctx: ToolContext, user_id: str) -> str:
    if ctx.acting == "customer":
        ctx.session[CUSTOMER] = user_id
    return user_id


# -- who is asking --------------------------------------------------------------------------------


@tool(effect="read")
def find_user_id_by_email(email: Email, ctx: ToolContext) -> str:
    """Find a customer's user id by their email; this authenticates them for the conversation.

    Try this before name and zip code. Only one customer can be helped in a conversation.

    Args:
        email: The email of the customer's profile.
    """
    return _identify(ctx, _desk(ctx).find_by_email(email))


@tool(effect="read")
def find_user_id_by_name_zip(first_name: str, last_name: str, zip: Zip, ctx: ToolContext) -> str:  # noqa: A002
    """Find a customer's user id by name and zip code; this authenticates them for the conversation.

    Use it when the customer cannot give their email, or none was found by it.

    Args:
        first_name: First name, without titles.
        last_name: Last name.
        zip: Zip code of the customer's default address.
    """
    return _identify(ctx, _desk(ctx).find_by_name_zip(first_name, last_name, zip))


# -- reading --------------------------------------------------------------------------------------


@tool(effect="read")
def get_user_details(user_id: UserId, ctx: ToolContext) -> User:
    """Get the customer's profile: name, address, email, payment methods with balances, order ids.

    Args:
        user_id: The user id that was found for the customer.
    """
    return _desk(ctx).user(user_id)


@tool(effect="read")
def get_order_details(order_id: OrderId, ctx: ToolContext) -> Order:
    """Get an order of the customer: status, items with options and prices, address, payments, parcels.

    Args:
        order_id: The order id, with the number sign in front.
    """
    return _desk(ctx).order(order_id)


@tool(effect="read")
def get_product_details(product_id: ProductId, ctx: ToolContext) -> Product:
    """Get a product's variants: item ids, options, prices, and whether each is available.

    Args:
        product_id: The product id. It is not an item id: the two have no relation.
    """
    return _desk(ctx).product(product_id)


@tool(effect="read")
def list_all_product_types(ctx: ToolContext) -> dict[str, str]:
    """List the names and product ids of all products of the shop, sorted by name."""
    return _desk(ctx).product_types()


@tool(effect="read")
async def search_policy(query: str, ctx: ToolContext) -> list[dict[str, Any]]:
    """Search the desk's policy for the passages that decide a case, each with its citation.

    Args:
        query: What to look up, in a few words: "refund of a cancelled order to a gift card".
    """
    if ctx.memory is None:
        raise ToolError("the policy cannot be searched here")
    return [
        {
            "citation": passage.citation,
            "heading": passage.heading,
            "text": passage.text,
            "source": passage.source,
            "start": passage.start,
            "end": passage.end,
        }
        for passage in await ctx.memory.search(POLICY_CORPUS, query)
    ]


@tool(effect="read")
def calculate(expression: str) -> str:
    """Calculate an arithmetic expression; the result is rounded to two digits.

    Args:
        expression: Numbers, + - * / ** //, brackets and spaces, such as "2 * (19.99 + 5)".
    """
    return evaluate(expression)


@tool(effect="read")
def think(thought: str) -> str:  # noqa: ARG001 - to have written it down is the use
    """Write down a thought, to reason before acting. Nothing is looked up or changed.

    Args:
        thought: The thought.
    """
    return ""


# -- changing -------------------------------------------------------------------------------------


@tool(effect="write", confirm=True, rehearse=True)
def cancel_pending_order(order_id: OrderId, reason: Reason, ctx: ToolContext) -> Order:
    """Cancel an order whose status is pending, and refund it to the original payment method.

    A gift card is refunded at once, anything else within 5 to 7 business days.

    Args:
        order_id: The order id, with the number sign in front.
        reason: The customer's reason: no longer needed, or ordered by mistake.
    """
    return _desk(ctx).cancel(order_id, reason)


@tool(effect="write", confirm=True, rehearse=True)
def modify_pending_order_address(
    order_id: OrderId,
    address1: str,
    address2: str,
    city: str,
    state: str,
    country: str,
    zip: Zip,  # noqa: A002
    ctx: ToolContext,
) -> Order:
    """Change the shipping address of an order whose status is pending.

    Args:
        order_id: The order id, with the number sign in front.
        address1: First line: number and street.
        address2: Second line: apartment or suite; empty if there is none.
        city: City.
        state: State, as its two letters.
        country: Country, such as USA.
        zip: Zip code.
    """
    return _desk(ctx).modify_address(order_id, _address(address1, address2, city, state, country, zip))


@tool(effect="write", confirm=True, rehearse=True)
def modify_pending_order_payment(
    order_id: OrderId, payment_method_id: PaymentMethodId, ctx: ToolContext
) -> Order:
    """Pay an order whose status is pending by another payment method of the customer's profile.

    The first method is refunded. A gift card must hold the whole amount.

    Args:
        order_id: The order id, with the number sign in front.
        payment_method_id: The new payment method, from the profile.
    """
    return _desk(ctx).modify_payment(order_id, payment_method_id)


@tool(effect="write", confirm=True, rehearse=True)
def modify_pending_order_items(
    order_id: OrderId,
    item_ids: list[ItemId],
    new_item_ids: list[ItemId],
    payment_method_id: PaymentMethodId,
    ctx: ToolContext,
) -> Order:
    """Swap items of a pending order for other available variants of the same products.

    This works once for an order, and closes it to cancellation and further changes: have all items
    together first. The price difference is paid or refunded at once.

    Args:
        order_id: The order id, with the number sign in front.
        item_ids: The items to replace; an item that is there twice may be named twice.
        new_item_ids: What replaces them, in the same order, as many.
        payment_method_id: Pays or receives the price difference; a gift card must hold enough.
    """
    return _desk(ctx).modify_items(order_id, item_ids, new_item_ids, payment_method_id)


@tool(effect="write", confirm=True, rehearse=True)
def return_delivered_order_items(
    order_id: OrderId, item_ids: list[ItemId], payment_method_id: PaymentMethodId, ctx: ToolContext
) -> Order:
    """Request the return of items of an order whose status is delivered.

    This works once for an order. The customer gets an email on how to send the items back.

    Args:
        order_id: The order id, with the number sign in front.
        item_ids: The items to return; an item that is there twice may be named twice.
        payment_method_id: Where the refund goes: the order's payment method, or a gift card.
    """
    return _desk(ctx).return_items(order_id, item_ids, payment_method_id)


@tool(effect="write", confirm=True, rehearse=True)
def exchange_delivered_order_items(
    order_id: OrderId,
    item_ids: list[ItemId],
    new_item_ids: list[ItemId],
    payment_method_id: PaymentMethodId,
    ctx: ToolContext,
) -> Order:
    """Request the exchange of items of a delivered order for available variants of the same products.

    This works once for an order: have all items together first. The customer gets an email on how
    to send the items back, and need not order anew.

    Args:
        order_id: The order id, with the number sign in front.
        item_ids: The items to exchange; an item that is there twice may be named twice.
        new_item_ids: What they are exchanged for, in the same order, as many.
        payment_method_id: Pays or receives the price difference; a gift card must hold enough.
    """
    return _desk(ctx).exchange(order_id, item_ids, new_item_ids, payment_method_id)


@tool(effect="write", confirm=True, rehearse=True)
def modify_user_address(
    user_id: UserId,
    address1: str,
    address2: str,
    city: str,
    state: str,
    country: str,
    zip: Zip,  # noqa: A002
    ctx: ToolContext,
) -> User:
    """Change the default address of the customer's profile. Orders keep the address that they have.

    Args:
        user_id: The user id that was found for the customer.
        address1: First line: number and street.
        address2: Second line: apartment or suite; empty if there is none.
        city: City.
        state: State, as its two letters.
        country: Country, such as USA.
        zip: Zip code.
    """
    return _desk(ctx).modify_user_address(user_id, _address(address1, address2, city, state, country, zip))


@tool(effect="write")
def transfer_to_human_agents(summary: str, ctx: ToolContext) -> str:
    """Hand the customer over to a human, only where no tool or policy covers what they ask.

    Args:
        summary: What the customer wants and what has been done, for the human who takes over.
    """
    ctx.session[TRANSFER] = {"turn": ctx.turn, "summary": summary}
    return "Transfer successful"


def _address(address1: str, address2: str, city: str, state: str, country: str, zip_code: str) -> Address:
    return {
        "address1": address1,
        "address2": address2,
        "city": city,
        "state": state,
        "country": country,
        "zip": zip_code,
    }


READ_TOOLS: tuple[Tool, ...] = (
    find_user_id_by_email,
    find_user_id_by_name_zip,
    get_user_details,
    get_order_details,
    get_product_details,
    list_all_product_types,
    search_policy,
    calculate,
    think,
)
"""What only looks, or identifies the customer."""

WRITE_TOOLS: tuple[Tool, ...] = (
    cancel_pending_order,
    modify_pending_order_address,
    modify_pending_order_payment,
    modify_pending_order_items,
    return_delivered_order_items,
    exchange_delivered_order_items,
    modify_user_address,
    transfer_to_human_agents,
)
"""What changes something; all but the transfer only after the customer's yes."""

TOOLS: tuple[Tool, ...] = READ_TOOLS + WRITE_TOOLS
"""All tools of the desk."""
