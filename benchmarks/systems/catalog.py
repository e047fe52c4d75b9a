"""The systems under test: how each is started, asked and checked.

A new one is a class here and its name in SYSTEMS.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.answers import WORDS
from benchmarks.client import Call, Open, Reply
from benchmarks.processes import ROOT, ProcessGroup, free_port, wait_for_port
from benchmarks.systems import desk

EXPECTED = " ".join(WORDS)
_ADMIRALTY: Final = (sys.executable, "-c", "from admiralty.runtime.cli import main; main()")


class System(ABC):
    """One way to serve the turn, as processes of its own."""

    name: str
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

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Do what is done once for an installation, and does not count as starting."""

    def start(self, provider: str) -> None:
        """Start the processes, to answer by the provider at this base URL, and wait for its port."""
        self.port = free_port()
        self._group = ProcessGroup(self.command(provider), self.environment(provider))
        wait_for_port(self.port, self._group, self.start_timeout_seconds)

    def stop(self) -> None:
        """End the processes; does nothing before start()."""
        if self._group is not None:
            self._group.stop()

    @abstractmethod
    def command(self, provider: str) -> Sequence[str]:
        """The command that serves on self.port."""

    def environment(self, provider: str) -> Mapping[str, str]:  # noqa: ARG002 - for those that need it
        """What the command finds in its environment, besides this process's own."""
        return {}

    @property
    def open_conversation(self) -> Open | None:
        """How a conversation is begun, where the server names it; None where the client does."""
        return None

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


class AdmiraltyLocal(System):
    """The runtime in one process, without Ray: what its parts cost by themselves."""

    name = "admiralty-local"
    fleet: ClassVar[str] = "benchmarks.fleet"

    def __init__(self) -> None:
        super().__init__()
        self._home = Path()
        self._key = ""
        self._checkout: Path | None = None

    def prepare(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="admiralty-benchmark-"))
        if self._checkout is not None:
            (self._home / "src").mkdir()
            (self._home / "src" / "admiralty").symlink_to(self._checkout)
        made = subprocess.run(
            [*_ADMIRALTY, "keys", "create", "--home", str(self._home)],
            cwd=ROOT, env=os.environ | self._source(), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        self._key = made.stdout.split()[0]

    @classmethod
    def of_checkout(cls, folder: Path) -> "AdmiraltyLocal":
        """The same by the code in another checkout, to compare the two in one run."""
        system = cls()
        system.name = f"{cls.name}@{folder}"
        system._checkout = folder.resolve()
        return system

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def command(self, provider: str) -> Sequence[str]:  # noqa: ARG002 - the provider is in the environment
        module = "benchmarks.systems.admiralty_local"
        return [sys.executable, "-m", module, "--port", str(self.port), "--home", str(self._home)]

    def environment(self, provider: str) -> Mapping[str, str]:
        return {
            **self._source(),
            "ADMIRALTY_OPENAI_BASE_URL": provider,
            **{f"ADMIRALTY_MODELS__{tier}": "openai:mock" for tier in ("SMALL", "MID", "FRONTIER")},
            "ADMIRALTY_PRICES": '{"openai:mock": {"input": "1", "output": "4"}}',
            "ADMIRALTY_EMBEDDER": "hashing",
            "OPENAI_API_KEY": "unused",
        }

    @property
    def open_conversation(self) -> Open | None:
        return lambda _: Call(path="/v1/conversations", body=b"{}", headers=self._headers())

    def turn(self, conversation: str, number: int) -> Call:
        question = desk.QUESTIONS[number % len(desk.QUESTIONS)]
        body = {"model": "desk", "messages": [{"role": "user", "content": question}]}
        headers = (*self._headers(), ("X-Conversation-Id", conversation))
        return Call(path="/v1/chat/completions", body=json.dumps(body).encode(), headers=headers)

    def check(self, reply: Reply) -> str | None:
        if reply.status != 200:
            return f"HTTP {reply.status}: {reply.body[:200].decode(errors='replace')}"
        answer = json.loads(reply.body)["choices"][0]["message"]["content"]
        return None if answer == EXPECTED else f"unexpected answer {answer[:80]!r}"

    def _source(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self._home / "src")} if self._checkout is not None else {}

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (("Content-Type", "application/json"), ("Authorization", f"Bearer {self._key}"))


class Admiralty(AdmiraltyLocal):
    """The fleet on Ray Serve, as `admiralty up` starts it: a deployment for each agent."""

    name = "admiralty"
    start_timeout_seconds = 120.0

    def command(self, provider: str) -> Sequence[str]:  # noqa: ARG002 - the provider is in the environment
        ports = ["--port", str(self.port), "--dashboard-port", str(free_port())]
        return [*_ADMIRALTY, "up", self.fleet, "--home", str(self._home), *ports, "--beside-other-ray"]


class AdmiraltyInline(Admiralty):
    """The same with its agents inside the coordinator: one hop a model call instead of two."""

    name = "admiralty-inline"
    fleet = "benchmarks.fleet:inline"


class AdmiraltyStream(Admiralty):
    """The fleet on Ray Serve, its turns streamed to the client as OpenAI's chunks."""

    name = "admiralty-stream"

    def turn(self, conversation: str, number: int) -> Call:
        call = super().turn(conversation, number)
        return replace(call, body=json.dumps({**json.loads(call.body), "stream": True}).encode())

    def check(self, reply: Reply) -> str | None:
        if reply.status != 200:
            return f"HTTP {reply.status}: {reply.body[:200].decode(errors='replace')}"
        lines = [line[6:] for line in reply.body.decode().splitlines() if line.startswith("data: {")]
        chunks = [choice for line in lines for choice in json.loads(line).get("choices", ())]
        answer = "".join(choice["delta"].get("content") or "" for choice in chunks)
        return None if answer == EXPECTED else f"unexpected answer {answer[:80]!r}"


SYSTEMS: dict[str, type[System]] = {
    system.name: system
    for system in (
        *(Bare, PlainLangGraph, PlainLangGraphStream),
        *(AdmiraltyLocal, AdmiraltyInline, Admiralty, AdmiraltyStream),
    )
}
