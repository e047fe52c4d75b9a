"""Durable runs, steps, effects, approvals, checkpoints of our own, and shared state."""

import sqlalchemy as sa
from alembic import op

from admiralty.runtime.storage.migrations.adopt import adopt_checkpoints

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_LIVE = "status IN ('running', 'waiting')"


def upgrade() -> None:
    """Create the tables of durable conversations and of shared state."""
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("fleet", sa.String(length=48), nullable=False),
        sa.Column("conversation_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("call_id", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("agent", sa.String(length=48), nullable=False),
        sa.Column("agent_version", sa.String(length=16), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=True),
        sa.Column("tool", sa.String(length=200), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("default", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("decided_by", sa.String(length=200), nullable=True),
        sa.Column("decision_reason", sa.Text(), nullable=True),
        sa.Column("edited", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
    )
    op.create_index("ix_approvals_once", "approvals", ["run_id", "call_id", "digest"], unique=True)
    op.create_index("ix_approvals_status_expires_at", "approvals", ["status", "expires_at"], unique=False)
    op.create_index("ix_approvals_tenant_created_at", "approvals", ["tenant", "created_at"], unique=False)
    op.create_table(
        "effects",
        sa.Column("conversation_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("call_id", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("agent", sa.String(length=48), nullable=False),
        sa.Column("agent_version", sa.String(length=16), nullable=False),
        sa.Column("tool", sa.String(length=200), nullable=False),
        sa.Column("effect", sa.String(length=16), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("resolved_by", sa.String(length=200), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("begun_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("conversation_id", "run_id", "call_id", "digest", name=op.f("pk_effects")),
    )
    op.create_index("ix_effects_run_id", "effects", ["run_id"], unique=False)
    op.create_index(
        "ix_effects_open",
        "effects",
        ["begun_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('begun', 'unknown')"),
        postgresql_where=sa.text("status IN ('begun', 'unknown')"),
    )
    op.create_table(
        "state_history",
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("namespace", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("fleet", sa.String(length=48), nullable=False),
        sa.Column("agent", sa.String(length=48), nullable=False),
        sa.Column("agent_version", sa.String(length=16), nullable=False),
        sa.Column("conversation_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=True),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "namespace", "key", "version", name=op.f("pk_state_history")),
    )
    op.create_table(
        "state_locks",
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("namespace", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("holder", sa.String(length=80), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "namespace", "key", name=op.f("pk_state_locks")),
    )
    op.create_table(
        "state_values",
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("namespace", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "namespace", "key", name=op.f("pk_state_values")),
    )
    op.create_table(
        "steps",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=80), nullable=False),
        sa.Column("reply", sa.JSON(), nullable=False),
        sa.Column("session", sa.JSON(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_steps")),
    )
    op.create_table(
        "thread_checkpoints",
        sa.Column("thread_id", sa.String(length=200), nullable=False),
        sa.Column("checkpoint_ns", sa.Text(), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=80), nullable=False),
        sa.Column("parent_id", sa.String(length=80), nullable=True),
        sa.Column("run_id", sa.String(length=40), nullable=True),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("checkpoint", sa.LargeBinary(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "thread_id", "checkpoint_ns", "checkpoint_id", name=op.f("pk_thread_checkpoints")
        ),
    )
    op.create_table(
        "thread_writes",
        sa.Column("thread_id", sa.String(length=200), nullable=False),
        sa.Column("checkpoint_ns", sa.Text(), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=80), nullable=False),
        sa.Column("task_id", sa.String(length=80), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("task_path", sa.Text(), server_default="", nullable=False),
        sa.Column("channel", sa.String(length=200), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", name=op.f("pk_thread_writes")
        ),
    )
    op.add_column("runs", sa.Column("fleet", sa.String(length=48), server_default="", nullable=False))
    op.add_column("runs", sa.Column("tenant", sa.String(length=200), server_default="", nullable=False))
    op.add_column("runs", sa.Column("fence", sa.Integer(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("attempt", sa.Integer(), server_default="1", nullable=False))
    op.add_column("runs", sa.Column("attempts", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("runs", sa.Column("request", sa.JSON(), server_default="{}", nullable=False))
    op.add_column("runs", sa.Column("cancel", sa.String(length=16), nullable=True))
    op.add_column("runs", sa.Column("available_at", sa.Float(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("deadline", sa.Float(), nullable=True))
    op.create_index("ix_runs_finished_at", "runs", ["finished_at"], unique=False)
    op.create_index(
        "ix_runs_open",
        "runs",
        ["available_at"],
        unique=False,
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "ix_runs_running",
        "runs",
        ["owner"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "ix_runs_queued",
        "runs",
        ["conversation_id", "status", "turn"],
        unique=False,
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.drop_index("ix_runs_live", table_name="runs")
    op.create_index(
        "ix_runs_live",
        "runs",
        ["conversation_id"],
        unique=True,
        sqlite_where=sa.text(_LIVE),
        postgresql_where=sa.text(_LIVE),
    )
    runs = sa.table(
        "runs",
        *map(
            sa.column, ("conversation_id", "fleet", "tenant", "status", "error", "finished_at", "started_at")
        ),
    )
    talks = sa.table("conversations", sa.column("id"), sa.column("fleet"), sa.column("tenant"))
    for name in ("fleet", "tenant"):
        of = sa.select(talks.c[name]).where(talks.c.id == runs.c.conversation_id).scalar_subquery()
        op.execute(runs.update().values({name: of}))
    # What an older Admiralty was executing cannot be gone on with: it did not keep on whose behalf.
    op.execute("UPDATE runs SET status = 'failed', finished_at = started_at WHERE status = 'running'")
    adopt_checkpoints(op.get_bind())
