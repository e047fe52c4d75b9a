"""The words that the extractive provider understands: general English, no domain's.

Tables only. What a fleet's own tools, records and documents are called is never written here.
"""

from __future__ import annotations

ACTIONS: dict[str, tuple[str, ...]] = {
    "cancel": ("cancel", "cancelling", "canceling", "cancellation", "call off", "calling off", "revoke"),
    "return": (
        "return", "returning", "send back", "sending back", "send it back", "send them back", "give back",
        "bring back", "refund", "refunded", "money back",
    ),
    "exchange": (
        "exchange", "exchanging", "swap", "swapping", "trade", "replace", "replacing", "replacement",
    ),
    "modify": (
        "modify", "modifying", "change", "changing", "update", "updating", "edit", "switch", "switching",
        "correct", "alter", "adjust", "amend", "edit",
    ),
    "delete": ("delete", "deleting", "remove", "removing", "erase"),
    "create": ("create", "creating", "add", "adding", "open", "register"),
    "book": ("book", "booking", "reserve", "reserving", "schedule"),
    "approve": ("approve", "approving", "reject", "rejecting"),
    "send": ("send", "sending", "forward", "ship", "redirect", "reroute", "deliver"),
    "set": (
        "set", "make that", "make it", "make this", "pay with", "pay by", "pay using", "pay order",
        "pay the order",
        "pay my order", "pay for", "pay it", "charge", "use my", "use the", "upgrade", "downgrade",
    "have it in", "have them in", "get it in", "want it in", "like it in", "prefer it in", "one size up",
    "one size down", "one size bigger", "one size smaller", "next size up", "next size down",
    ),
    "transfer": ("transfer", "transferring", "escalate"),
}  # fmt: skip
"""Words by which people ask for an action, under the verb that tools are named by."""

WEAK_ACTIONS = frozenset({
    "refund", "refunded", "money back", "switch", "switching", "add", "open", "book",
    *ACTIONS["send"], *ACTIONS["set"],
})  # fmt: skip
"""These also occur as details of another request: alone they ask, beside another action they do not."""

READ_VERBS = frozenset(
    [
        "get",
        "find",
        "list",
        "search",
        "lookup",
        "look",
        "show",
        "read",
        "check",
        "fetch",
        "query",
        "view",
        "describe",
        "retrieve",
        "browse",
        "count",
        "calculate",
        "track",
        "identify",
    ]
)

OBJECTS: dict[str, tuple[str, ...]] = {
    "payment": (
        "payment", "pay", "paying", "paid", "charge", "billing", "card", "credit card", "paypal",
        "gift card",
        "wallet",
    ),
    "address": (
        "address", "addresses", "ship", "shipped", "shipping", "deliver", "street", "zip", "moved",
        "moving",
    ),
    "user": ("profile", "account", "default", "user", "my address", "home address"),
    "items": ("items", "item", "option", "options", "size", "color", "colour"),
}  # fmt: skip
"""What else people call the objects that tools are named after."""

TOPICS: dict[str, tuple[str, ...]] = {
    "status": (
        "status", "where", "arrive", "arrived", "arriving", "shipped", "ship", "delivered", "delivery",
        "state",
        "processed", "dispatched", "sent out", "progress", "here yet",
        "when will", "happening", "update on", "coming",
    ),
    "tracking": ("tracking", "track", "package", "parcel", "shipment", "courier", "trace"),
    "items": (
        "items", "item", "contain", "contains", "contents", "products", "things", "what did i order",
        "what did i buy", "bought", "included", "what is in", "what s in",
    ),
    "price": (
        "price", "prices", "cost", "costs", "how much", "total", "amount", "worth", "paid", "expensive",
        "charged", "sum", "spend", "spent",
    ),
    "address": ("address", "shipping to", "ship to", "delivered to", "sent to", "going to", "live", "zip"),
    "payment": ("payment", "pay", "paid with", "paid for", "card", "cards", "paypal", "how did i pay",
        "method"),
    "balance": ("balance", "left on", "remaining", "remains", "gift card"),
    "email": ("email", "mail", "e mail"),
    "name": ("my name",),
    "orders": ("orders", "order history", "purchases", "order numbers", "order ids"),
}  # fmt: skip
"""Words that ask for a part of a record, under the part."""

OWN_WORDS = frozenset({"my", "mine", "i", "me"})
OWN_THINGS = (
    "my order", "my orders", "my account", "my profile", "my address", "my payment", "my package",
    "my parcel",
    "my delivery", "my shipment", "my gift card", "my card", "my balance", "my purchase", "my item",
    "my items",
    "my email", "my refund", "my return", "my last", "my recent", "my pending", "my shipping", "my default",
    "my zip", "my credit", "my paypal", "i order", "i ordered", "i bought", "i purchased",
    "did i order", "did i buy",
    "did i pay", "have i ordered", "i have ordered", "order status", "status of order", "track order",
    "do you have on file", "payment methods", "order number",
)  # fmt: skip
"""Phrases about the customer's own records: they cannot be answered before they are identified."""

QUESTION_STARTS = (
    "how", "what", "when", "which", "why", "who", "whose", "where", "do", "does", "did", "is", "are",
    "was", "were",
    "will", "has", "have", "am", "should", "would it", "if i", "what's", "whats", "where's", "wheres",
    "tell me",
    "i want to know", "i would like to know", "i'd like to know", "show me", "let me know",
    "could you tell",
    "can you tell", "can you explain", "could you explain", "explain", "list", "i wonder",
    "i was wondering",
    "can you show", "could you show", "can you check", "could you check", "please check", "check",
    "please tell",
    "i need to know", "track", "any update", "give me", "can you give", "can you look",
    "could you look", "look up",
    "status of", "in what", "until when", "under what", "at what", "by when",
)  # fmt: skip
REQUEST_STARTS = (
    "can i", "could i", "may i", "can you", "could you", "would you", "will you", "is it possible to",
    "would it be possible", "am i able", "please", "is there a way to", "do you think you could",
    "would you mind", "do you mind", "can we", "could we",
)  # fmt: skip

