"""Whether a customer has confirmed an action: decided in code, never left to a model.

A tool with ``confirm=True`` does nothing at its first call: the call is noted with its arguments,
and the model is told to list the details and ask. If the user's next message says yes, the same
call with the same arguments goes through, once. Anything else asks again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

PENDING = "pending_confirmations"
"""Key of the session under which asked-for confirmations are kept: {fingerprint: turn}."""

_YES = re.compile(
    r"^\W*(yes|yep|yeah|yup|y(?!')|ok|okay|sure|confirm(ed)?|i (do )?confirm|correct|that'?s (right|correct)|"
    r"please do|(please )?go ahead|(please )?proceed|do it|absolutely|definitely|of course|sounds good|"
    r"i agree|agreed)\b",
    re.IGNORECASE,
)
_NO = re.compile(
    r"\?|\b(no|nope|nah|not|\w+n't|dont|cannot|never|none|nothing|without|wait|stop|cancel that|"
    r"hold (on|off)|instead|actually|but|rather|except|unless|if|wrong|change (it|that)|before|first|"
    r"later|maybe)\b",
    re.IGNORECASE,
)
_REASON = re.compile(r"\bno longer need(ed)?\b", re.IGNORECASE)
"""Said as the reason of a cancellation: the one "no" that takes nothing back."""


def is_affirmation(text: str) -> bool:
    """Return whether ``text`` is a plain yes: it begins with one and takes nothing back.

    Errs on the side of no: a yes with a condition or a question is asked again.
    """
    plain = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return bool(_YES.match(plain)) and not _NO.search(_REASON.sub("", plain))


def fingerprint(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return a digest of a call: the same tool with equal arguments gives the same."""
    canonical = json.dumps([tool, arguments], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def take_confirmation(
    session: MutableMapping[str, Any],
    *,
    tool: str,
    arguments: Mapping[str, Any],
    turn: int,
    user_message: str,
) -> bool:
    """Return whether this call was confirmed, and use the confirmation up; else note it as asked.

    Confirmed means: asked for in the turn before, with the same arguments, and the present turn's
    message is an affirmation.
    """
    pending: dict[str, int] = dict(session.get(PENDING, {}))
    key = fingerprint(tool, arguments)
    confirmed = pending.get(key) == turn - 1 and is_affirmation(user_message)
    fresh = {other: asked for other, asked in pending.items() if asked >= turn - 1 and other != key}
    session[PENDING] = fresh if confirmed else fresh | {key: turn}
    return confirmed
