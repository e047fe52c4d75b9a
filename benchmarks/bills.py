"""What the mock provider bills, call by call: the truth that a ledger is compared with.

A call is recognised by a mark in its messages, `MARK:name`; calls without one are counted together by the
provider's `Stats` only. Nothing here knows of HTTP or prices.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Final

_MARK: Final = re.compile(rb"MARK:([A-Za-z0-9_-]+)")


@dataclass(kw_only=True)
class Bill:
    """What one marked call was asked and billed, all its attempts together."""

    asked: int = 0
    """Requests, those included that were answered with an error."""
    billed: int = 0
    """Answers begun: each is billed in full, also when nobody listens or the connection is cut."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Bills:
    """The bills of all marked calls since the start or the last reset."""

    def __init__(self) -> None:
        self._bills: dict[str, Bill] = {}

    def ask(self, body: bytes) -> Bill | None:
        """Count a request; return the bill that it belongs to, None without a mark."""
        if b"MARK:" not in body:
            return None
        found = _MARK.search(body)
        if found is None:
            return None
        bill = self._bills.setdefault(found[1].decode(), Bill())
        bill.asked += 1
        return bill

    def report(self) -> dict[str, dict[str, int]]:
        """Every bill by its mark, ready for JSON."""
        return {mark: dataclasses.asdict(bill) for mark, bill in self._bills.items()}
