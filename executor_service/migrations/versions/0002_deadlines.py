"""Deadlines of executions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("executions", sa.Column("deadline_at", sa.DateTime(timezone=True)), schema="executor")
    op.create_index(
        "executions_overdue",
        "executions",
        ["deadline_at"],
        schema="executor",
        postgresql_where=sa.text("status = 'QUEUED'"),
    )


def downgrade() -> None:
    op.drop_column("executions", "deadline_at", schema="executor")
