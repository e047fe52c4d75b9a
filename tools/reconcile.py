"""What a tool says of a call that began in an execution which is gone: whether it was carried out.

``@tool(reconcile=function)`` names a function that looks it up where the tool acts: at the payment service
by ``ctx.idempotency_key``, in the database by the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

OUTBOX: Literal["outbox"] = "outbox"
"""In the place of a function: the tool completes its effect in the transaction of its own write
(``ctx.effect.complete``), so that what is not finished in the effects was not done."""

Reconcile = Callable[..., Any] | Literal["outbox"]
"""A sync or async function that returns a :class:`Reconciled`, or :data:`OUTBOX`."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """An answer: :meth:`done`, :meth:`not_done` or :meth:`unknown`."""

    state: Literal["done", "not_done", "unknown"]
    result: Any = None

    @classmethod
    def done(cls, result: Any = "It was done.") -> Reconciled:
        """It was carried out; ``result`` is what the tool would have returned."""
        return cls("done", result)

    @classmethod
    def not_done(cls) -> Reconciled:
        """It was not carried out, and will not be any more: it may run now."""
        return cls("not_done")

    @classmethod
    def unknown(cls) -> Reconciled:
        """It cannot be told: a person must look."""
        return cls("unknown")
