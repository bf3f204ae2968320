# ruff: noqa: S608 - statements are put together from constants only
"""Drafts, and what applying them did."""

from collections.abc import Sequence
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import text

from executor_service.domain.draft import Draft, DraftItem, DraftKey, DraftStatus, ItemStatus, RunItem
from executor_service.domain.paging import Slice
from executor_service.models import BLANK, shows_nothing
from executor_service.playbooks.playbook import Playbook
from executor_service.store.pages import page_of, slice_of
from servicekit.postgres.database import Connection, Row

_DRAFT = """
  id, project_id, playbook_id, scope_id, rules_hash, rules, status, affected_total, draft_generated,
  no_suggestion_count, model, created_at, updated_at, expires_at, run_id"""


def _draft(row: Row) -> Draft:
    return Draft(
        id=row.id,
        key=DraftKey(row.project_id, row.playbook_id, row.scope_id, row.rules_hash),
        rules=row.rules,
        run_id=row.run_id,
        status=DraftStatus(row.status),
        affected_total=row.affected_total,
        draft_generated=row.draft_generated,
        no_suggestion_count=row.no_suggestion_count,
        model=row.model,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
    )


# Writing

ITEMS = 1_000  # in one statement: the event loop does nothing else while its parameters are made

_PUT = text(f"""
INSERT INTO executor.drafts ({_DRAFT})
VALUES (:id, :project_id, :playbook_id, :scope_id, :rules_hash, :rules, :status, :affected_total, :draft_generated,
        :no_suggestion_count, :model, :created_at, :updated_at, :expires_at, :run_id)
ON CONFLICT (project_id, playbook_id, scope_id, rules_hash) DO UPDATE
SET status = excluded.status, affected_total = excluded.affected_total, draft_generated = excluded.draft_generated,
    no_suggestion_count = excluded.no_suggestion_count, model = excluded.model, updated_at = excluded.updated_at,
    expires_at = excluded.expires_at, run_id = excluded.run_id
RETURNING id""")

_DELETE_ITEMS = text("DELETE FROM executor.draft_items WHERE draft_id = :draft_id")

_PUT_ITEMS = text("""
INSERT INTO executor.draft_items
  (draft_id, product_id, raw_suggestion, final_suggestion, rule_warnings, no_suggestion_reason)
SELECT :draft_id, product_id, raw, final, string_to_array(warnings, ','), reason
FROM unnest(CAST(:product_ids AS text[]), CAST(:raws AS text[]), CAST(:finals AS text[]), CAST(:warnings AS text[]),
            CAST(:reasons AS text[])) AS item (product_id, raw, final, warnings, reason)""")


async def put(connection: Connection, draft: Draft, items: Sequence[DraftItem]) -> UUID:
    """Write a draft and its items in place of the one under the same key; return its id, which stays the first one."""
    parameters = {
        "id": draft.id,
        "project_id": draft.key.project_id,
        "playbook_id": draft.key.playbook_id,
        "scope_id": draft.key.scope_id,
        "rules_hash": draft.key.rules_hash,
        "rules": Jsonb(draft.rules),
        "status": draft.status.value,
        "affected_total": draft.affected_total,
        "draft_generated": draft.draft_generated,
        "no_suggestion_count": draft.no_suggestion_count,
        "model": draft.model,
        "created_at": draft.created_at,
        "updated_at": draft.updated_at,
        "expires_at": draft.expires_at,
        "run_id": draft.run_id,
    }
    draft_id: UUID = (await connection.execute(_PUT, parameters)).scalar_one()
    await connection.execute(_DELETE_ITEMS, {"draft_id": draft_id})
    for start in range(0, len(items), ITEMS):
        await _put_items(connection, draft_id, items[start : start + ITEMS])
    return draft_id


async def _put_items(connection: Connection, draft_id: UUID, items: Sequence[DraftItem]) -> None:
    await connection.execute(
        _PUT_ITEMS,
        {
            "draft_id": draft_id,
            "product_ids": [item.product_id for item in items],
            "raws": [item.raw_suggestion for item in items],
            "finals": [item.final_suggestion for item in items],
            "warnings": [",".join(item.rule_warnings) for item in items],  # none of them has a comma
            "reasons": [item.no_suggestion_reason for item in items],
        },
    )


# Reading

_OF_SCOPE = text(f"""
SELECT {_DRAFT} FROM executor.drafts
WHERE project_id = :project_id AND playbook_id = :playbook_id AND scope_id = :scope_id
ORDER BY updated_at DESC, id DESC""")


async def of_scope(connection: Connection, project_id: str, playbook: Playbook, scope_id: str) -> list[Draft]:
    """Return the scope's drafts, the one written last first."""
    parameters = {"project_id": project_id, "playbook_id": playbook.id, "scope_id": scope_id}
    return [_draft(row) for row in await connection.execute(_OF_SCOPE, parameters)]


