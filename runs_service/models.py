"""The schema `runs`.

A run is stored as the message that clients get (`run`); the columns beside it are what is searched by and
what drives it. So there is one description of a run, the proto, and history rows are what watchers receive.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, UUID

from runs_service.predicates import ACTIVE, HOLDS_KEY, STATUSES, STOP_PENDING, UNDISPATCHED, USAGE_COUNTS
from servicekit.postgres.xid8 import Xid8

SCHEMA = "runs"
metadata = sa.MetaData(schema=SCHEMA)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("playbook_id", sa.Text, nullable=False),
    sa.Column("run_type", sa.Text, nullable=False),
    sa.Column("scope_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("run", BYTEA, nullable=False),  # playbooks.runs.v1.Run as it is now
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("traceparent", sa.Text),  # of the call that created it; NULL: it is in no trace
    # Idempotency
    sa.Column("dedup_key", sa.Text, nullable=False),
    sa.Column("frees_on_success", sa.Boolean, nullable=False),
    sa.Column("fingerprint", BYTEA, nullable=False),
    # Delivery
    sa.Column("dispatched_at", sa.DateTime(timezone=True)),  # NULL: not published yet
    sa.Column("event_number", sa.BigInteger, nullable=False, server_default="0"),  # the newest event applied
    sa.Column("reconcile_at", sa.DateTime(timezone=True), nullable=False),  # when the executor is asked about the run
    # Ending
    sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
    # The executor has not answered the cancel of this run yet.
    sa.Column("stop_pending", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.CheckConstraint(f"status IN {STATUSES}", name="runs_status"),
    sa.Index("runs_idempotency", "project_id", "dedup_key", unique=True, postgresql_where=sa.text(HOLDS_KEY)),
    sa.Index("runs_by_project", "project_id", "created_at", "id"),
    sa.Index("runs_by_kind", "project_id", "playbook_id", "run_type", "status", "created_at", "id"),
    sa.Index(
        *("runs_by_scope_and_kind", "project_id", "scope_id", "playbook_id", "run_type", "status", "created_at", "id")
    ),
    sa.Index("runs_undispatched", "created_at", postgresql_where=sa.text(UNDISPATCHED)),
    sa.Index("runs_overdue", "deadline_at", postgresql_where=sa.text(ACTIVE)),
    sa.Index("runs_to_stop", "id", postgresql_where=sa.text(STOP_PENDING)),
    sa.Index("runs_silent", "reconcile_at", postgresql_where=sa.text(ACTIVE)),
)

# Calls that may be repeated, and the run that each led to. A call is forgotten with its run.
calls = sa.Table(
    "calls",
    metadata,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),  # messages.Call.name
    # Deferred: a call is claimed before its run is inserted, in the same transaction.
    sa.Column(
        "run_id",
        UUID,
        sa.ForeignKey("runs.runs.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
        nullable=False,
    ),
    sa.Column("meaning", BYTEA, nullable=False),
    sa.Column("created", sa.Boolean, nullable=False),  # `created` in the answer to a repeat
    sa.Index("calls_by_run", "run_id"),  # for deleting runs
)

run_events = sa.Table(
    "run_events",
    metadata,
    sa.Column("run_id", UUID, sa.ForeignKey("runs.runs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("run", BYTEA, nullable=False),  # playbooks.runs.v1.Run as it was at this sequence
    # For watchers of a project: the project of the change, and the transaction that made it.
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("xid", Xid8, nullable=False, server_default=sa.text("pg_current_xact_id()")),
    sa.Index("run_events_by_transaction", "project_id", "xid"),
)

# What the runs of a project were that ended on a day (store/usage.py). It stays when they are deleted.
usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),  # UTC
    sa.Column("run_type", sa.Text, primary_key=True),
    *(sa.Column(count, sa.BigInteger, nullable=False) for count in USAGE_COUNTS),
)

# The same of runs that ended just now, until it is folded into `usage_daily`. Without an index: rows are only appended,
# and taken from wherever they are.
usage_increments = sa.Table(
    "usage_increments",
    metadata,
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("run_type", sa.Text, nullable=False),
    *(sa.Column(count, sa.BigInteger, nullable=False) for count in USAGE_COUNTS),
)

# The newest change of a project that was deleted; a trigger keeps it up to date.
expired_changes = sa.Table(
    "expired_changes",
    metadata,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("xid", Xid8, nullable=False),
)
