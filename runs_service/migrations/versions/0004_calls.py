"""Calls that may be repeated, and the run that each led to.

Calls from before have none: the first retry of a run that was retried before may be a second one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, UUID

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("project_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column(
            "run_id",
            UUID,
            sa.ForeignKey("runs.runs.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
            nullable=False,
        ),
        sa.Column("meaning", BYTEA, nullable=False),
        sa.Column("created", sa.Boolean, nullable=False),
        schema="runs",
    )
    op.create_index("calls_by_run", "calls", ["run_id"], schema="runs")


def downgrade() -> None:
    op.drop_table("calls", schema="runs")
