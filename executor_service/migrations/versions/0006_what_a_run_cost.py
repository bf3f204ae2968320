"""What a run has asked of the AI provider. Runs of executors of the version before have no counts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("executions", sa.Column("ai_usage", JSONB), schema="executor")


def downgrade() -> None:
    op.drop_column("executions", "ai_usage", schema="executor")
