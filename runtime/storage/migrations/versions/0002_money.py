"""Budgets, holds, the ledger (which takes the place of model_calls), alerts and decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of money and policy."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("budget_id", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=500), nullable=False),
        sa.Column("window", sa.String(length=40), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("spent_nanos", sa.BigInteger(), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float(), nullable=True),
        sa.Column("delivered_at", sa.Float(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index("ix_alerts_next_attempt_at", "alerts", ["next_attempt_at"], unique=False)
    op.create_index(
        "ix_alerts_once",
        "alerts",
        ["budget_id", "subject", "window", "threshold", "limit_nanos"],
        unique=True,
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=500), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=False),
        sa.Column("window", sa.String(length=16), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("hard", sa.Boolean(), nullable=False),
        sa.Column("thresholds", sa.JSON(), nullable=False),
        sa.Column("webhook", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("archived_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
    )
    op.create_index("ix_budgets_scope", "budgets", ["scope"], unique=False)
    op.create_index("ix_budgets_tenant", "budgets", ["tenant"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("resource", sa.String(length=300), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("enforced", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("conversation_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_tenant_at", "decisions", ["tenant", "at"], unique=False)
    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("owner", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("unproven", sa.Boolean(), nullable=False),
        sa.Column("charges", sa.JSON(), nullable=False),
        sa.Column("entry", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index("ix_holds_expires_at", "holds", ["expires_at"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("corrects", sa.String(length=48), nullable=True),
        sa.Column("call_id", sa.String(length=48), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("team", sa.String(length=200), nullable=True),
        sa.Column("user", sa.String(length=200), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("fleet", sa.String(length=48), nullable=False),
        sa.Column("agent", sa.String(length=48), nullable=False),
        sa.Column("agent_version", sa.String(length=16), nullable=False),
        sa.Column("conversation_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=False),
        sa.Column("tool", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_write_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("audio_input_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("audio_output_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_write_1h_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("held_nanos", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("debt_nanos", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("measure", sa.Integer(), server_default="0", nullable=False),
        sa.Column("expected_input", sa.Integer(), server_default="0", nullable=False),
        sa.Column("output_limit", sa.Integer(), server_default="0", nullable=False),
        sa.Column("factor", sa.Float(), server_default="1", nullable=False),
        sa.Column("price_book", sa.String(length=64), nullable=False),
        sa.Column("policy", sa.String(length=64), nullable=False),
        sa.Column("charges", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.create_index("ix_ledger_agent_model_at", "ledger", ["fleet", "agent", "model", "at"], unique=False)
    op.create_index("ix_ledger_at", "ledger", ["at"], unique=False)
    op.create_index("ix_ledger_conversation_id", "ledger", ["conversation_id"], unique=False)
    op.create_index("ix_ledger_tenant_at", "ledger", ["tenant", "at"], unique=False)
    op.create_table(
        "waiters",
        sa.Column("budget_id", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=500), nullable=False),
        sa.Column("hold_id", sa.String(length=48), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("budget_id", "subject", "hold_id", name=op.f("pk_waiters")),
    )
    op.create_table(
        "counters",
        sa.Column("budget_id", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=500), nullable=False),
        sa.Column("window", sa.String(length=40), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("unproven", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["budget_id"], ["budgets.id"], name=op.f("fk_counters_budget_id")),
        sa.PrimaryKeyConstraint("budget_id", "subject", "window", name=op.f("pk_counters")),
    )
    op.add_column("api_keys", sa.Column("team", sa.String(length=200), nullable=True))
    op.add_column("api_keys", sa.Column("tags", sa.JSON(), server_default="{}", nullable=False))
    op.add_column(
        "api_keys", sa.Column("admin", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    shared = (
        'id, tenant, team, "user", fleet, agent, agent_version, conversation_id, run_id, model, tier, '
        "status, error, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, "
        "cost_nanos, seconds, at"
    )
    # The calls of before become entries that no budget was charged for.
    new = "kind, call_id, tags, tool, estimated, price_book, policy, charges"
    values = "'model', id, '{}', '', false, '', '', '[]'"
    op.execute(f"INSERT INTO ledger ({shared}, {new}) SELECT {shared}, {values} FROM model_calls")  # noqa: S608
    op.drop_index("ix_model_calls_at", table_name="model_calls")
    op.drop_index("ix_model_calls_conversation_id", table_name="model_calls")
    op.drop_table("model_calls")
