"""The systems under test: how each is started, asked and checked.

A new one is a class here and its name in SYSTEMS.
"""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from benchmarks.answers import WORDS
from benchmarks.client import Call, Reply
from benchmarks.processes import ProcessGroup, free_port, wait_for_port
from benchmarks.systems import desk

EXPECTED = " ".join(WORDS)


class System(ABC):
    """One way to serve the turn, as processes of its own."""

    name: ClassVar[str]
    start_timeout_seconds: ClassVar[float] = 30.0

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._group: ProcessGroup | None = None

    @property
    def group(self) -> ProcessGroup:
        """Its processes. Raises: RuntimeError before start()."""
        if self._group is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._group

    def start(self, provider: str) -> None:
        """Start the processes, to answer by the provider at this base URL, and wait for its port."""
        self.port = free_port()
        self._group = ProcessGroup(self.command(provider))
        wait_for_port(self.port, self._group, self.start_timeout_seconds)

    def stop(self) -> None:
        """End the processes; does nothing before start()."""
        if self._group is not None:
            self._group.stop()

    @abstractmethod
    def command(self, provider: str) -> Sequence[str]:
        """The command that serves on self.port."""

    @abstractmethod
    def turn(self, conversation: str, number: int) -> Call:
        """The request for turn `number` (from 0) of a conversation."""

    @abstractmethod
    def check(self, reply: Reply) -> str | None:
        """None for a right answer, else what is wrong with it."""


class Bare(System):
    """FastAPI and a shared HTTP client: the floor."""

    name = "bare"
    module: ClassVar[str] = "benchmarks.systems.bare"

    def command(self, provider: str) -> Sequence[str]:
        return [sys.executable, "-m", self.module, "--port", str(self.port), "--provider", provider]

    def turn(self, conversation: str, number: int) -> Call:
        question = desk.QUESTIONS[number % len(desk.QUESTIONS)]
        return Call(
            path="/turn", body=json.dumps({"conversation": conversation, "message": question}).encode()
        )

    def check(self, reply: Reply) -> str | None:
        if reply.status != 200:
            return f"HTTP {reply.status}: {reply.body[:200].decode(errors='replace')}"
        answer = json.loads(reply.body)["answer"]
        return None if answer == EXPECTED else f"unexpected answer {answer[:80]!r}"


class PlainLangGraph(Bare):
    """The same graph in LangGraph, in one process, answered whole."""

    name = "plain"
    module = "benchmarks.systems.plain_langgraph"


class PlainLangGraphStream(PlainLangGraph):
    """The same, streaming tokens to the client."""

    name = "plain-stream"

    def turn(self, conversation: str, number: int) -> Call:
        return Call(path="/stream", body=super().turn(conversation, number).body)

    def check(self, reply: Reply) -> str | None:
        if reply.status != 200:
            return f"HTTP {reply.status}: {reply.body[:200].decode(errors='replace')}"
        lines = [line[6:] for line in reply.body.decode().splitlines() if line.startswith("data: {")]
        answer = "".join(json.loads(line)["token"] for line in lines)
        return None if answer == EXPECTED else f"unexpected answer {answer[:80]!r}"


SYSTEMS: dict[str, type[System]] = {
    system.name: system for system in (Bare, PlainLangGraph, PlainLangGraphStream)
}
