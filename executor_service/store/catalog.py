# ruff: noqa: S608 - statements are put together from constants only
"""Projects and products.

Who writes products holds a share of their project's row; who ends a run holds the whole of it. So what a run has
checked about the scope is still true when it commits, and catalog writers never wait for each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, TextClause, text

from executor_service.domain.catalog import Product, Project, Scope
from executor_service.domain.paging import Slice
from executor_service.models import BLANK
from executor_service.playbooks.playbook import Playbook
from executor_service.playbooks.quota import Plan
from executor_service.playbooks.scope import digits, prefix
from executor_service.store.pages import page_of, slice_of
from servicekit.postgres.database import Connection

_PRODUCT = "id, external_id, title, description, seo_title, seo_description"

# Projects

_PROJECT = "SELECT id, plan, ai_daily_limit FROM executor.projects WHERE id = :id"
_FIND_PROJECT = text(_PROJECT)
_SHARE_PROJECT = text(f"{_PROJECT} FOR SHARE")
_LOCK_PROJECT = text(f"{_PROJECT} FOR NO KEY UPDATE")


_ADD_PROJECT = text("""
INSERT INTO executor.projects (id, plan, ai_daily_limit) VALUES (:id, :plan, :ai_daily_limit)
ON CONFLICT (id) DO NOTHING""")
_UPDATE_PROJECT = text("""
UPDATE executor.projects SET plan = :plan, ai_daily_limit = :ai_daily_limit, updated_at = now() WHERE id = :id""")


async def ensure_project(connection: Connection, new: Project) -> Project:
    """Return the project of that id, `new` if there was none, and keep others from changing it until the end of this
    transaction."""
    await connection.execute(_ADD_PROJECT, _columns(new))
    return _project((await connection.execute(_LOCK_PROJECT, {"id": new.id})).one())


async def update_project(connection: Connection, project: Project) -> None:
    """Set the plan and the limit of a project."""
    await connection.execute(_UPDATE_PROJECT, _columns(project))


async def find_project(connection: Connection, project_id: str) -> Project | None:
    """Return the project, or None."""
    row = (await connection.execute(_FIND_PROJECT, {"id": project_id})).one_or_none()
    return None if row is None else _project(row)


async def share_project(connection: Connection, project_id: str) -> bool:
    """Keep runs from ending until this transaction has written its products; tell whether there is a project."""
    return (await connection.execute(_SHARE_PROJECT, {"id": project_id})).first() is not None


async def lock_project(connection: Connection, project_id: str) -> None:
    """Keep everyone from writing the project's products until this transaction ends."""
    await connection.execute(_LOCK_PROJECT, {"id": project_id})


def _columns(project: Project) -> dict[str, Any]:
    return {"id": project.id, "plan": project.plan.value, "ai_daily_limit": project.ai_daily_limit}


def _project(row: Row[Any]) -> Project:
    return Project(row.id, Plan(row.plan), row.ai_daily_limit)


# Products

# In the order of their ids, so that two writers of the same products cannot deadlock.
_PUT_PRODUCTS = text(f"""
WITH put AS (
  INSERT INTO executor.products (project_id, {_PRODUCT})
  SELECT :project_id, given.* FROM unnest(
    CAST(:ids AS text[]), CAST(:external_ids AS text[]), CAST(:titles AS text[]), CAST(:descriptions AS text[]),
    CAST(:seo_titles AS text[]), CAST(:seo_descriptions AS text[])) AS given ({_PRODUCT})
  ORDER BY given.id COLLATE "C"
  ON CONFLICT (project_id, id) DO UPDATE
  SET external_id = excluded.external_id, title = excluded.title, description = excluded.description,
      seo_title = excluded.seo_title, seo_description = excluded.seo_description, updated_at = now()
  RETURNING xmax = 0 AS is_new  -- a row that was there before carries our transaction's lock
)
SELECT count(*) FILTER (WHERE is_new) AS created, count(*) FILTER (WHERE NOT is_new) AS updated FROM put""")


@dataclass(frozen=True, slots=True)
class PutCounts:
    """What putting products did."""

    created: int
    updated: int


async def put_products(connection: Connection, project_id: str, products: Sequence[Product]) -> PutCounts:
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
    row = (await connection.execute(_PUT_PRODUCTS, parameters)).one()
    return PutCounts(row.created, row.updated)


_DELETE_PRODUCTS = text("""
WITH doomed AS (
  SELECT id FROM executor.products WHERE project_id = :project_id AND id = ANY(CAST(:ids AS text[]))
  ORDER BY id FOR UPDATE
)
DELETE FROM executor.products WHERE project_id = :project_id AND id IN (SELECT id FROM doomed)""")


async def delete_products(connection: Connection, project_id: str, ids: Sequence[str]) -> int:
    """Delete products; return how many were there."""
    parameters = {"project_id": project_id, "ids": list(ids)}
    return (await connection.execute(_DELETE_PRODUCTS, parameters)).rowcount


def _list(condition: str) -> TextClause:
    return text(
        page_of(
            f"SELECT {_PRODUCT} FROM executor.products WHERE project_id = :project_id AND id > :after AND {condition}",
            columns=_PRODUCT,
            key="id",
            texts=["title", "description", "seo_title", "seo_description"],
        )
    )


_LIST_ALL = _list("true")
_LIST_AFFECTED = {field: _list(blank) for field, blank in BLANK.items()}


async def list_products(
    connection: Connection, project_id: str, *, playbook: Playbook | None, after: str, limit: int
) -> Slice[Product]:
    """Return up to `limit` products by id, from the one after `after`; with a playbook only its affected ones."""
    statement = _LIST_AFFECTED[playbook.field] if playbook else _LIST_ALL
    rows = await connection.execute(statement, {"project_id": project_id, "after": after, "limit": limit})
    return slice_of(rows, Product)


# scope_id() of playbooks/scope.py, worked out where the ids are: the 200,000 of a large project would keep the event
# loop for 25 ms, and as long on the way. Their collation is "C", so their order is that of code points.
_SCOPE = {
    field: text(f"""
SELECT sha256(convert_to(CAST(:prefix AS text) || coalesce(string_agg(id, ',' ORDER BY id), ''), 'UTF8')) AS digest,
       count(*) AS products
FROM executor.products WHERE project_id = :project_id AND {blank}""")
    for field, blank in BLANK.items()
}


async def scope(connection: Connection, project_id: str, playbook: Playbook) -> Scope:
    """Return the playbook's current scope."""
    parameters = {"project_id": project_id, "prefix": prefix(project_id, playbook.id)}
    row = (await connection.execute(_SCOPE[playbook.field], parameters)).one()
    return Scope(digits(row.digest), row.products)


_HAVE_AFFECTED = {
    field: text(f"""
SELECT id, EXISTS (SELECT FROM executor.products WHERE project_id = projects.id AND {blank}) AS has_affected
FROM executor.projects WHERE id = ANY(CAST(:ids AS text[]))""")
    for field, blank in BLANK.items()
}


async def have_affected(connection: Connection, project_ids: Sequence[str], playbook: Playbook) -> Mapping[str, bool]:
    """Return, of the projects that there are, whether each has affected products."""
    rows = await connection.execute(_HAVE_AFFECTED[playbook.field], {"ids": list(project_ids)})
    return {row.id: row.has_affected for row in rows}
