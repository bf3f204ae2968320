"""One index for a scope with every combination of the other filters. The previous release works with it."""

from alembic import op

from servicekit.postgres.indexes import build_index

revision = "0008"
down_revision = "0007"
# The oldest revision whose code works with the schema from here on: docs/releasing.md.
compatible_from = "0005"


def upgrade() -> None:
    on = "runs (project_id, scope_id, playbook_id, run_type, status, created_at, id)"
    build_index("runs_by_scope_and_kind", on, schema="runs")


def downgrade() -> None:
    op.drop_index("runs_by_scope_and_kind", "runs", schema="runs")
