"""An index by which all of a project's executions can be deleted. Those that have not ended have others.

Executors of the version before work with it.
"""

from alembic import op

from servicekit.postgres.indexes import build_index

revision = "0008"
down_revision = "0007"
# The oldest revision whose code works with the schema from here on: docs/releasing.md.
compatible_from = "0007"


def upgrade() -> None:
    on = "executions (project_id, run_id) WHERE status NOT IN ('QUEUED', 'RUNNING')"
    build_index("executions_ended", on, schema="executor")


def downgrade() -> None:
    op.drop_index("executions_ended", "executions", schema="executor")
