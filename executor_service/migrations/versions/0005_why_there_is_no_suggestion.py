"""A draft's item says why it has no suggestion. Executors of the version before leave it empty."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column(
        "draft_items",
        sa.Column("no_suggestion_reason", sa.Text(), nullable=False, server_default=""),
        schema="executor",
    )


def downgrade() -> None:
    op.drop_column("draft_items", "no_suggestion_reason", schema="executor")