_ITEM = "product_id, raw_suggestion, final_suggestion, rule_warnings, no_suggestion_reason"
_ITEMS = page_of(
    f"SELECT {_ITEM} FROM executor.draft_items WHERE draft_id = drafts.id AND product_id > :after",
    columns=_ITEM,
    key="product_id",
    texts=["raw_suggestion", "final_suggestion", "no_suggestion_reason"],
)
# With the items in the same statement: a draft is seen before a run or after it, never in between.
_WITH_ITEMS = f"""
SELECT {_DRAFT}, (
  SELECT jsonb_agg(jsonb_build_array({_ITEM}, more) ORDER BY product_id) FROM ({_ITEMS}) AS items
) AS items
FROM executor.drafts WHERE project_id = :project_id"""
_FIND = text(f"{_WITH_ITEMS} AND id = :id")
_LATEST = text(f"{_WITH_ITEMS} AND playbook_id = :playbook_id ORDER BY updated_at DESC, id DESC LIMIT 1")

DraftAndItems = tuple[Draft, Slice[DraftItem]]


async def find(
    connection: Connection, project_id: str, draft_id: UUID, *, after: str, limit: int
) -> DraftAndItems | None:
    """Return a draft of the project by its id, with up to `limit` items by product id from the one after `after`."""
    parameters = {"id": draft_id, "project_id": project_id, "after": after, "limit": limit}
    return _with_items((await connection.execute(_FIND, parameters)).one_or_none())


async def latest(
    connection: Connection, project_id: str, playbook_id: str, *, after: str, limit: int
) -> DraftAndItems | None:
    """Return the draft of a playbook that was written last, with items as `find` does."""
    parameters = {"project_id": project_id, "playbook_id": playbook_id, "after": after, "limit": limit}
    return _with_items((await connection.execute(_LATEST, parameters)).one_or_none())


def _with_items(row: Row | None) -> DraftAndItems | None:
    if row is None:
        return None
    return _draft(row), slice_of(row.items or (), _item)


def _item(product_id: str, raw: str, final: str, warnings: Sequence[str], reason: str) -> DraftItem:
    return DraftItem(product_id, raw, final, tuple(warnings), reason)


# Applying

BLOCK = 1_000  # products in a row of run_item_blocks: as many as a page may have

# One statement, so `affected` and `usable` are as they were before the update.
_APPLY = {
    field: text(f"""
WITH affected AS (
  SELECT id FROM executor.products WHERE project_id = :project_id AND {blank}
), usable AS (
  SELECT product_id, final_suggestion FROM executor.draft_items
  WHERE draft_id = :draft_id AND NOT ({shows_nothing("final_suggestion")})
), updated AS (
  UPDATE executor.products p SET {field} = usable.final_suggestion, updated_at = now()
  FROM usable WHERE p.project_id = :project_id AND p.id = usable.product_id AND {blank}
  RETURNING p.id
), told AS (
  INSERT INTO executor.run_item_blocks (run_id, last_product_id, product_ids, statuses, messages)
  SELECT :run_id, max(id), array_agg(id ORDER BY id),
         array_agg(CASE WHEN is_updated THEN 'UPDATED' ELSE 'SKIPPED' END ORDER BY id),
         array_agg(CASE WHEN is_updated THEN '' ELSE rtrim(:skipped || ' ' || coalesce(reason, '')) END ORDER BY id)
  FROM (
    -- IN, not a join: it is hashed whatever the planner thinks of the number of rows
    SELECT id, id IN (SELECT id FROM updated) AS is_updated, (row_number() OVER (ORDER BY id) - 1) / {BLOCK} AS block,
           reason
    FROM affected LEFT JOIN (
      SELECT product_id, no_suggestion_reason AS reason FROM executor.draft_items
      WHERE draft_id = :draft_id AND no_suggestion_reason <> ''
    ) AS without ON without.product_id = id
  ) GROUP BY block
)
SELECT count(*), set_config('enable_nestloop', 'on', true) FROM updated""")
    for field, blank in BLANK.items()
}
# A draft that was just written is unknown to the planner, which then looks thousands of products up one by one.
_IN_BULK = text("SELECT set_config('enable_nestloop', 'off', true)")


async def apply(
    connection: Connection, project_id: str, playbook: Playbook, draft_id: UUID, *, run_id: UUID, skipped: str
) -> int:
    """Write the draft's usable suggestions into the affected products, and an item for each of these.

    `skipped` is the message of those without a suggestion. Returns how many products were updated.
    """
    parameters = {"project_id": project_id, "draft_id": draft_id, "run_id": run_id, "skipped": skipped}
    await connection.execute(_IN_BULK)
    updated: int = (await connection.execute(_APPLY[playbook.field], parameters)).scalar_one()
    return updated


# The blocks' order, which the index has, before the products': a page reads no more blocks than it shows. A thousand
# of the longest ids and messages are no more than PAGE_BYTES.
_RUN_ITEMS = text("""
SELECT item.product_id, item.status, item.message
FROM executor.run_item_blocks AS block,
     unnest(block.product_ids, block.statuses, block.messages) AS item (product_id, status, message)
WHERE block.run_id = :run_id AND block.last_product_id > :after AND item.product_id > :after
ORDER BY block.last_product_id, item.product_id LIMIT :limit""")


async def run_items(connection: Connection, run_id: UUID, *, after: str, limit: int) -> Slice[RunItem]:
    """Return what an APPLY did with up to `limit` products by id, from the one after `after`."""
    rows = await connection.execute(_RUN_ITEMS, {"run_id": run_id, "after": after, "limit": limit + 1})
    items = [RunItem(row.product_id, ItemStatus(row.status), row.message) for row in rows[:limit]]
    return Slice(items, more=len(rows) > limit)
