"""The in-process adapter of the Metrics port: it keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping


class NoMetrics:
    """Takes measurements and forgets them."""

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Do nothing."""
