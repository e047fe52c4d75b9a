"""Metrics for Prometheus: what SQL knows of all processes, and what this process sees of HTTP.

Every app has a registry of its own, so that two of them in one process do not add up. Metrics of
the process carry its name, since a scraper behind a balancer meets now one replica, now another;
those from SQL are the same at all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admiralty.core.money import to_dollars
from admiralty.runtime.ledger.reports import UsageLine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LINE = ("agent", "tier", "model")


class HttpMetrics:
    """Counts and times requests, by route template: never by path, of which there are any number."""

    def __init__(self, process: str, version: str) -> None:
        self._process = process
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "admiralty_http_requests",
            "HTTP requests answered by this process.",
            ("process", "method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "admiralty_http_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ("process", "method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Named(ProcessCollector(registry=None), process))
        self.registry.register(_Build(version, process))

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        method = method if method in _METHODS else "other"
        self._requests.labels(self._process, method, route, str(status)).inc()
        self._seconds.labels(self._process, method, route).observe(seconds)


class Measured:
    """ASGI middleware that records every request."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # The router leaves the route that it found in the scope.
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            self._metrics.record(scope["method"], route, status, time.perf_counter() - started)


def render(http: HttpMetrics, usage: Sequence[UsageLine], turns: Mapping[str, int]) -> bytes:
    """Return all metrics in Prometheus' text form."""
    durable = CollectorRegistry()
    durable.register(_Durable(usage, turns))
    return generate_latest(durable) + generate_latest(http.registry)


class _Durable(Collector):
    """Counters whose truth is in SQL: they survive restarts, and every replica tells the same."""

    def __init__(self, usage: Sequence[UsageLine], turns: Mapping[str, int]) -> None:
        self._usage = usage
        self._turns = turns

    def collect(self) -> Iterable[Metric]:
        ended = CounterMetricFamily("admiralty_turns", "Turns that ended, by outcome.", labels=["status"])
        for status in ("done", "failed", "cancelled"):
            ended.add_metric([status], self._turns.get(status, 0))
        running = self._turns.get("running", 0)
        yield ended
        yield GaugeMetricFamily("admiralty_turns_running", "Turns being answered now.", value=running)
        calls = CounterMetricFamily("admiralty_model_calls", "Model calls.", labels=_LINE)
        unpriced = CounterMetricFamily(
            "admiralty_unpriced_model_calls", "Model calls whose price is not known.", labels=_LINE
        )
        cost = CounterMetricFamily(
            "admiralty_cost_usd", "What the model calls cost, in dollars.", labels=_LINE
        )
        tokens = CounterMetricFamily(
            "admiralty_tokens",
            "Tokens of model calls. Cached ones are part of the input, reasoning ones of the output.",
            labels=(*_LINE, "kind"),
        )
        for line in self._usage:
            labels = [line.agent, line.tier, line.model]
            calls.add_metric(labels, line.calls)
            unpriced.add_metric(labels, line.unpriced_calls)
            cost.add_metric(labels, float(to_dollars(line.cost)))
            for kind in ("input", "output", "cached", "cache_write", "reasoning"):
                tokens.add_metric([*labels, kind], getattr(line.usage, f"{kind}_tokens"))
        yield from (calls, unpriced, cost, tokens)


class _Named(Collector):
    """Another collector's metrics, with the process's name on each."""

    def __init__(self, inner: Collector, process: str) -> None:
        self._inner = inner
        self._process = process

    def collect(self) -> Iterable[Metric]:
        for metric in self._inner.collect():
            metric.samples = [
                sample._replace(labels={"process": self._process, **sample.labels})
                for sample in metric.samples
            ]
            yield metric


class _Build(Collector):
    """Which version answers."""

    def __init__(self, version: str, process: str) -> None:
        self._labels = {"version": version, "process": process}

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("admiralty_build", "The running version.", value=self._labels)
