"""What a project's runs were and cost, by day. Runs that ended before are not counted."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
compatible_from = "0005"

COUNTS = (
    *("runs", "ai_runs", "requests", "suggestions", "reused"),
    *("input_tokens", "cached_input_tokens", "output_tokens"),
)


def upgrade() -> None:
    for table, is_key in (("usage_daily", True), ("usage_increments", False)):
        op.create_table(
            table,
            sa.Column("project_id", sa.Text, primary_key=is_key, nullable=False),
            sa.Column("day", sa.Date, primary_key=is_key, nullable=False),
            sa.Column("run_type", sa.Text, primary_key=is_key, nullable=False),
            *(sa.Column(count, sa.BigInteger, nullable=False) for count in COUNTS),
            schema="runs",
        )


def downgrade() -> None:
    op.drop_table("usage_increments", schema="runs")
    op.drop_table("usage_daily", schema="runs")
