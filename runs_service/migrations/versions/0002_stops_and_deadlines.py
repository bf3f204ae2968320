"""Cancels that the executor has not answered yet, and deadlines."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ACTIVE = "status IN ('QUEUED', 'RUNNING')"


def upgrade() -> None:
    op.add_column(
        "runs", sa.Column("stop_pending", sa.Boolean, nullable=False, server_default=sa.false()), schema="runs"
    )
    op.add_column("runs", sa.Column("deadline_at", sa.DateTime(timezone=True)), schema="runs")
    op.execute("UPDATE runs.runs SET deadline_at = created_at + interval '600 seconds'")
    op.alter_column("runs", "deadline_at", nullable=False, schema="runs")
    op.create_index("runs_overdue", "runs", ["deadline_at"], schema="runs", postgresql_where=sa.text(ACTIVE))
    op.create_index("runs_to_stop", "runs", ["id"], schema="runs", postgresql_where=sa.text("stop_pending"))


def downgrade() -> None:
    op.drop_column("runs", "deadline_at", schema="runs")
    op.drop_column("runs", "stop_pending", schema="runs")
