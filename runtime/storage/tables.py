"""The tables, as SQLAlchemy Core knows them. Migrations in ``migrations/`` create them.

Times are seconds since the epoch; money is nano-dollars; JSON columns hold what clients see.
"""

from __future__ import annotations

from typing import Any

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

runs = Table(
    "runs",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("conversation_id", Line(40), ForeignKey("conversations.id"), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("status", Line(16), nullable=False),
    Column("owner", Line(80), nullable=False),
    Column("lease_until", Float, nullable=False),
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
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
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

model_calls = Table(
    "model_calls",
    metadata,
    Column("id", Line(40), primary_key=True),
    Column("tenant", Line(200), nullable=False),
    Column("team", Line(200)),
    Column("user", Line(200)),
    Column("fleet", Line(48), nullable=False),
    Column("agent", Line(48), nullable=False),
    Column("agent_version", Line(16), nullable=False),
    Column("conversation_id", Line(40), nullable=False),
    Column("run_id", Line(40), nullable=False),
    Column("model", Line(200), nullable=False),
    Column("tier", Line(16), nullable=False),
    Column("status", Line(16), nullable=False),
    Column("error", Prose),
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
