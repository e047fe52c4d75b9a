"""Frozen values that pass between the layers: who calls, what a model is asked, what came back.

Messages are LangChain's (``langchain_core.messages``), the field's common form; everything around
them is ours. All values pickle, because they cross from one Serve deployment to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

from admiralty.core.money import ZERO, Nanos

Tier = Literal["none", "small", "mid", "frontier"]
"""How capable a model an agent wishes for; settings map each tier to a model."""

TIERS: tuple[Tier, ...] = ("none", "small", "mid", "frontier")

Effect = Literal["read", "write", "irreversible"]
"""What a tool does to the world: nothing, something that can be undone, something that cannot."""


CallStatus = Literal["ok", "error", "cancelled", "expired"]
"""How a model call or tool call ended; ``expired``: its process died, and nobody knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """On whose behalf something happens. The API derives it from the key, never from the body."""

    tenant: str = "default"
    team: str | None = None
    user: str | None = None
    """The end user inside the tenant, as the caller names them."""
    key_id: str | None = None
    """Id of the API key that was used; never the key itself."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What spending is grouped and budgeted by besides: ``project``, ``cost_center``. From the key, where
    the key has the tag; else as the request says."""
    admin: bool = False
    """Whether the key may change what governs its tenant: budgets, policies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one or more model calls.

    ``cached``, ``cache_write`` and ``audio_input`` are parts of ``input``; ``reasoning`` and
    ``audio_output`` of ``output``. So the sums are ``input_tokens`` and ``output_tokens`` alone.
    ``cache_write_1h`` is the part of ``cache_write`` that is kept for an hour, which costs more.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            audio_input_tokens=self.audio_input_tokens + other.audio_input_tokens,
            audio_output_tokens=self.audio_output_tokens + other.audio_output_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who makes a model call or a tool call, down to the run: what scopes and records hang on."""

    identity: Identity
    fleet: str
    agent: str
    agent_version: str
    conversation_id: str
    run_id: str
    fence: int = 0
    """Which execution of the run: what an older one writes is refused. 0: of no run that is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """Where a model's reply belongs in its run, so that a run that broke off need not ask again."""

    key: str
    """Names the call within its run, the same when the run is executed again."""
    session: Mapping[str, Any]
    """The conversation's session as it was when the model was asked (JSON)."""
    outcomes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What came of the tool calls since the reply before, by :func:`effect_key`."""
    reply: ModelReply | None = None
    """The reply itself; ``None`` in a call that has none yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCall:
    """One question to a model, before the scheduler has decided anything about it."""

    id: str
    caller: Caller
    messages: tuple[BaseMessage, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools the model may call, as OpenAI function schemas (``{"type": "function", ...}``)."""
    effects: Mapping[str, Effect] = field(default_factory=dict)
    """What each tool does to the world, by its name; one that is not named counts as a write."""
    output_schema: Mapping[str, Any] | None = None
    """JSON schema the answer must fit, with a ``title``; ``None`` for free text."""
    tier: Tier = "small"
    lowest_tier: Tier = "small"
    """Down to which tier the call may be lowered when money is short; ``tier`` itself: not at all."""
    max_output_tokens: int | None = None
    """What the caller wishes; ``None``: as much as this agent usually needs."""
    deadline: float | None = None
    """Seconds since the epoch after which nobody waits for the answer."""
    priority: int = 0
    """Who goes first where calls wait for money or for a rate: the higher."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the conversation that policies may ask for (JSON)."""
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    streaming: bool = True
    """Whether anybody reads the text as it comes; if not, the provider is asked for it in one piece."""
    journal: JournalEntry | None = None
    """Under what the reply is kept as soon as it is there; ``None``: not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model that a call can be routed to."""

    provider: str
    name: str
    tier: Tier

    @property
    def id(self) -> str:
        """``provider:name``."""
        return f"{self.provider}:{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDelta:
    """A piece of an answer's text, as it streams."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReply:
    """A model's whole answer: always the last value of its stream.

    Where an output schema was asked for, ``message.content`` is the JSON text that fits it.
    """

    message: AIMessage
    model: str
    """``provider:name`` of the model that answered."""
    tier: Tier
    usage: Usage
    cost: Nanos | None
    """What was paid, failed attempts included. Providers leave it out: the scheduler prices the usage."""
    seconds: float
    finish_reason: str = "stop"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the provider says about its answer: its method, confidence, citations."""


Action = Literal[
    "model:call",
    "tool:call",
    "memory:read",
    "memory:write",
    "release:promote",
]
"""What a policy permits or forbids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectCall:
    """A tool call that may change the world: it is written down before it runs, and runs once."""

    call_id: str
    """The model's id of the call, unique in its run."""
    digest: str
    """Of tool and arguments: see :func:`effect_key`."""
    arguments: Mapping[str, Any]
    """As the tool is given them (JSON)."""
    journal: tuple[JournalEntry, ...] = ()
    """Replies of the run that are not kept yet: they are, in the same transaction."""
    resolved: Literal["", "not_done"] = ""
    """What the tool's ``reconcile`` has said of an earlier execution: ``not_done``, it may run now."""


EffectState = Literal["", "begun", "finished", "unknown"]
"""What a grant says of an effect. ``begun``: run it, and settle. ``finished``: it was done before, do not
run it. ``unknown``: an earlier execution began it, and nobody knows how it ended. Empty: none is kept."""


def effect_key(call_id: str, digest: str) -> str:
    """Return the name of a tool call within its run."""
    return f"{call_id}:{digest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """A question to the scheduler: may this caller do this now? And, for what has a price: pay for it."""

    id: str
    """Of the tool call or of whatever else asks: names the hold and the ledger's entry."""
    caller: Caller
    action: Action
    resource: str
    """Name of what is acted on: a tool, a corpus, an agent version."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of the resource: ``effect``, ``price``."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the session (JSON)."""
    price: Nanos = ZERO
    deadline: float | None = None
    priority: int = 0
    effect: EffectCall | None = None
    """Of a tool call that may change the world."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A policy's answer to an :class:`Access`."""

    allowed: bool
    """What the bundle says; whether a call is let through says :attr:`refused`."""
    reasons: tuple[str, ...] = ()
    """Policies that decided it, as ``id (file:line)``; empty for a deny by default."""
    errors: tuple[str, ...] = ()
    """What went wrong in the evaluation: any makes it a deny."""
    bundle: str
    """12 digits of the hash over the bundle's files."""
    enforced: bool = True
    """Whether a deny refuses the call, or is only recorded (``policy_mode = log``)."""
    approval: str = ""
    """Why a person must be asked, where every policy that forbids it says that a person may allow it."""

    @property
    def refused(self) -> bool:
        """Whether the call must not be made."""
        return self.enforced and not self.allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """A permission given: :meth:`Scheduler.settle` must be told how it ended if it is :attr:`open`.

    It holds all that settling needs, so that any process may do it.
    """

    access: Access
    priced: bool = False
    policy: str = ""
    """Hash of the policy bundle that permitted it."""
    held: Nanos = ZERO
    """The money set aside."""
    charges: tuple[tuple[str, str, str], ...] = ()
    """What the money is held in: budget id, subject and window of each."""
    effect: EffectState = ""
    outcome: Mapping[str, Any] | None = None
    """What came of an effect that is finished, as :meth:`Scheduler.settle` was told."""
    begun_at: float = 0.0
    """When an effect whose end is unknown was begun, in seconds since the epoch."""

    @property
    def open(self) -> bool:
        """Whether somebody must be told how it ended."""
        return self.priced or self.effect in ("begun", "unknown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Permit:
    """An account's leave to send one call, or how long there will be none."""

    key: str = ""
    """The account to use; empty: none has room."""
    wait: float = 0.0
    """Seconds until an account may have room."""
    book: str = ""
    """Where it was written down: what is given back must be given back there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A piece of a document, found for a query, with where it stands in its source."""

    source: str
    """Name of the document, as its corpus knows it: ``policy.md``."""
    heading: str
    """Headings above the passage, outermost first, joined by `` > ``; empty where there are none."""
    text: str
    start: int
    """Offset of the first character in the source."""
    end: int
    score: float
    """Cosine similarity to the query, -1 to 1."""

    @property
    def citation(self) -> str:
        """How an answer cites the passage: ``[policy.md, Return delivered order]``, or ``[notes.txt]``."""
        section = self.heading.rsplit(" > ", 1)[-1]
        return f"[{self.source}, {section}]" if section else f"[{self.source}]"


ApprovalKind = Literal["tool", "policy", "agent"]
"""Who asks for a person: the tool's definition, a policy, or the agent itself."""

Verdict = Literal["approved", "rejected", "expired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalRequest:
    """A tool call that waits for a person."""

    call_id: str
    digest: str
    kind: ApprovalKind
    agent: str
    agent_version: str
    tool: str
    arguments: Mapping[str, Any]
    reason: str
    """Why a person is asked, in words for that person."""
    expires_seconds: float | None = None
    """After which the default outcome holds; ``None``: as the settings say."""
    default: Literal["reject", "approve"] = "reject"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalVerdict:
    """What a person decided, or the clock."""

    id: str
    verdict: Verdict
    """``expired`` means rejected by nobody's answer; where the default is to approve, it is ``approved``."""
    arguments: Mapping[str, Any] | None = None
    """What the person changed the arguments to; ``None``: as they were."""
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What earlier executions of a run have left: what is here is not asked for, or done, again."""

    replies: Mapping[str, JournalEntry] = field(default_factory=dict)
    """By key."""
    outcomes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of tool calls, by :func:`effect_key`."""
    verdicts: Mapping[str, ApprovalVerdict] = field(default_factory=dict)
    """Of persons, by :func:`effect_key` of the call as the model wished it."""


EventType = Literal["run", "step", "token", "tool", "handoff", "cost", "approval", "message", "done", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened in a run, as clients see it.

    ``data`` is JSON. By type: ``run`` {run_id, conversation_id, fleet, status}; ``step`` {step,
    agent, status}; ``token`` {text, agent}; ``tool`` {call_id, agent, name, arguments, status,
    result?, error?, seconds?}, with the problem document of a refusal as its error; ``handoff`` {source,
    target, reason}; ``cost`` {agent, model, tier, usage, cost_usd, seconds}, or of a tool {agent, tool,
    call_id, cost_usd, seconds}; ``approval`` {approval_id, agent, tool, arguments, reason, expires_at,
    status}; ``message`` {role, agent, content, metadata}; ``done`` {run_id, message,
    usage, cost_usd, seconds}; ``error`` a problem document (RFC 9457) with the turn's cost_usd.
    """

    type: EventType
    data: Mapping[str, Any]
    seq: int | None = None
    """Its number in the conversation, from 1 without gaps, once it is stored; tokens have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One agent's part of a turn: what it is given when the conversation reaches it."""

    caller: Caller
    turn: int
    """Number of the turn in its conversation, from 1."""
    messages: tuple[BaseMessage, ...]
    """The conversation so far, oldest first, the turn's user message included."""
    session: Mapping[str, Any]
    """Facts that tools keep for the conversation (JSON), such as who was authenticated."""
    deadline: float | None = None
    steps_left: int = 25
    """Model calls that remain to this turn."""
    calls_left: int = 100
    """Tool calls that remain to this turn."""
    streaming: bool = True
    number: int = 0
    """Which visit of its run it is, from 0."""
    recorded: Recorded = field(default_factory=Recorded)
    durability: Literal["sync", "exit"] = "sync"
    """Whether replies are kept as they come, or only before something is changed."""
    journal: tuple[JournalEntry, ...] = ()
    """Replies to earlier visits of the run that are not kept yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisitResult:
    """What an agent leaves behind: always the last value of a visit's stream."""

    messages: tuple[BaseMessage, ...]
    """What the visit adds to the conversation, in order."""
    session: Mapping[str, Any]
    handoff: str | None = None
    """The agent to go on with; ``None`` ends the turn with the last message as its answer."""
    output: Mapping[str, Any] | None = None
    """The structured output, for an agent that declares one."""
    steps: int = 0
    """Model calls that the visit made."""
    calls: int = 0
    """Tool calls that the visit made."""
    pause: ApprovalRequest | None = None
    """A person must decide before the visit can go on: then it is to be made again, with the verdict."""
    journal: tuple[JournalEntry, ...] = ()
    """Replies that are not kept yet, those of ``Visit.journal`` too; only where it pauses or hands off."""
