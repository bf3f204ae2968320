"""When a suggestion was used last, so that those that nobody needs any more can be deleted.

Those that are here count as used now. Executors of the version before note no use but that of a new suggestion.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "suggestions",
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema="executor",
    )
    op.create_index("suggestions_by_use", "suggestions", ["used_at"], schema="executor")
    op.create_index("drafts_by_expiry", "drafts", ["expires_at"], schema="executor")


def downgrade() -> None:
    op.drop_index("drafts_by_expiry", "drafts", schema="executor")
    op.drop_column("suggestions", "used_at", schema="executor")
