"""The index of scopes goes whose place the one of the migration before takes: each costs every change of a run.

The previous release works without it: it lists the runs of a scope by the new one's first columns, and sorts them.
"""

from alembic import op

from servicekit.postgres.indexes import remove_index

revision = "0009"
down_revision = "0008"
# The oldest revision whose code works with the schema from here on: docs/releasing.md.
compatible_from = "0005"


def upgrade() -> None:
    remove_index("runs_by_scope", schema="runs")


def downgrade() -> None:
    op.create_index("runs_by_scope", "runs", ["project_id", "scope_id", "created_at", "id"], schema="runs")
