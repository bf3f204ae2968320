"""What changed in a project, by transaction, and what of it was deleted.

Changes from before belong to this migration's transaction and to no project: no position is older than they are. The
column keeps no default: a process of the release before, which does not know it, fails instead of hiding a change.
"""

import sqlalchemy as sa
from alembic import op

from servicekit.postgres.xid8 import Xid8

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("run_events", sa.Column("project_id", sa.Text, nullable=False, server_default=""), schema="runs")
    op.alter_column("run_events", "project_id", server_default=None, schema="runs")
    op.add_column(
        "run_events",
        sa.Column("xid", Xid8, nullable=False, server_default=sa.text("pg_current_xact_id()")),
        schema="runs",
    )
    op.create_index("run_events_by_transaction", "run_events", ["project_id", "xid"], schema="runs")
    op.create_table(
        "expired_changes",
        sa.Column("project_id", sa.Text, primary_key=True),
        sa.Column("xid", Xid8, nullable=False),
        schema="runs",
    )
    op.execute(
        """
        CREATE FUNCTION runs.note_expired_changes() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO runs.expired_changes AS noted (project_id, xid)
            SELECT DISTINCT ON (project_id) project_id, xid FROM deleted ORDER BY project_id, xid DESC
            ON CONFLICT (project_id) DO UPDATE SET xid = excluded.xid WHERE noted.xid < excluded.xid;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER run_events_expired AFTER DELETE ON runs.run_events REFERENCING OLD TABLE AS deleted
        FOR EACH STATEMENT EXECUTE FUNCTION runs.note_expired_changes()
        """
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER run_events_expired ON runs.run_events")
    op.execute("DROP FUNCTION runs.note_expired_changes()")
    op.drop_table("expired_changes", schema="runs")
    op.drop_column("run_events", "xid", schema="runs")
    op.drop_column("run_events", "project_id", schema="runs")
