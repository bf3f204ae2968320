# ruff: noqa: S608 - statements are put together from constants only
"""Drafts and their items."""

from collections.abc import Sequence
from uuid import UUID

from psycopg.types.json import Jsonb

from executor_service.domain.draft import Draft, DraftItem, DraftKey, DraftStatus
from executor_service.domain.paging import Slice
from executor_service.playbooks.playbook import Playbook
from executor_service.store.pages import page_of, slice_of
from servicekit.postgres.database import Querier, Row

ITEMS = 1_000  # in one statement: the event loop does nothing else while its parameters are made

_DRAFT = """
  id, project_id, playbook_id, scope_id, rules_hash, rules, status, affected_total, draft_generated,
  no_suggestion_count, model, created_at, updated_at, expires_at, run_id"""
_ITEM = "product_id, raw_suggestion, final_suggestion, rule_warnings, no_suggestion_reason"
_ITEMS = page_of(
    f"SELECT {_ITEM} FROM executor.draft_items WHERE draft_id = drafts.id AND product_id > %(after)s",
    columns=_ITEM,
    key="product_id",
    texts=["raw_suggestion", "final_suggestion", "no_suggestion_reason"],
)
# With the items in the same statement: a reader gets a draft as it was before a run or after it, never in between.
_WITH_ITEMS = f"""
SELECT {_DRAFT}, (
  SELECT jsonb_agg(jsonb_build_array({_ITEM}, more) ORDER BY product_id) FROM ({_ITEMS}) AS items
) AS items
FROM executor.drafts WHERE project_id = %(project_id)s"""

DraftAndItems = tuple[Draft, Slice[DraftItem]]


class Drafts:
    """Writes and reads drafts. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # Writing

    _PUT = f"""
    INSERT INTO executor.drafts ({_DRAFT})
    VALUES (%(id)s, %(project_id)s, %(playbook_id)s, %(scope_id)s, %(rules_hash)s, %(rules)s, %(status)s,
            %(affected_total)s, %(draft_generated)s, %(no_suggestion_count)s, %(model)s, %(created_at)s,
            %(updated_at)s, %(expires_at)s, %(run_id)s)
    ON CONFLICT (project_id, playbook_id, scope_id, rules_hash) DO UPDATE
    SET status = excluded.status, affected_total = excluded.affected_total, draft_generated = excluded.draft_generated,
        no_suggestion_count = excluded.no_suggestion_count, model = excluded.model, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, run_id = excluded.run_id
    RETURNING id"""

    async def put(self, draft: Draft, items: Sequence[DraftItem]) -> UUID:
        """Write a draft and its items in place of the one under the same key; return its id, which stays the first
        one."""
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
        draft_id: UUID = (await self._querier.fetch_one(self._PUT, parameters)).id
        await self._querier.execute(self._DELETE_ITEMS, {"draft_id": draft_id})
        for start in range(0, len(items), ITEMS):
            await self._put_items(draft_id, items[start : start + ITEMS])
        return draft_id

    _DELETE_ITEMS = "DELETE FROM executor.draft_items WHERE draft_id = %(draft_id)s"

    _PUT_ITEMS = """
    INSERT INTO executor.draft_items
      (draft_id, product_id, raw_suggestion, final_suggestion, rule_warnings, no_suggestion_reason)
    SELECT %(draft_id)s, product_id, raw, final, string_to_array(warnings, ','), reason
    FROM unnest(CAST(%(product_ids)b AS text[]), CAST(%(raws)b AS text[]), CAST(%(finals)b AS text[]),
                CAST(%(warnings)b AS text[]), CAST(%(reasons)b AS text[]))
      AS item (product_id, raw, final, warnings, reason)"""

    async def _put_items(self, draft_id: UUID, items: Sequence[DraftItem]) -> None:
        parameters = {
            "draft_id": draft_id,
            "product_ids": [item.product_id for item in items],
            "raws": [item.raw_suggestion for item in items],
            "finals": [item.final_suggestion for item in items],
            "warnings": [",".join(item.rule_warnings) for item in items],  # none of them has a comma
            "reasons": [item.no_suggestion_reason for item in items],
        }
        await self._querier.execute(self._PUT_ITEMS, parameters)

    # Reading

    _OF_SCOPE = f"""
    SELECT {_DRAFT} FROM executor.drafts
    WHERE project_id = %(project_id)s AND playbook_id = %(playbook_id)s AND scope_id = %(scope_id)s
    ORDER BY updated_at DESC, id DESC"""

    async def of_scope(self, project_id: str, playbook: Playbook, scope_id: str) -> list[Draft]:
        """Return the scope's drafts, the one written last first."""
        parameters = {"project_id": project_id, "playbook_id": playbook.id, "scope_id": scope_id}
        return [_draft(row) for row in await self._querier.fetch_all(self._OF_SCOPE, parameters)]

    _FIND = f"{_WITH_ITEMS} AND id = %(id)s"

    async def find(self, project_id: str, draft_id: UUID, *, after: str, limit: int) -> DraftAndItems | None:
        """Return a draft of the project by its id, with up to `limit` items by product id from the one after
        `after`."""
        parameters = {"id": draft_id, "project_id": project_id, "after": after, "limit": limit}
        return _with_items(await self._querier.fetch_optional(self._FIND, parameters))

    _LATEST = f"{_WITH_ITEMS} AND playbook_id = %(playbook_id)s ORDER BY updated_at DESC, id DESC LIMIT 1"

    async def latest(self, project_id: str, playbook_id: str, *, after: str, limit: int) -> DraftAndItems | None:
        """Return the draft of a playbook that was written last, with items as `find` does."""
        parameters = {"project_id": project_id, "playbook_id": playbook_id, "after": after, "limit": limit}
        return _with_items(await self._querier.fetch_optional(self._LATEST, parameters))


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


def _with_items(row: Row | None) -> DraftAndItems | None:
    if row is None:
        return None
    return _draft(row), slice_of(row.items or (), _item)


def _item(product_id: str, raw: str, final: str, warnings: Sequence[str], reason: str) -> DraftItem:
    return DraftItem(product_id, raw, final, tuple(warnings), reason)
