# ruff: noqa: S608 - statements are put together from constants only
"""Products, and the scopes that they make up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from executor_service.domain.catalog import Product, Scope
from executor_service.domain.paging import Slice
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.scope import digits, prefix
from executor_service.predicates import BLANK
from executor_service.store.pages import page_of, slice_of
from servicekit.postgres.database import Querier

_NAMED = "id = ANY(CAST(%(ids)b AS text[]))"
_PRODUCT = "id, external_id, title, description, seo_title, seo_description"


@dataclass(frozen=True, slots=True)
class PutCounts:
    """What putting products did."""

    created: int
    updated: int


def _page(condition: str) -> str:
    return page_of(
        f"SELECT {_PRODUCT} FROM executor.products"
        f" WHERE project_id = %(project_id)s AND id > %(after)s AND {condition}",
        columns=_PRODUCT,
        key="id",
        texts=["title", "description", "seo_title", "seo_description"],
    )


class Products:
    """Reads and writes products. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # In the order of their ids, so that two writers of the same products cannot deadlock.
    _PUT = f"""
    WITH put AS (
      INSERT INTO executor.products (project_id, {_PRODUCT})
      SELECT %(project_id)s, given.* FROM unnest(
        CAST(%(ids)b AS text[]), CAST(%(external_ids)b AS text[]), CAST(%(titles)b AS text[]),
        CAST(%(descriptions)b AS text[]), CAST(%(seo_titles)b AS text[]), CAST(%(seo_descriptions)b AS text[])
      ) AS given ({_PRODUCT})
      ORDER BY given.id COLLATE "C"
      ON CONFLICT (project_id, id) DO UPDATE
      SET external_id = excluded.external_id, title = excluded.title, description = excluded.description,
          seo_title = excluded.seo_title, seo_description = excluded.seo_description, updated_at = now()
      RETURNING xmax = 0 AS is_new  -- a row that was there before carries our transaction's lock
    )
    SELECT count(*) FILTER (WHERE is_new) AS created, count(*) FILTER (WHERE NOT is_new) AS updated FROM put"""

    async def put(self, project_id: str, products: Sequence[Product]) -> PutCounts:
        """Create or replace products."""
        parameters = {
            "project_id": project_id,
            "ids": [product.id for product in products],
            "external_ids": [product.external_id for product in products],
            "titles": [product.title for product in products],
            "descriptions": [product.description for product in products],
            "seo_titles": [product.seo_title for product in products],
            "seo_descriptions": [product.seo_description for product in products],
        }
        row = await self._querier.fetch_one(self._PUT, parameters)
        return PutCounts(row.created, row.updated)

    _DELETE = """
    WITH doomed AS (
      SELECT id FROM executor.products WHERE project_id = %(project_id)s AND id = ANY(CAST(%(ids)b AS text[]))
      ORDER BY id FOR UPDATE
    )
    DELETE FROM executor.products WHERE project_id = %(project_id)s AND id IN (SELECT id FROM doomed)"""

    async def delete(self, project_id: str, ids: Sequence[str]) -> int:
        """Delete products; return how many were there."""
        return await self._querier.execute(self._DELETE, {"project_id": project_id, "ids": list(ids)})

    _NUMBER = """
    SELECT count(*) AS number FROM (
      SELECT FROM executor.products WHERE project_id = %(project_id)s LIMIT %(limit)s
    ) AS found"""

    async def number(self, project_id: str, limit: int) -> int:
        """Return how many products a project has, or `limit` if it has more."""
        row = await self._querier.fetch_one(self._NUMBER, {"project_id": project_id, "limit": limit})
        return int(row.number)

    _PRESENT = """
    SELECT count(*) AS number FROM executor.products
    WHERE project_id = %(project_id)s AND id = ANY(CAST(%(ids)b AS text[]))"""

    async def present(self, project_id: str, ids: Sequence[str]) -> int:
        """Return how many products of these ids there are."""
        row = await self._querier.fetch_one(self._PRESENT, {"project_id": project_id, "ids": list(ids)})
        return int(row.number)

    _PAGE_OF_ALL = _page("true")
    _PAGE_OF_AFFECTED: ClassVar = {field: _page(blank) for field, blank in BLANK.items()}

    _PAGE_OF_NAMED = _page(_NAMED)
    _PAGE_OF_NAMED_AFFECTED: ClassVar = {field: _page(f"{_NAMED} AND {blank}") for field, blank in BLANK.items()}

    async def page(
        self, project_id: str, *, playbook: Playbook | None, ids: Sequence[str] = (), after: str, limit: int
    ) -> Slice[Product]:
        """Return up to `limit` products by id, from the one after `after`; with a playbook only its affected ones, with
        `ids` only these."""
        of_all, of_affected = self._PAGE_OF_ALL, self._PAGE_OF_AFFECTED
        parameters: dict[str, object] = {"project_id": project_id, "after": after, "limit": limit}
        if ids:
            of_all, of_affected = self._PAGE_OF_NAMED, self._PAGE_OF_NAMED_AFFECTED
            parameters["ids"] = list(ids)
        statement = of_affected[playbook.field] if playbook else of_all
        return slice_of(await self._querier.fetch_all(statement, parameters), Product)

    # scope_id() of playbooks/scope.py, computed where the ids are: the 200,000 of a large project would keep the event
    # loop for 25 ms, and as long on the way. Their collation is "C", so their order is that of code points.
    _SCOPE: ClassVar = {
        field: f"""
    SELECT sha256(convert_to(CAST(%(prefix)s AS text) || coalesce(string_agg(id, ',' ORDER BY id), ''), 'UTF8'))
             AS digest,
           count(*) AS products
    FROM executor.products WHERE project_id = %(project_id)s AND {blank}"""
        for field, blank in BLANK.items()
    }

    async def scope(self, project_id: str, playbook: Playbook) -> Scope:
        """Return the playbook's current scope."""
        parameters = {"project_id": project_id, "prefix": prefix(project_id, playbook.id)}
        row = await self._querier.fetch_one(self._SCOPE[playbook.field], parameters)
        return Scope(digits(row.digest), row.products)

    _HAVE_AFFECTED: ClassVar = {
        field: f"""
    SELECT id, EXISTS (SELECT FROM executor.products WHERE project_id = projects.id AND {blank}) AS has_affected
    FROM executor.projects WHERE id = ANY(CAST(%(ids)b AS text[]))"""
        for field, blank in BLANK.items()
    }

    async def have_affected(self, project_ids: Sequence[str], playbook: Playbook) -> Mapping[str, bool]:
        """Return, of the projects that exist, whether each has affected products."""
        rows = await self._querier.fetch_all(self._HAVE_AFFECTED[playbook.field], {"ids": list(project_ids)})
        return {row.id: row.has_affected for row in rows}
