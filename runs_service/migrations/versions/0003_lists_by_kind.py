"""One index for every combination of filters but the scope."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index(
        "runs_by_kind",
        "runs",
        ["project_id", "playbook_id", "run_type", "status", "created_at", "id"],
        schema="runs",
    )
    op.drop_index("runs_by_status", "runs", schema="runs")


def downgrade() -> None:
    op.create_index("runs_by_status", "runs", ["project_id", "status", "created_at", "id"], schema="runs")
    op.drop_index("runs_by_kind", "runs", schema="runs")
