"""Sets right what people mistype in the words that the rules rest on, and spells out their shorthand.

Only those words: a name, a street or a product is left as it was written.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"(?<![\w@.#'’+-])[A-Za-z]+(?![\w@'’+-]|\.\w)")
_SHORTHAND = {
    "u": "you", "r": "are", "ur": "your", "pls": "please", "plz": "please", "wanna": "want to",
    "thx": "thanks", "gonna": "going to", "gimme": "give me", "ty": "thank you", "cuz": "because",
    "abt": "about", "acct": "account", "wats": "whats", "wat": "what", "lemme": "let me",
}  # fmt: skip
_MISTYPED = (
    "address", "another", "cancel", "change", "deliver", "delivered", "delivery", "different", "exchange",
    "instead", "longer", "modify", "order", "orders", "ordered", "package", "payment", "please", "question",
    "refund", "replace", "return", "shipped", "shipping", "status", "tracking", "update", "what", "when",
    "where", "which",
)  # fmt: skip
"""Words often mistyped that the rules rest on. None is another English word with letters exchanged."""
_REAL = frozenset({"oder", "wheat", "were", "wen"})


@lru_cache(maxsize=1)
def _known() -> dict[str, str]:
    """Return the word for each of its slips: two letters exchanged, one left out, or one doubled."""
    found: dict[str, str] = {}
    for word in _MISTYPED:
        for at in range(1, len(word)):
            slips = [word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]]
            if len(word) > 4 and at < len(word) - 1:
                slips += [word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]]
            found |= {slip: word for slip in slips if slip not in _MISTYPED and slip not in _REAL}
    return found


@lru_cache(maxsize=512)
def corrected(text: str) -> str:
    """Return ``text`` with mistyped words set right; everything else stays as it is."""

    def right(match: re.Match[str]) -> str:
        word = match.group()
        low = word.lower()
        if word[0].isupper() and match.start() > 0:  # a name, perhaps
            return word
        if low in _SHORTHAND:
            return _SHORTHAND[low]
        calm = re.sub(r"(.)\1{2,}$", r"\1", word)
        return calm if calm != word else _known().get(low, word)

    return _WORD.sub(right, text)
