"""The system's clock, behind the :class:`admiralty.core.ports.Clock` port."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time in seconds since the epoch, and a monotonic time for durations."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
