"""What an APPLY did: a row for a thousand products instead of one each. The view shows them as before."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "run_item_blocks",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("last_product_id", sa.Text(collation="C"), nullable=False),
        sa.Column("product_ids", postgresql.ARRAY(sa.Text(collation="C")), nullable=False),
        sa.Column("statuses", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("messages", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.CheckConstraint(
            "statuses <@ CAST(ARRAY['UPDATED', 'SKIPPED', 'FAILED'] AS text[])", name="run_item_blocks_statuses"
        ),
        sa.PrimaryKeyConstraint("run_id", "last_product_id"),
        schema="executor",
    )
    op.execute("""
        INSERT INTO executor.run_item_blocks (run_id, last_product_id, product_ids, statuses, messages)
        SELECT run_id, max(product_id), array_agg(product_id ORDER BY product_id),
               array_agg(status ORDER BY product_id), array_agg(message ORDER BY product_id)
        FROM (SELECT *, (row_number() OVER (PARTITION BY run_id ORDER BY product_id) - 1) / 1000 AS block
              FROM executor.run_items) AS items
        GROUP BY run_id, block""")
    op.drop_table("run_items", schema="executor")
    op.execute("""
        CREATE VIEW executor.run_items AS
        SELECT block.run_id, item.product_id, item.status, item.message
        FROM executor.run_item_blocks AS block,
             unnest(block.product_ids, block.statuses, block.messages) AS item (product_id, status, message)""")
    # Executors of the version before, which are still at work while this is rolled out, insert rows.
    op.execute("""
        CREATE FUNCTION executor.run_item_in_block() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO executor.run_item_blocks VALUES
                (NEW.run_id, NEW.product_id, ARRAY[NEW.product_id], ARRAY[NEW.status], ARRAY[NEW.message]);
            RETURN NEW;
        END $$""")
    op.execute("""
        CREATE TRIGGER run_item_in_block INSTEAD OF INSERT ON executor.run_items
        FOR EACH ROW EXECUTE FUNCTION executor.run_item_in_block()""")


def downgrade() -> None:
    op.execute("ALTER VIEW executor.run_items RENAME TO run_items_in_blocks")
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
    op.execute("INSERT INTO executor.run_items SELECT * FROM executor.run_items_in_blocks")
    op.execute("DROP VIEW executor.run_items_in_blocks")
    op.execute("DROP FUNCTION executor.run_item_in_block()")
    op.drop_table("run_item_blocks", schema="executor")
