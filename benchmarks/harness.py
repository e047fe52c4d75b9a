"""Runs systems side by side: the same load on each, in rounds (A B C A B C), medians over the rounds.

All systems stay up together, so what else happens on the machine hits all alike; what an idle one costs is
measured and reported. It knows the systems only through `benchmarks.systems.catalog.System`.
"""

import asyncio
import json
import os
import platform
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from benchmarks.client import Call, Load, percentile, run_load
from benchmarks.processes import ProcessGroup, ProcessUse, cpu_between, cpu_by_kind, free_port, wait_for_port
from benchmarks.systems.catalog import System

IDLE_SECONDS: Final = 2.0
MIN_WARM_UP_TURNS: Final = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    concurrencies: Sequence[int] = (1, 16, 64)
    rounds: int = 3
    seconds: float = 5.0
    """Length of each measurement."""
    max_turns: int = 5000
    """Upper bound of turns in each measurement."""
    turns_per_conversation: int = 4
    delay_ms: float = 0.0
    """What the provider waits before each answer."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: one system at one concurrency in one round. Times in milliseconds."""

    system: str
    concurrency: int
    round: int
    turns: int
    errors: int
    first_error: str | None
    turns_per_second: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    system_cpu_ms: float
    """CPU of all the system's processes, per turn."""
    provider_cpu_ms: float
    client_cpu_ms: float
    provider_calls: float
    """Model calls per turn, as the provider counted them."""
    cpu_by_kind: dict[str, float]
    """CPU of each kind of process, per turn."""


class MockProvider:
    """The mock provider as a process of its own."""

    def __init__(self, delay_ms: float = 0.0) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.mock_provider", "--port", str(self.port)]
        self.group = ProcessGroup([*command, "--delay-ms", str(delay_ms)])
        wait_for_port(self.port, self.group, 10)

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """The provider's counters."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as response:
            counters: dict[str, Any] = json.load(response)
        return counters

    def bills(self) -> dict[str, dict[str, int]]:
        """What every marked call was billed."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/bills", timeout=10) as response:
            bills: dict[str, dict[str, int]] = json.load(response)
        return bills

    def reset(self) -> None:
        """Zero the counters and bills."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/reset", data=b"", timeout=10).close()

    def control(self, **settings: float) -> None:
        """Change the provider's settings."""
        body = json.dumps(settings).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/control", data=body, timeout=10).close()


