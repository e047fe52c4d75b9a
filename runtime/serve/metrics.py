"""The Metrics port answered by Ray: its dashboard and its own Prometheus endpoint then show the fleet."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util import metrics

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_STAGE_SECONDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0]

_CALL = ("agent", "model", "tier")
_ACCESS = ("agent", "action", "resource")

_COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "calls": ("Model calls, by how they ended.", (*_CALL, "status")),
    "cost_usd": ("What model calls cost, in dollars.", _CALL),
    "tokens": ("Tokens of model calls.", (*_CALL, "kind")),
    "refused": ("Calls of models and tools that were refused, by reason.", (*_ACCESS, "code")),
    "tool_cost_usd": ("What priced tools cost, in dollars.", _ACCESS),
}

_HISTOGRAMS: Mapping[str, tuple[str, tuple[str, ...], list[float]]] = {
    "call_seconds": ("Seconds of model calls.", (*_CALL, "status"), _SECONDS),
    "stage_seconds": (
        "Seconds that a call spends in each of the scheduler's stages.",
        ("stage",),
        _STAGE_SECONDS,
    ),
    "tool_seconds": ("Seconds of priced tools.", (*_ACCESS, "status"), _SECONDS),
}


class RayMetrics:
    """Hands measurements to Ray. To be made inside a replica; names begin with ``ray_admiralty_``."""

    def __init__(self) -> None:
        self._counters = {
            name: metrics.Counter(f"admiralty_{name}", description=text, tag_keys=keys)
            for name, (text, keys) in _COUNTERS.items()
        }
        self._histograms = {
            name: metrics.Histogram(
                f"admiralty_{name}", description=text, boundaries=boundaries, tag_keys=keys
            )
            for name, (text, keys, boundaries) in _HISTOGRAMS.items()
        }

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        if value > 0:  # Ray takes no zeros
            self._counters[name].inc(value, tags=dict(tags))

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        self._histograms[name].observe(value, tags=dict(tags))
