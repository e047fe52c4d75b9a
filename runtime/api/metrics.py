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

from admiralty.core.money import Nanos, to_dollars
from admiralty.core.values import Event
from admiralty.runtime.ledger.budgets import BudgetState
from admiralty.runtime.ledger.figures import Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LINE = ("agent", "tier", "model")
_KINDS = ("input", "output", "cached", "cache_write", "reasoning", "audio_input", "audio_output")
_REFUSALS = frozenset({"denied", "budget_exceeded", "rate_limited"})


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
        self._refused = Counter(
            "admiralty_refused_calls",
            "Calls of this process's turns that were refused, by reason.",
            ("process", "agent", "kind", "reason"),
            registry=self.registry,
        )
        self.registry.register(_Named(ProcessCollector(registry=None), process))
        self.registry.register(_Build(version, process))

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        method = method if method in _METHODS else "other"
        self._requests.labels(self._process, method, route, str(status)).inc()
        self._seconds.labels(self._process, method, route).observe(seconds)

    def happened(self, event: Event) -> None:
        """Count a refusal, if the event of a run tells of one."""
        if event.type == "tool":
            kind, reason = "tool", event.data["status"]
        elif event.type == "error":
            kind, reason = "model", event.data.get("code")
        else:
            return
        if reason in _REFUSALS:
            self._refused.labels(self._process, event.data.get("agent") or "", kind, reason).inc()


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


def render(
    http: HttpMetrics, totals: Totals, turns: Mapping[str, int], budgets: Sequence[BudgetState]
) -> bytes:
    """Return all metrics in Prometheus' text form."""
    durable = CollectorRegistry()
    durable.register(_Durable(totals, turns, budgets))
    return generate_latest(durable) + generate_latest(http.registry)


class _Durable(Collector):
    """Figures whose truth is in SQL: they survive restarts, and every replica tells the same."""

    def __init__(self, totals: Totals, turns: Mapping[str, int], budgets: Sequence[BudgetState]) -> None:
        self._totals = totals
        self._turns = turns
        self._budgets = budgets

    def collect(self) -> Iterable[Metric]:
        ended = CounterMetricFamily("admiralty_turns", "Turns that ended, by outcome.", labels=["status"])
        for status in ("done", "failed", "cancelled"):
            ended.add_metric([status], self._turns.get(status, 0))
        running = self._turns.get("running", 0)
        unended = GaugeMetricFamily(
            "admiralty_runs", "Turns that have not ended, by how they stand.", labels=["status"]
        )
        for status in ("queued", "running", "waiting", "parked"):
            unended.add_metric([status], self._turns.get(status, 0))
        yield ended
        yield unended
        yield GaugeMetricFamily("admiralty_turns_running", "Turns being answered now.", value=running)
        yield from self._of_calls()
        yield from self._of_tools()
        yield from self._of_budgets()

    def _of_calls(self) -> Iterable[Metric]:
        families = {
            name: CounterMetricFamily(f"admiralty_{name}", text, labels=_LINE)
            for name, text in (
                ("model_calls", "Model calls."),
                ("unpriced_model_calls", "Model calls whose price is not known."),
                ("estimated_model_calls", "Model calls that were charged by estimate."),
                ("cost_usd", "What the model calls cost, in dollars."),
                ("debt_usd", "The part of the cost above what had been held, in dollars."),
                ("refunded_usd", "What later corrections gave back, in dollars."),
            )
        }
        tokens = CounterMetricFamily(
            "admiralty_tokens",
            "Tokens of model calls. Cached and audio_input ones are part of the input, reasoning and "
            "audio_output ones of the output.",
            labels=(*_LINE, "kind"),
        )
        for (agent, tier, model, tool), sums in self._totals.items():
            if tool:
                continue
            labels = [agent, tier, model]
            values = (sums.calls, sums.unpriced, sums.estimated)
            money = (_dollars(sums.cost), _dollars(sums.debt), _dollars(sums.refunded))
            for family, value in zip(families.values(), (*values, *money), strict=True):
                family.add_metric(labels, value)
            for kind in _KINDS:
                tokens.add_metric([*labels, kind], getattr(sums, f"{kind}_tokens"))
        yield from (*families.values(), tokens)

    def _of_tools(self) -> Iterable[Metric]:
        labels = ("agent", "tool")
        calls = CounterMetricFamily("admiralty_paid_tool_calls", "Calls of priced tools.", labels=labels)
        cost = CounterMetricFamily(
            "admiralty_tool_cost_usd", "What priced tools cost, in dollars.", labels=labels
        )
        for (agent, _, _, tool), sums in self._totals.items():
            if tool:
                calls.add_metric([agent, tool], sums.calls)
                cost.add_metric([agent, tool], _dollars(sums.cost))
        yield from (calls, cost)

    def _of_budgets(self) -> Iterable[Metric]:
        labels = ("budget", "name", "scope", "window")
        families = {
            name: GaugeMetricFamily(f"admiralty_budget_{name}_usd", text, labels=labels)
            for name, text in (
                (
                    "limit",
                    "Limit of a budget, in dollars: of the fullest budgets.",
                ),
                ("spent", "What is spent of a budget in its present window, in dollars."),
                ("held", "What is set aside of a budget for calls under way, in dollars."),
            )
        }
        for state in self._budgets:
            budget = state.budget
            named = [budget.id, budget.name, budget.scope, budget.window]
            for family, amount in zip(
                families.values(), (budget.limit, state.spent, state.held), strict=True
            ):
                family.add_metric(named, _dollars(amount))
        yield from families.values()


def _dollars(amount: int) -> float:
    return float(to_dollars(Nanos(amount)))


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
