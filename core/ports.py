"""Every seam of the system: what a layer asks of the one below, without knowing who answers.

Each port has an in-process adapter that is the default, and one contract suite in ``tests/``
that all its adapters pass.

================  ==========================================  =====================================
port              in-process adapter                          other adapters
================  ==========================================  =====================================
Clock             ``core.clock.SystemClock``
Embedder          ``memory.embedders.HashingEmbedder``        ``SentenceTransformerEmbedder``, remote
Memory            ``memory.knowledge.Knowledge``              the ``memory`` deployment
ModelProvider     ``runtime.providers.extractive``            ``runtime.providers.langchain``
Scheduler         ``runtime.scheduler.LocalScheduler``        the ``scheduler`` deployment
Policy            ``runtime.policy.engine.CedarPolicy``
Metrics           ``runtime.scheduler.metrics.NoMetrics``     ``runtime.serve.metrics.RayMetrics``
Limiter           ``runtime.rates.LocalLimiter``              ``runtime.rates.redis_limiter``
AgentHost         ``runtime.hosts.LocalAgentHost``            one deployment for each agent
StateStore        ``runtime.state.SqlStateStore``             the ``scheduler`` deployment
================  ==========================================  =====================================
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from admiralty.core.state import (
    Check,
    Committed,
    Completion,
    Lock,
    Merge,
    StateChange,
    StateValue,
    Who,
    Write,
)
from admiralty.core.values import (
    Access,
    CallStatus,
    Decision,
    Event,
    Grant,
    ModelCall,
    ModelReply,
    Passage,
    Permit,
    TokenDelta,
    Visit,
    VisitResult,
)

Vectors = NDArray[np.float32]
"""Shape (number of texts, dimension), each row of length 1."""

AnswerStream = AsyncGenerator[TokenDelta | ModelReply, None]
"""An answer's text as it comes, then exactly one ModelReply. Closing it ends the call."""

VisitStream = AsyncGenerator[Event | VisitResult, None]
"""What happens in a visit, then exactly one VisitResult. Closing it ends the visit."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back, for durations."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors whose dot product is their cosine similarity."""

    @property
    def name(self) -> str:
        """Model and version: vectors of different names must not be compared."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row for each text, in order. Never blocks the event loop."""
        ...


@runtime_checkable
class Memory(Protocol):
    """Shared memory of a fleet: what its documents say, and the embedder behind it."""

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        """Return the passages of ``corpus`` nearest to ``query``, best first.

        Raises NotFound for a corpus that the fleet does not have.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the embeddings of ``texts``, shape (len(texts), dimension)."""
        ...


@runtime_checkable
class ModelProvider(Protocol):
    """A family of models that can be asked. Only the scheduler's dispatch stage holds providers."""

    @property
    def name(self) -> str:
        """Short name in model names: ``openai`` in ``openai:gpt-5-mini``."""
        ...

    def stream(self, call: ModelCall, model: str) -> AnswerStream:
        """Ask ``model`` (its name without the provider) and yield text as it comes.

        The last value is the ModelReply with real usage. Never retries by itself. Raises
        RateLimited, ProviderUnavailable, ProviderRejected, OutputInvalid or DeadlineExceeded.
        Closing the iterator ends the call at the provider.
        """
        ...


