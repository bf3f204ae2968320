"""Runs and their history."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, UUID

revision = "0001"
down_revision = None

ACTIVE = "status IN ('QUEUED', 'RUNNING')"


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("playbook_id", sa.Text, nullable=False),
        sa.Column("run_type", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run", BYTEA, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("dedup_key", sa.Text, nullable=False),
        sa.Column("frees_on_success", sa.Boolean, nullable=False),
        sa.Column("fingerprint", BYTEA, nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True)),
        sa.Column("event_number", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reconcile_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'STALE', 'CANCELLED')", name="runs_status"
        ),
        schema="runs",
    )
    op.create_index(
        "runs_idempotency",
        "runs",
        ["project_id", "dedup_key"],
        unique=True,
        schema="runs",
        postgresql_where=sa.text(f"{ACTIVE} OR (status = 'SUCCEEDED' AND NOT frees_on_success)"),
    )
    op.create_index("runs_by_project", "runs", ["project_id", "created_at", "id"], schema="runs")
    op.create_index("runs_by_status", "runs", ["project_id", "status", "created_at", "id"], schema="runs")
    op.create_index("runs_by_scope", "runs", ["project_id", "scope_id", "created_at", "id"], schema="runs")
    op.create_index(
        "runs_undispatched",
        "runs",
        ["created_at"],
        schema="runs",
        postgresql_where=sa.text("status = 'QUEUED' AND dispatched_at IS NULL"),
    )
    op.create_index("runs_silent", "runs", ["reconcile_at"], schema="runs", postgresql_where=sa.text(ACTIVE))
    op.create_table(
        "run_events",
        sa.Column("run_id", UUID, sa.ForeignKey("runs.runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("run", BYTEA, nullable=False),
        schema="runs",
    )


def downgrade() -> None:
    op.drop_table("run_events", schema="runs")
    op.drop_table("runs", schema="runs")
