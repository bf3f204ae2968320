"""The trace that a run belongs to, for the sweeper that dispatches it again. The previous release works without it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
# The oldest revision whose code works with the schema from here on: docs/releasing.md.
compatible_from = "0005"


def upgrade() -> None:
    op.add_column("runs", sa.Column("traceparent", sa.Text), schema="runs")


def downgrade() -> None:
    op.drop_column("runs", "traceparent", schema="runs")
