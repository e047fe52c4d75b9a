"""How many event streams one process writes at once: each costs memory, and a share of every wake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from admiralty.core.errors import RateLimited

RETRY_SECONDS = 5.0


class Listeners:
    """Counts streams from their first byte to their end, whatever ends them."""

    def __init__(self, most: int) -> None:
        """``most`` streams are written at once; those that belong to a turn count, and are never refused."""
        self._most = most
        self.number = 0
        """Streams that are written now."""

    @contextmanager
    def counted(self, *, refused: bool) -> Iterator[None]:
        """Count a stream while it is written. Raises RateLimited if it may be ``refused`` and is too many."""
        if refused and self.number >= self._most:
            raise RateLimited(
                f"{self._most} event streams are open in this process already.", retry_after=RETRY_SECONDS
            )
        self.number += 1
        try:
            yield
        finally:
            self.number -= 1
