# ruff: noqa: S608 - statements are put together from constants only
"""Run items: what an APPLY did with each product."""

from typing import ClassVar
from uuid import UUID

from executor_service.domain.draft import ItemStatus, RunItem
from executor_service.domain.paging import Slice
from executor_service.playbooks.playbook import Playbook
from executor_service.predicates import BLANK, shows_nothing
from servicekit.postgres.database import Querier

BLOCK = 1_000  # products in a row of run_item_blocks: as many as a page may have


class RunItems:
    """Applies drafts and reads what that did.

    Takes where statements run: the database, or a connection in a transaction.
    """

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # A draft that was just written is unknown to the planner, which then looks thousands of products up one by one.
    _IN_BULK = "SELECT set_config('enable_nestloop', 'off', true)"

    # One statement, so `affected` and `usable` are as they were before the update.
    _APPLY: ClassVar = {
        field: f"""
    WITH affected AS (
      SELECT id FROM executor.products WHERE project_id = %(project_id)s AND {blank}
    ), usable AS (
      SELECT product_id, final_suggestion FROM executor.draft_items
      WHERE draft_id = %(draft_id)s AND NOT ({shows_nothing("final_suggestion")})
    ), updated AS (
      UPDATE executor.products p SET {field} = usable.final_suggestion, updated_at = now()
      FROM usable WHERE p.project_id = %(project_id)s AND p.id = usable.product_id AND {blank}
      RETURNING p.id
    ), items AS (
      INSERT INTO executor.run_item_blocks (run_id, last_product_id, product_ids, statuses, messages)
      SELECT %(run_id)s, max(id), array_agg(id ORDER BY id),
             array_agg(CASE WHEN is_updated THEN 'UPDATED' ELSE 'SKIPPED' END ORDER BY id),
             array_agg(CASE WHEN is_updated THEN ''
                            ELSE rtrim(%(skipped)s || ' ' || coalesce(reason, '')) END ORDER BY id)
      FROM (
        -- IN, not a join: it is always hashed, even when the planner misjudges the number of rows
        SELECT id, id IN (SELECT id FROM updated) AS is_updated,
               (row_number() OVER (ORDER BY id) - 1) / {BLOCK} AS block, reason
        FROM affected LEFT JOIN (
          SELECT product_id, no_suggestion_reason AS reason FROM executor.draft_items
          WHERE draft_id = %(draft_id)s AND no_suggestion_reason <> ''
        ) AS without ON without.product_id = id
      ) GROUP BY block
    )
    SELECT count(*) AS updated, set_config('enable_nestloop', 'on', true) FROM updated"""
        for field, blank in BLANK.items()
    }

    async def apply(self, project_id: str, playbook: Playbook, draft_id: UUID, *, run_id: UUID, skipped: str) -> int:
        """Write the draft's usable suggestions into the affected products, and an item for each of these.

        `skipped` is the message of those without a suggestion. Returns how many products were updated. Needs a
        transaction.
        """
        parameters = {"project_id": project_id, "draft_id": draft_id, "run_id": run_id, "skipped": skipped}
        await self._querier.execute(self._IN_BULK)
        updated: int = (await self._querier.fetch_one(self._APPLY[playbook.field], parameters)).updated
        return updated

    # The blocks' order, which the index has, before the products': a page reads no more blocks than it shows. A
    # thousand of the longest ids and messages are no more than PAGE_BYTES.
    _PAGE = """
    SELECT item.product_id, item.status, item.message
    FROM executor.run_item_blocks AS block,
         unnest(block.product_ids, block.statuses, block.messages) AS item (product_id, status, message)
    WHERE block.run_id = %(run_id)s AND block.last_product_id > %(after)s AND item.product_id > %(after)s
    ORDER BY block.last_product_id, item.product_id LIMIT %(limit)s"""

    async def page(self, run_id: UUID, *, after: str, limit: int) -> Slice[RunItem]:
        """Return what an APPLY did with up to `limit` products by id, from the one after `after`."""
        parameters = {"run_id": run_id, "after": after, "limit": limit + 1}
        rows = await self._querier.fetch_all(self._PAGE, parameters)
        items = [RunItem(row.product_id, ItemStatus(row.status), row.message) for row in rows[:limit]]
        return Slice(items, more=len(rows) > limit)