def run(systems: Sequence[System], plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Start everything, measure by the plan, end everything.

    `say` is given a line of progress before each step. The result is a document for JSON: `machine`, `plan`,
    `load_generator`, `start_up`, `idle`, `cells` (every measurement), `medians`, `ratios`, `processes`.

    Raises:
        RuntimeError: a system did not start, or gives no right answer.
    """
    with ExitStack() as stack:
        provider = MockProvider(plan.delay_ms)
        stack.callback(provider.group.stop)
        say("load generator against the mock's /healthz")
        overhead = measure_load_generator(provider, plan)
        start_up = {}
        for system in systems:
            say(f"{system.name}: start, first answer")
            stack.callback(system.stop)
            start_up[system.name] = _start(system, provider)
        say("idle")
        idle = _idle(systems)
        cells = []
        for number in range(plan.rounds):
            for concurrency in plan.concurrencies:
                for system in systems:
                    say(f"round {number + 1}/{plan.rounds}: {system.name} at {concurrency}")
                    _warm_up(system, concurrency, number)
                    cells.append(_measure(system, provider, plan, concurrency, number))
        memory = {system.name: [vars(use) for use in system.group.use()] for system in systems}
    medians = summarize(cells)
    return {
        "machine": machine(),
        "plan": vars(plan),
        "load_generator": overhead,
        "start_up": start_up,
        "idle": idle,
        "medians": medians,
        "ratios": ratios(medians, systems[0].name),
        "processes": memory,
        "cells": [vars(cell) for cell in cells],
    }


def measure_load_generator(provider: MockProvider, plan: Plan) -> dict[str, Any]:
    """What the load generator itself costs: requests to a server that does nothing, at each concurrency."""
    found = {}
    for concurrency in plan.concurrencies:
        load = asyncio.run(
            run_load(
                host="127.0.0.1",
                port=provider.port,
                turn=lambda _conversation, _number: Call(method="GET", path="/healthz"),
                check=lambda reply: None if reply.status == 200 else f"HTTP {reply.status}",
                concurrency=concurrency,
                seconds=min(1.0, plan.seconds),
                max_turns=10**6,
                turns_per_conversation=1,
                prefix="overhead",
            )
        )
        found[str(concurrency)] = {
            "requests_per_second": len(load.latencies) / load.seconds,
            "p50_ms": percentile(load.latencies, 0.5) * 1000,
            "client_cpu_ms": load.client_cpu_seconds / max(1, len(load.latencies)) * 1000,
        }
    return found


def summarize(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Medians over the rounds of each system and concurrency, with the range of the rate."""
    summary = []
    for system, concurrency in dict.fromkeys((cell.system, cell.concurrency) for cell in cells):
        mine = [cell for cell in cells if (cell.system, cell.concurrency) == (system, concurrency)]
        rates = [cell.turns_per_second for cell in mine]
        summary.append(
            {
                "system": system,
                "concurrency": concurrency,
                "turns": sum(cell.turns for cell in mine),
                "errors": sum(cell.errors for cell in mine),
                "first_error": next((cell.first_error for cell in mine if cell.first_error), None),
                "lowest_turns_per_second": min(rates),
                "highest_turns_per_second": max(rates),
                **{
                    name: statistics.median(getattr(cell, name) for cell in mine)
                    for name in (
                        "turns_per_second",
                        "p50_ms",
                        "p99_ms",
                        "first_byte_p50_ms",
                        "system_cpu_ms",
                        "provider_cpu_ms",
                        "client_cpu_ms",
                        "provider_calls",
                    )
                },
                "cpu_by_kind": _median_by_kind(mine),
            }
        )
    return summary


def _median_by_kind(cells: Sequence[Cell]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for cell in cells for kind in cell.cpu_by_kind)
    medians = {kind: statistics.median(cell.cpu_by_kind.get(kind, 0.0) for cell in cells) for kind in kinds}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def ratios(medians: Sequence[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Each system's rate, p50 and CPU relative to the baseline's at the same concurrency."""
    base = {row["concurrency"]: row for row in medians if row["system"] == baseline}
    return [
        {
            "system": row["system"],
            "baseline": baseline,
            "concurrency": row["concurrency"],
            **{name: row[name] / base[row["concurrency"]][name] for name in _COMPARED if row[name]},
            "p50_more_ms": row["p50_ms"] - base[row["concurrency"]]["p50_ms"],
        }
        for row in medians
    ]


_COMPARED: Final = ("turns_per_second", "p50_ms", "system_cpu_ms")


def machine() -> dict[str, Any]:
    """Where this was measured."""
    packages = ("langgraph", "langchain-openai", "fastapi", "httpx", "ray")
    return {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in packages},
    }


def _start(system: System, provider: MockProvider) -> dict[str, float]:
    system.prepare()
    begin = time.perf_counter()
    system.start(provider.url)
    listening = time.perf_counter() - begin
    deadline = begin + system.start_timeout_seconds
    while True:
        load = _load(system, concurrency=1, seconds=10, max_turns=1, prefix="first")
        if load.latencies:
            return {"listening_seconds": listening, "first_answer_seconds": time.perf_counter() - begin}
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{system.name}: no right answer: {load.errors[:1]}\n{system.group.output()}")
        time.sleep(0.2)


def _idle(systems: Sequence[System]) -> dict[str, float]:
    """Share of one core that each system uses while nothing is asked."""
    before = {system.name: system.group.use() for system in systems}
    begin = time.perf_counter()
    time.sleep(IDLE_SECONDS)
    seconds = time.perf_counter() - begin
    return {system.name: cpu_between(before[system.name], system.group.use()) / seconds for system in systems}


def _warm_up(system: System, concurrency: int, number: int) -> None:
    turns = max(MIN_WARM_UP_TURNS, 2 * concurrency)
    _load(system, concurrency=concurrency, seconds=5, max_turns=turns, prefix=f"warm-{concurrency}-{number}")


def _measure(system: System, provider: MockProvider, plan: Plan, concurrency: int, number: int) -> Cell:
    provider_before, before = provider.stats(), system.group.use()
    load = _load(
        system,
        concurrency=concurrency,
        seconds=plan.seconds,
        max_turns=plan.max_turns,
        turns_per_conversation=plan.turns_per_conversation,
        prefix=f"c{concurrency}-r{number}",
    )
    after: list[ProcessUse] = system.group.use()
    provider_after = provider.stats()
    turns = len(load.latencies)
    each = 1 / max(1, turns)
    return Cell(
        system=system.name,
        concurrency=concurrency,
        round=number,
        turns=turns,
        errors=len(load.errors),
        first_error=next(iter(load.errors), None),
        turns_per_second=turns / load.seconds,
        p50_ms=percentile(load.latencies, 0.5) * 1000,
        p99_ms=percentile(load.latencies, 0.99) * 1000,
        first_byte_p50_ms=percentile(load.first_bytes, 0.5) * 1000,
        system_cpu_ms=cpu_between(before, after) * each * 1000,
        provider_cpu_ms=(provider_after["cpu_seconds"] - provider_before["cpu_seconds"]) * each * 1000,
        client_cpu_ms=load.client_cpu_seconds * each * 1000,
        provider_calls=(provider_after["requests"] - provider_before["requests"]) * each,
        cpu_by_kind={
            kind: seconds * each * 1000 for kind, seconds in cpu_by_kind(before, after).items() if seconds > 0
        },
    )


def _load(
    system: System,
    *,
    concurrency: int,
    seconds: float,
    max_turns: int,
    prefix: str,
    turns_per_conversation: int = 4,
) -> Load:
    return asyncio.run(
        run_load(
            host=system.host,
            port=system.port,
            turn=system.turn,
            check=system.check,
            concurrency=concurrency,
            seconds=seconds,
            max_turns=max_turns,
            turns_per_conversation=turns_per_conversation,
            prefix=prefix,
            open_conversation=system.open_conversation,
        )
    )
