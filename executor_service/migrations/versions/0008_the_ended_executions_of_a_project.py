"""An index by which all of a project's executions can be deleted. Those that have not ended have others.

Executors of the version before work with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
# The oldest revision whose code works with the schema from here on: docs/releasing.md.
compatible_from = "0007"


def upgrade() -> None:
    op.create_index(
        "executions_ended",
        "executions",
        ["project_id", "run_id"],
        schema="executor",
        postgresql_where=sa.text("status NOT IN ('QUEUED', 'RUNNING')"),
    )


def downgrade() -> None:
    op.drop_index("executions_ended", "executions", schema="executor")