@runtime_checkable
class Scheduler(Protocol):
    """The one way to a model."""

    def stream(self, call: ModelCall) -> AnswerStream:
        """Yield the answer's text as it comes, then the ModelReply. Raises AdmiraltyError."""
        ...

    async def complete(self, call: ModelCall) -> ModelReply:
        """Return the whole answer. Raises AdmiraltyError."""
        ...

    async def authorize(self, access: Access) -> Grant:
        """Return the permission for something that is no model call, its price reserved.

        Raises Denied where the policy does not permit it, BudgetExceeded where money is short.
        """
        ...

    async def settle(
        self,
        grant: Grant,
        *,
        status: CallStatus,
        seconds: float,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        """Pay for what was granted at a price, or give the money back (``status`` error). Idempotent.

        What was broken off (cancelled) is paid for: nobody knows how much of it was done. ``outcome`` (JSON)
        is what came of an effect, to be told again instead of doing it again; without one, nobody knows.
        An empty one says that it was never begun.
        """
        ...


@runtime_checkable
class Policy(Protocol):
    """Says who may do what."""

    def decide(self, access: Access) -> Decision:
        """Return whether ``access.caller`` may do this now, and why.

        Pure and fast (tens of microseconds): asked on the event loop. Never raises: what cannot be
        decided is denied, with the reason in ``errors``.
        """
        ...


class Metrics(Protocol):
    """Takes measurements of what the scheduler does. Must cost next to nothing, and never raise."""

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Add ``value``, not negative, to the counter ``name`` of these tags."""
        ...

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Take note of a duration, in seconds, in the histogram ``name`` of these tags."""
        ...


class Limiter(Protocol):
    """Counts what is asked of providers' accounts, so that none is asked for more than it allows.

    Accounts are named ``provider/key``. What an account allows is given to the adapter when it is made.
    """

    async def start(self) -> None:
        """Open what it needs. Raises nothing where a service is away: it then does without."""
        ...

    async def take(self, keys: Sequence[str], tokens: int) -> Permit:
        """Charge one request and ``tokens`` to the one of ``keys`` with the most room, in one step.

        Among equals the first. Where none has room, nothing is charged and the permit has no key but the
        seconds until one may have. Answers within a fraction of a second, and never raises.
        """
        ...

    async def give_back(self, permit: Permit, *, requests: int = 0, tokens: int = 0) -> None:
        """Correct what ``permit`` was charged by what was not used; negative: more was used."""
        ...

    async def penalize(self, key: str, seconds: float) -> None:
        """Let nobody use ``key`` for so long: its provider has said so."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


@runtime_checkable
class AgentHost(Protocol):
    """Where agents run: in this process, or each in a deployment of its own."""

    def visit(self, visit: Visit) -> VisitStream:
        """Run ``visit.caller.agent`` on ``visit``; yield events, then the VisitResult.

        A visit is a function of its messages: if it breaks off, it may be started again with the
        messages that it had produced. Raises AdmiraltyError. Closing the iterator ends the visit.
        """
        ...


@runtime_checkable
class StateStore(Protocol):
    """What the agents of all fleets know together: values under ``(namespace, key)``, with versions.

    ``who`` says whose state it is: the tenant's of the caller or of the key. Names are 1 to 200 printable
    characters without ``/``; values are JSON of at most 1,000,000 bytes. What breaks this raises
    InvalidRequest or TooLarge. For a run that was taken over, every write and lock raises RunLost.
    """

    async def get_many(self, who: Who, names: Sequence[tuple[str, str]]) -> list[StateValue | None]:
        """Return the values of these ``(namespace, key)``, in order; ``None`` where there is none."""
        ...

    async def find(
        self, who: Who, namespace: str, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> list[StateValue]:
        """Return the namespace's values whose key begins with ``prefix`` and is behind ``after``, by key."""
        ...

    async def transact(
        self,
        who: Who,
        writes: Sequence[Write],
        *,
        checks: Sequence[Check] = (),
        locks: Sequence[Lock] = (),
        completes: Completion | None = None,
    ) -> Committed:
        """Make all of the writes or none; with them, write down that a tool call of ``who`` is done.

        Raises VersionConflict where a value has not the version that its write or check expects, LockLost
        where one of ``locks`` is not held any more, RunLost where the call is another execution's by now.
        """
        ...

    async def update(
        self, who: Who, namespace: str, key: str, merge: Merge, *, default: Any = None, attempts: int = 50
    ) -> StateValue:
        """Replace a value by ``merge(value)``, or by ``merge(default)`` where there is none.

        ``merge`` runs in this process, on the event loop, with a copy of its own; again where somebody
        else was faster. Raises VersionConflict after so many attempts, and whatever ``merge`` raises.
        """
        ...

    async def history(
        self, who: Who, namespace: str, key: str, *, before: int | None = None, limit: int = 100
    ) -> list[StateChange]:
        """Return the versions that are kept of a value, latest first; only those below ``before``."""
        ...

    async def watch(
        self, who: Who, namespace: str, *, key: str | None = None, prefix: str = "", after: int | None = None
    ) -> AsyncGenerator[StateChange, None]:
        """Return the changes, from this moment on, of a key or of all whose name begins with ``prefix``.

        ``after`` begins behind that version instead: of one key, or 0 for all that is kept. Each key's
        changes come in order and none is left out, but for those that are not kept any more: the next
        one's ``missed`` counts them. A change of another process is told within a quarter of a second.
        """
        ...

    async def acquire(self, who: Who, namespace: str, key: str, *, lease: float, wait: float = 0.0) -> Lock:
        """Take a lock for ``lease`` seconds; wait so many seconds for it. Raises Locked.

        A lock keeps out who asks for it, too, and whose write names it; nobody else.
        """
        ...

    async def renew(self, who: Who, lock: Lock, *, lease: float) -> Lock:
        """Hold a lock for ``lease`` seconds from now. Raises LockLost if it was taken or released."""
        ...

    async def release(self, who: Who, lock: Lock) -> None:
        """Give a lock back; nothing happens if it is not held any more."""
        ...
