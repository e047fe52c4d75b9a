"""The tables, as SQLAlchemy Core knows them. Migrations in ``migrations/`` create them.

Times are seconds since the epoch; money is nano-dollars; JSON columns hold what clients see.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    Column("tenant", String(200), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(200), nullable=False),
    Column("user", String(200)),
    Column("fleet", String(48), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("turns", Integer, nullable=False, server_default="0"),
    Column("events", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_conversations_tenant_updated_at", "tenant", "updated_at"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("conversation_id", String(40), ForeignKey("conversations.id"), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("owner", String(80), nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("answer", Text),
    Column("error", JSON),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("ix_runs_conversation_id_turn", "conversation_id", "turn", unique=True),
    # The invariant "one live run per conversation", kept by the database itself.
    Index(
        "ix_runs_live",
        "conversation_id",
        unique=True,
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
)

events = Table(
    "events",
    metadata,
    Column("conversation_id", String(40), ForeignKey("conversations.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("run_id", String(40), nullable=False),
    Column("type", String(16), nullable=False),
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

model_calls = Table(
    "model_calls",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(200), nullable=False),
    Column("team", String(200)),
    Column("user", String(200)),
    Column("fleet", String(48), nullable=False),
    Column("agent", String(48), nullable=False),
    Column("agent_version", String(16), nullable=False),
    Column("conversation_id", String(40), nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("model", String(200), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", Text),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("cache_write_tokens", Integer, nullable=False, server_default="0"),
    Column("reasoning_tokens", Integer, nullable=False, server_default="0"),
    Column("cost_nanos", BigInteger),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    Index("ix_model_calls_conversation_id", "conversation_id"),
    Index("ix_model_calls_at", "at"),
)