RULE_STARTS = (
    "can i", "could i", "may i", "can we", "could we", "is it possible", "would it be possible", "am i able",
    "is there a way", "am i allowed", "can one", "can customers", "can people",
)  # fmt: skip
"""They ask what is possible; of a certain thing, they ask to have it done."""

MEANINGS = {
    "return": r"(?:send|sending|take|give|bring|ship)(?: \w+)? back|sent back",
    "refund": r"(?:my |the )?money back|reimburse\w*|get paid back",
    "cancelled": r"cancell?able|call(?:ed)? off",
    "exchange": r"swap\w*|trade|replace",
    "modified": r"chang(?:e|ed|ing)|edit(?:ed)?|updat(?:e|ed)",
}
"""Everyday phrases (patterns), under the word that documents use."""

HUMAN_WORDS = (
    "human", "real person", "a person", "live agent", "human agent", "representative", "supervisor",
    "manager",
    "someone else", "speak to someone", "talk to someone", "real agent", "live person", "an operator",
    "customer service rep", "an actual person", "somebody real",
)  # fmt: skip

GREETINGS = frozenset({
    "hi", "hello", "hey", "good", "morning", "afternoon", "evening", "greetings", "there", "howdy",
    "yo", "day",
    "dear", "team", "how", "are", "you", "doing",
})  # fmt: skip
THANKS = frozenset(
    {"thanks", "thank", "thx", "cheers", "great", "perfect", "awesome", "bye", "goodbye", "appreciate"}
)

COMPLAINTS = (
    "useless", "idiot", "stupid", "terrible", "horrible", "angry", "furious", "worst", "ridiculous", "sucks",
    "unacceptable", "scam", "awful", "disappointed", "disgusting", "broken", "damaged", "annoying",
    "annoyed", "incompetent", "garbage", "nothing works", "nothing ever works", "fed up", "pathetic",
)  # fmt: skip

BOUNDARIES = frozenset(
    {"and", "then", "also", "plus", "additionally", "next", "after", "second", "first", "finally"}
)

WAYS_TO_PAY = (
    "paypal",
    "gift card",
    "credit card",
    "debit card",
    "apple pay",
    "google pay",
    "bank transfer",
    "visa",
)

SCALES = (
    ("xxs", "xs", "s", "m", "l", "xl", "xxl", "xxxl"),
    ("tiny", "small", "medium", "large", "extra large"),
    ("short", "regular", "long", "extra long"),
    ("single", "double", "triple"),
    ("throw", "twin", "full", "queen", "king"),
    ("low", "medium", "high"),
)
"""Values that people order without a number."""
SIZES = (
    "size", "capacity", "volume", "persons", "length", "width", "height", "diameter", "pieces", "storage",
    "screen size", "weight",
)  # fmt: skip
"""Options that ``bigger`` is about, where several are ordered."""
MORE = ("bigger", "larger", "longer", "wider", "size up", "sizes up", "roomier", "taller")
LESS = ("smaller", "shorter", "narrower", "size down", "sizes down", "tinier")
CHEAPER = ("cheaper", "less expensive", "lower price", "lower priced")

CHEAPEST = ("cheapest", "least expensive", "lowest price", "lowest priced")
DEAREST = ("most expensive", "highest price", "highest priced", "priciest")

ENUM_HINTS: dict[str, tuple[str, ...]] = {
    "mistake": (
        "mistake", "mistaken", "mistakenly", "accident", "accidentally", "wrong", "wrongly", "error",
        "unintentionally",
        "didn t mean", "did not mean", "duplicate", "twice",
    ),
    "needed": (
        "need", "needed", "needs", "want it anymore", "want them anymore", "don t want", "do not want",
        "changed my mind", "change of mind", "unneeded", "unnecessary", "no use", "no longer want",
        "not required",
    ),
}  # fmt: skip
"""Words that stand for a word of an enumerated value, such as a reason."""

STATES = {
    "alabama": "AL", "alaska": "AK", "arizona": "AZ", "arkansas": "AR", "california": "CA",
    "colorado": "CO",
    "connecticut": "CT", "delaware": "DE", "florida": "FL", "georgia": "GA", "hawaii": "HI", "idaho": "ID",
    "illinois": "IL", "indiana": "IN", "iowa": "IA", "kansas": "KS", "kentucky": "KY", "louisiana": "LA",
    "maine": "ME", "maryland": "MD", "massachusetts": "MA", "michigan": "MI", "minnesota": "MN",
    "mississippi": "MS", "missouri": "MO", "montana": "MT", "nebraska": "NE", "nevada": "NV",
    "new hampshire": "NH", "new jersey": "NJ", "new mexico": "NM", "new york": "NY", "north carolina": "NC",
    "north dakota": "ND", "ohio": "OH", "oklahoma": "OK", "oregon": "OR", "pennsylvania": "PA",
    "rhode island": "RI", "south carolina": "SC", "south dakota": "SD", "tennessee": "TN", "texas": "TX",
    "utah": "UT", "vermont": "VT", "virginia": "VA", "washington": "WA", "west virginia": "WV",
    "wisconsin": "WI", "wyoming": "WY", "district of columbia": "DC",
}  # fmt: skip
