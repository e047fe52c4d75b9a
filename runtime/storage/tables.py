"""The tables, as SQLAlchemy Core knows them. Migrations in ``migrations/`` create them.

Times are seconds since the epoch; money is nano-dollars; JSON columns hold what clients see.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Line(TypeDecorator[str]):
    """Text of bounded length, of which every character can be stored.

    PostgreSQL takes no NUL, and no database takes half a surrogate pair; but models write both.
    They become U+FFFD, so that what happened is kept, and an id with them is simply not found.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        return storable(value) if isinstance(value, str) else value


class Prose(Line):
    """Text of any length, of which every character can be stored."""

    impl = Text
    cache_ok = True


def storable(text: str) -> str:
    """Return ``text`` with U+FFFD for what no database or wire takes: NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    whole = text.replace("\0", "\ufffd")
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("digest", Line(64), nullable=False, unique=True),
    Column("hint", Line(16), nullable=False),
    Column("tenant", Line(200), nullable=False),
    Column("team", Line(200)),
    Column("tags", JSON, nullable=False, server_default="{}"),
    Column("admin", Boolean, nullable=False, server_default=text("false")),
    Column("name", Line(200), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("tenant", Line(200), nullable=False),
    Column("user", Line(200)),
    Column("fleet", Line(48), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("turns", Integer, nullable=False, server_default="0"),
    Column("events", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_conversations_tenant_updated_at", "tenant", "updated_at"),
)

# One execution of a turn. ``fence`` counts who has had it: only the latest may write for it.
runs = Table(
    "runs",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("conversation_id", Line(40), ForeignKey("conversations.id"), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("fleet", Line(48), nullable=False, server_default=""),
    Column("tenant", Line(200), nullable=False, server_default=""),
    # queued, running, waiting (for a person), done, failed, cancelled, parked
    Column("status", Line(16), nullable=False),
    Column("owner", Line(80), nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="1"),
    # Why earlier executions ended: [{"attempt", "owner", "at", "reason"}].
    Column("attempts", JSON, nullable=False, server_default="[]"),
    # On whose behalf, and how: all that another process needs to go on.
    Column("request", JSON, nullable=False, server_default="{}"),
    # What was asked of the process that has it: cancel, interrupt, rollback.
    Column("cancel", Line(16)),
    Column("available_at", Float, nullable=False, server_default="0"),
    Column("deadline", Float),
    Column("message", Prose, nullable=False),
    Column("answer", Prose),
    Column("error", JSON),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("ix_runs_conversation_id_turn", "conversation_id", "turn", unique=True),
    # The invariant "one live run per conversation", kept by the database itself.
    Index(
        "ix_runs_live",
        "conversation_id",
        unique=True,
        sqlite_where=text("status IN ('running', 'waiting')"),
        postgresql_where=text("status IN ('running', 'waiting')"),
    ),
    # Messages that wait for their turn. With their status, though it is always the same: else SQLite prefers
    # the index above, and reads all turns of a long conversation.
    Index(
        "ix_runs_queued",
        "conversation_id",
        "status",
        "turn",
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    ),
    # What workers look for: few rows, however many runs there have been. SQLite uses such an index only where
    # a query says its condition word for word.
    Index(
        "ix_runs_open",
        "available_at",
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    ),
    Index(
        "ix_runs_running",
        "owner",
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
    Index("ix_runs_finished_at", "finished_at"),
)

# Models' replies of runs that have not ended well yet: what an execution that broke off had asked.
steps = Table(
    "steps",
    metadata,
    Column("run_id", Line(40), primary_key=True),
    Column("key", Line(80), primary_key=True),
    Column("reply", JSON, nullable=False),
    Column("session", JSON, nullable=False),
    Column("outcomes", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

# Every tool call that may change the world: written before it runs, and again when it has.
effects = Table(
    "effects",
    metadata,
    Column("conversation_id", Line(40), primary_key=True),
    Column("run_id", Line(40), primary_key=True),
    Column("call_id", Line(200), primary_key=True),
    Column("digest", Line(64), primary_key=True),
    Column("tenant", Line(200), nullable=False),
    Column("agent", Line(48), nullable=False),
    Column("agent_version", Line(16), nullable=False),
    Column("tool", Line(200), nullable=False),
    Column("effect", Line(16), nullable=False),  # read, write, irreversible
    Column("arguments", JSON, nullable=False),
    # begun, finished, unknown: it was begun, and nobody knows how it ended; undone: a person says it was not
    Column("status", Line(16), nullable=False),
    Column("outcome", JSON),
    # Who says so: tool, reconcile, outbox, or a person.
    Column("resolved_by", Line(200)),
    Column("fence", Integer, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("ix_effects_run_id", "run_id"),
    # What people are shown: few rows, however many effects there have been.
    Index(
        "ix_effects_open",
        "begun_at",
        sqlite_where=text("status IN ('begun', 'unknown')"),
        postgresql_where=text("status IN ('begun', 'unknown')"),
    ),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("tenant", Line(200), nullable=False),
    Column("fleet", Line(48), nullable=False),
    Column("conversation_id", Line(40), nullable=False),
    Column("run_id", Line(40), nullable=False),
    Column("call_id", Line(200), nullable=False),
    Column("digest", Line(64), nullable=False),
    Column("kind", Line(16), nullable=False),  # tool, policy, agent
    Column("agent", Line(48), nullable=False),
    Column("agent_version", Line(16), nullable=False),
    Column("user", Line(200)),
    Column("tool", Line(200), nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("reason", Prose, nullable=False),
    Column("status", Line(16), nullable=False),  # pending, approved, rejected, expired, withdrawn
    Column("default", Line(16), nullable=False),  # reject, approve
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("decided_at", Float),
    Column("decided_by", Line(200)),
    Column("decision_reason", Prose),
    Column("edited", JSON),
    Index("ix_approvals_tenant_created_at", "tenant", "created_at"),
    Index("ix_approvals_once", "run_id", "call_id", "digest", unique=True),
    Index("ix_approvals_status_expires_at", "status", "expires_at"),
)

# LangGraph's checkpoints: what a conversation's graph keeps between turns.
thread_checkpoints = Table(
    "thread_checkpoints",
    metadata,
    Column("thread_id", Line(200), primary_key=True),
    Column("checkpoint_ns", Prose, primary_key=True),
    Column("checkpoint_id", Line(80), primary_key=True),
    Column("parent_id", Line(80)),
    Column("run_id", Line(40)),
    Column("type", Line(40), nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
)

thread_writes = Table(
    "thread_writes",
    metadata,
    Column("thread_id", Line(200), primary_key=True),
    Column("checkpoint_ns", Prose, primary_key=True),
    Column("checkpoint_id", Line(80), primary_key=True),
    Column("task_id", Line(80), primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("task_path", Prose, nullable=False, server_default=""),
    Column("channel", Line(200), nullable=False),
    Column("type", Line(40), nullable=False),
    Column("value", LargeBinary, nullable=False),
)

# Values that agents share. ``version`` counts the writes of a key; a deleted key keeps its count.
state_values = Table(
    "state_values",
    metadata,
    Column("tenant", Line(200), primary_key=True),
    Column("namespace", Line(200), primary_key=True),
    Column("key", Line(200), primary_key=True),
    Column("version", Integer, nullable=False),
    # JSON as text: of a bare number, SQLite would make one of its own in a JSON column.
    Column("value", Prose),
    Column("deleted", Boolean, nullable=False, server_default=text("false")),
    Column("updated_at", Float, nullable=False),
)

state_history = Table(
    "state_history",
    metadata,
    Column("tenant", Line(200), primary_key=True),
    Column("namespace", Line(200), primary_key=True),
    Column("key", Line(200), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("value", Prose),
    Column("deleted", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    # Who wrote it: the agent's version and run, or a person by their key.
    Column("fleet", Line(48), nullable=False),
    Column("agent", Line(48), nullable=False),
    Column("agent_version", Line(16), nullable=False),
    Column("conversation_id", Line(40), nullable=False),
    Column("run_id", Line(40), nullable=False),
    Column("user", Line(200)),
    Column("key_id", Line(40)),
)

# For the few cases that cannot be told afterwards that somebody else was first.
state_locks = Table(
    "state_locks",
    metadata,
    Column("tenant", Line(200), primary_key=True),
    Column("namespace", Line(200), primary_key=True),
    Column("key", Line(200), primary_key=True),
    Column("holder", Line(80), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("conversation_id", Line(40), ForeignKey("conversations.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("run_id", Line(40), nullable=False),
    Column("type", Line(16), nullable=False),
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", Line(40), primary_key=True),
    # What it limits, as scopes are written: tenant:acme, user:acme/ann, conversation:acme/*.
    Column("scope", Line(500), nullable=False),
    Column("tenant", Line(200)),
    Column("name", Line(200), nullable=False),
    Column("limit_nanos", BigInteger, nullable=False),
    Column("window", Line(16), nullable=False),
    Column("seconds", Float),
    Column("timezone", Line(64), nullable=False),
    Column("hard", Boolean, nullable=False),
    Column("thresholds", JSON, nullable=False),
    Column("webhook", Prose),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("archived_at", Float),
    Index("ix_budgets_scope", "scope"),
    Index("ix_budgets_tenant", "tenant"),
)

# What is spent and held of a budget: one row for each window, and for each subject of a budget
# that applies to each user, each conversation.
counters = Table(
    "counters",
    metadata,
    Column("budget_id", Line(40), ForeignKey("budgets.id"), primary_key=True),
    Column("subject", Line(500), primary_key=True),
    Column("window", Line(40), primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    # The part of ``held`` whose price is a guess still: the first calls of an agent to a model.
    Column("unproven", BigInteger, nullable=False),
)

holds = Table(
    "holds",
    metadata,
    Column("id", Line(48), primary_key=True),
    Column("owner", Line(80), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("unproven", Boolean, nullable=False),
    # The counters it counts in, as [budget_id, subject, window].
    Column("charges", JSON, nullable=False),
    # The ledger's entry as it will be if nobody is left to write another.
    Column("entry", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("ix_holds_expires_at", "expires_at"),
)

# Who waits for held money: so that calls of several processes are served in order.
waiters = Table(
    "waiters",
    metadata,
    Column("budget_id", Line(40), primary_key=True),
    Column("subject", Line(500), primary_key=True),
    Column("hold_id", Line(48), primary_key=True),
    Column("priority", Integer, nullable=False),
    Column("since", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

# Append-only. A hold that ends leaves one entry under its id; what is learned later is a correction.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Line(48), primary_key=True),
    Column("kind", Line(16), nullable=False),  # model, tool, correction
    Column("corrects", Line(48)),
    Column("call_id", Line(48), nullable=False),
    Column("tenant", Line(200), nullable=False),
    Column("team", Line(200)),
    Column("user", Line(200)),
    Column("tags", JSON, nullable=False),
    Column("fleet", Line(48), nullable=False),
    Column("agent", Line(48), nullable=False),
    Column("agent_version", Line(16), nullable=False),
    Column("conversation_id", Line(40), nullable=False),
    Column("run_id", Line(40), nullable=False),
    Column("model", Line(200), nullable=False),
    Column("tier", Line(16), nullable=False),
    Column("tool", Line(200), nullable=False),
    Column("status", Line(16), nullable=False),  # ok, error, cancelled, expired
    Column("error", Prose),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("cache_write_tokens", Integer, nullable=False, server_default="0"),
    Column("reasoning_tokens", Integer, nullable=False, server_default="0"),
    Column("audio_input_tokens", Integer, nullable=False, server_default="0"),
    Column("audio_output_tokens", Integer, nullable=False, server_default="0"),
    Column("cache_write_1h_tokens", Integer, nullable=False, server_default="0"),
    # NULL only in entries from before there were prices for everything.
    Column("cost_nanos", BigInteger),
    Column("held_nanos", BigInteger, nullable=False, server_default="0"),
    Column("debt_nanos", BigInteger, nullable=False, server_default="0"),
    Column("estimated", Boolean, nullable=False),
    # How the hold was reckoned, to learn from: the input by rule and as expected, the output allowed.
    Column("measure", Integer, nullable=False, server_default="0"),
    Column("expected_input", Integer, nullable=False, server_default="0"),
    Column("output_limit", Integer, nullable=False, server_default="0"),
    Column("factor", Float, nullable=False, server_default="1"),
    Column("price_book", Line(64), nullable=False),
    Column("policy", Line(64), nullable=False),
    Column("charges", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    Index("ix_ledger_conversation_id", "conversation_id"),
    Index("ix_ledger_at", "at"),
    Index("ix_ledger_tenant_at", "tenant", "at"),
    Index("ix_ledger_agent_model_at", "fleet", "agent", "model", "at"),
)

# A threshold that a budget has passed: the row is what makes it one alert, however many processes saw it.
alerts = Table(
    "alerts",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("budget_id", Line(40), nullable=False),
    Column("subject", Line(500), nullable=False),
    Column("window", Line(40), nullable=False),
    Column("threshold", Float, nullable=False),
    Column("spent_nanos", BigInteger, nullable=False),
    Column("limit_nanos", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float),  # NULL: delivered, or given up
    Column("delivered_at", Float),
    Column("error", Prose),
    # Once in each window, and anew when the limit has changed.
    Index("ix_alerts_once", "budget_id", "subject", "window", "threshold", "limit_nanos", unique=True),
    Index("ix_alerts_next_attempt_at", "next_attempt_at"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Line(48), primary_key=True),
    Column("at", Float, nullable=False),
    Column("tenant", Line(200), nullable=False),
    Column("action", Line(32), nullable=False),
    Column("principal", Line(200), nullable=False),
    Column("resource", Line(300), nullable=False),
    Column("request", JSON, nullable=False),
    Column("decision", Line(16), nullable=False),  # allow, deny
    Column("enforced", Boolean, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("errors", JSON, nullable=False),
    Column("bundle", Line(64), nullable=False),
    Column("conversation_id", Line(40), nullable=False),
    Column("run_id", Line(40), nullable=False),
    Index("ix_decisions_tenant_at", "tenant", "at"),
)
