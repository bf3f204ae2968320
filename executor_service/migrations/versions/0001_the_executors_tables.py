"""The executor's tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

BLANKS = "' \t\n\r\x0c\x0b\xa0'"  # executor_service.playbooks.playbook.BLANKS as of this revision


def upgrade() -> None:
    op.create_table(
        "ai_usage",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("used >= 0", name="ai_usage_used"),
        sa.PrimaryKeyConstraint("project_id", "day"),
        schema="executor",
    )
    op.create_table(
        "draft_items",
        sa.Column("draft_id", sa.UUID(), nullable=False),
        sa.Column("product_id", sa.Text(collation="C"), nullable=False),
        sa.Column("raw_suggestion", sa.Text(), nullable=False),
        sa.Column("final_suggestion", sa.Text(), nullable=False),
        sa.Column("rule_warnings", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("draft_id", "product_id"),
        schema="executor",
    )
    op.create_table(
        "drafts",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("playbook_id", sa.Text(), nullable=False),
        sa.Column("scope_id", sa.Text(), nullable=False),
        sa.Column("rules_hash", sa.Text(), nullable=False),
        sa.Column("rules", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("affected_total", sa.BigInteger(), nullable=False),
        sa.Column("draft_generated", sa.BigInteger(), nullable=False),
        sa.Column("no_suggestion_count", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('PARTIAL', 'READY', 'FAILED')", name="drafts_status"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "playbook_id", "scope_id", "rules_hash", name="drafts_key"),
        schema="executor",
    )
    op.create_index(
        "drafts_latest", "drafts", ["project_id", "playbook_id", "updated_at"], unique=False, schema="executor"
    )
    op.create_table(
        "executions",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("run_type", sa.Text(), nullable=False),
        sa.Column("job", postgresql.BYTEA(), nullable=False),
        sa.Column("status", sa.Text(), server_default="QUEUED", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("published_number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("progress_completed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("progress_total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ai_used", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("draft_id", sa.UUID(), nullable=True),
        sa.Column("scope_id", sa.Text(), server_default="", nullable=False),
        sa.Column("rules_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error_code", sa.Text(), server_default="", nullable=False),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("ai_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ai_reserved_day", sa.Date(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("run_type IN ('PREVIEW_GENERATE', 'DRAFT_GENERATE', 'APPLY')", name="executions_run_type"),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'STALE', 'CANCELLED')", name="executions_status"
        ),
        sa.CheckConstraint("ai_reserved >= 0", name="executions_ai_reserved"),
        sa.PrimaryKeyConstraint("run_id"),
        schema="executor",
    )
    op.create_index(
        "executions_queued",
        "executions",
        ["project_id", "created_at", "run_id"],
        unique=False,
        schema="executor",
        postgresql_where=sa.text("status = 'QUEUED'"),
    )
    op.create_index(
        "executions_running",
        "executions",
        ["project_id", "lease_until"],
        unique=False,
        schema="executor",
        postgresql_where=sa.text("status = 'RUNNING'"),
    )
    op.create_index(
        "executions_unpublished",
        "executions",
        ["updated_at"],
        unique=False,
        schema="executor",
        postgresql_where=sa.text("published_number < event_number"),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("ai_daily_limit", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("plan IN ('FREE', 'PRO', 'BUSINESS')", name="projects_plan"),
        sa.PrimaryKeyConstraint("id"),
        schema="executor",
    )
    op.create_table(
        "run_items",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("product_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.CheckConstraint("status IN ('UPDATED', 'SKIPPED', 'FAILED')", name="run_items_status"),
        sa.PrimaryKeyConstraint("run_id", "product_id"),
        schema="executor",
    )
    op.create_table(
        "suggestions",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", postgresql.BYTEA(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "fingerprint"),
        schema="executor",
    )
    op.create_table(
        "products",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("seo_title", sa.Text(), nullable=False),
        sa.Column("seo_description", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["executor.projects.id"],
        ),
        sa.PrimaryKeyConstraint("project_id", "id"),
        schema="executor",
    )
    op.create_index(
        "products_without_seo_description",
        "products",
        ["project_id", "id"],
        unique=False,
        schema="executor",
        postgresql_where=sa.text(f"btrim(seo_description, {BLANKS}) = ''"),
    )
    op.create_index(
        "products_without_seo_title",
        "products",
        ["project_id", "id"],
        unique=False,
        schema="executor",
        postgresql_where=sa.text(f"btrim(seo_title, {BLANKS}) = ''"),
    )


def downgrade() -> None:
    for table in (
        "products",
        "suggestions",
        "run_items",
        "projects",
        "executions",
        "drafts",
        "draft_items",
        "ai_usage",
    ):
        op.drop_table(table, schema="executor")
