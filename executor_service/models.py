"""The schema `executor`."""

import sqlalchemy as sa
from playbooks.runs.v1.run_pb2 import Run
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, UUID

from executor_service.predicates import BLANK, UNPUBLISHED

SCHEMA = "executor"
metadata = sa.MetaData(schema=SCHEMA)

PLANS = ("FREE", "PRO", "BUSINESS")
RUN_TYPES = tuple(Run.Type.keys()[1:])  # without TYPE_UNSPECIFIED
STATUSES = tuple(Run.Status.keys()[1:])
DRAFT_STATUSES = ("PARTIAL", "READY", "FAILED")  # EXPIRED is a matter of the clock
ITEM_STATUSES = ("UPDATED", "SKIPPED", "FAILED")


def _id() -> sa.Text:
    # Product ids sort by code point, like Python's sorted(): the scope's formula depends on it.
    return sa.Text(collation="C")


def _time() -> sa.DateTime:
    return sa.DateTime(timezone=True)


projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("ai_daily_limit", sa.BigInteger),  # suggestions a UTC day; NULL: the plan's
    sa.Column("created_at", _time(), nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", _time(), nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint(f"plan IN {PLANS}", name="projects_plan"),
)

products = sa.Table(
    "products",
    metadata,
    sa.Column("project_id", sa.Text, sa.ForeignKey("executor.projects.id"), primary_key=True),
    sa.Column("id", _id(), primary_key=True),
    sa.Column("external_id", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("seo_title", sa.Text, nullable=False),
    sa.Column("seo_description", sa.Text, nullable=False),
    sa.Column("updated_at", _time(), nullable=False, server_default=sa.func.now()),
    sa.Index("products_without_seo_title", "project_id", "id", postgresql_where=sa.text(BLANK["seo_title"])),
    sa.Index(
        "products_without_seo_description", "project_id", "id", postgresql_where=sa.text(BLANK["seo_description"])
    ),
)

# One row a run: inbox (the job), lease, state, and outbox (events up to event_number, published up to
# published_number).
executions = sa.Table(
    "executions",
    metadata,
    sa.Column("run_id", UUID, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("run_type", sa.Text, nullable=False),
    sa.Column("job", BYTEA, nullable=False),  # playbooks.executor.v1.RunJob
    sa.Column("status", sa.Text, nullable=False, server_default="QUEUED"),
    # The lease: (attempt, lease_owner) is the fencing token of every write.
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),  # leases that ran out
    sa.Column("lease_owner", sa.Text),  # NULL while RUNNING: handed back
    sa.Column("lease_until", _time()),
    # Published to runs_service
    sa.Column("event_number", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("published_number", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("progress_completed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("progress_total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("ai_used", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("ai_usage", JSONB),  # counts of all attempts by their names in AiUsage; NULL: nothing to count yet
    sa.Column("draft_id", UUID),
    sa.Column("scope_id", sa.Text, nullable=False, server_default=""),
    sa.Column("rules_hash", sa.Text, nullable=False, server_default=""),
    sa.Column("result", JSONB),  # counts by their names in RunResult
    sa.Column("error_code", sa.Text, nullable=False, server_default=""),
    sa.Column("error_message", sa.Text, nullable=False, server_default=""),
    # Reserved of the project's AI allowance of that day, and not used yet
    sa.Column("ai_reserved", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("ai_reserved_day", sa.Date),
    sa.Column("created_at", _time(), nullable=False, server_default=sa.func.now()),  # of the run
    sa.Column("deadline_at", _time()),  # of the run
    sa.Column("started_at", _time()),  # of this attempt
    sa.Column("finished_at", _time()),
    sa.Column("updated_at", _time(), nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint(f"status IN {STATUSES}", name="executions_status"),
    sa.CheckConstraint(f"run_type IN {RUN_TYPES}", name="executions_run_type"),
    sa.CheckConstraint("ai_reserved >= 0", name="executions_ai_reserved"),
    sa.Index("executions_queued", "project_id", "created_at", "run_id", postgresql_where=sa.text("status = 'QUEUED'")),
    sa.Index("executions_running", "project_id", "lease_until", postgresql_where=sa.text("status = 'RUNNING'")),
    sa.Index(
        "executions_ended", "project_id", "run_id", postgresql_where=sa.text("status NOT IN ('QUEUED', 'RUNNING')")
    ),
    sa.Index("executions_overdue", "deadline_at", postgresql_where=sa.text("status = 'QUEUED'")),
    sa.Index("executions_unpublished", "updated_at", postgresql_where=sa.text(UNPUBLISHED)),
)

drafts = sa.Table(
    "drafts",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("playbook_id", sa.Text, nullable=False),
    sa.Column("scope_id", sa.Text, nullable=False),
    sa.Column("rules_hash", sa.Text, nullable=False),
    sa.Column("rules", JSONB, nullable=False),  # normalized
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("affected_total", sa.BigInteger, nullable=False),
    sa.Column("draft_generated", sa.BigInteger, nullable=False),
    sa.Column("no_suggestion_count", sa.BigInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("run_id", UUID, nullable=False),  # the run that wrote it last
    sa.Column("created_at", _time(), nullable=False),
    sa.Column("updated_at", _time(), nullable=False),
    sa.Column("expires_at", _time(), nullable=False),
    sa.CheckConstraint(f"status IN {DRAFT_STATUSES}", name="drafts_status"),
    sa.UniqueConstraint("project_id", "playbook_id", "scope_id", "rules_hash", name="drafts_key"),
    sa.Index("drafts_latest", "project_id", "playbook_id", "updated_at"),
    sa.Index("drafts_by_expiry", "expires_at"),
)

# Items are written in the transaction that writes their draft or execution; a foreign key would only cost a look-up
# for each of thousands of rows.
draft_items = sa.Table(
    "draft_items",
    metadata,
    sa.Column("draft_id", UUID, primary_key=True),
    sa.Column("product_id", _id(), primary_key=True),
    sa.Column("raw_suggestion", sa.Text, nullable=False),
    sa.Column("final_suggestion", sa.Text, nullable=False),
    sa.Column("rule_warnings", ARRAY(sa.Text), nullable=False),
    sa.Column("no_suggestion_reason", sa.Text, nullable=False, server_default=""),
)

# What an APPLY did, a row for up to BLOCK products that follow each other; a row each took a third of its time. The
# view `run_items` has a row a product.
run_item_blocks = sa.Table(
    "run_item_blocks",
    metadata,
    sa.Column("run_id", UUID, primary_key=True),
    sa.Column("last_product_id", _id(), primary_key=True),
    sa.Column("product_ids", ARRAY(_id()), nullable=False),  # sorted
    sa.Column("statuses", ARRAY(sa.Text), nullable=False),
    sa.Column("messages", ARRAY(sa.Text), nullable=False),
    sa.CheckConstraint(f"statuses <@ CAST(ARRAY{list(ITEM_STATUSES)} AS text[])", name="run_item_blocks_statuses"),
)

ai_usage = sa.Table(
    "ai_usage",
    metadata,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),  # UTC
    sa.Column("used", sa.BigInteger, nullable=False),  # suggestions, those reserved by running runs included
    sa.CheckConstraint("used >= 0", name="ai_usage_used"),
)

suggestions = sa.Table(
    "suggestions",
    metadata,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("fingerprint", BYTEA, primary_key=True),  # of everything the text depends on
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("created_at", _time(), nullable=False, server_default=sa.func.now()),
    sa.Column("used_at", _time(), nullable=False, server_default=sa.func.now()),  # by a run, to within a day
    sa.Index("suggestions_by_use", "used_at"),
)
