# ruff: noqa: S608 - statements are put together from constants only
"""Deleting what runs left behind: what is too old, but for rows that are locked, which are left for the next time; and
all of a project."""

from datetime import date, datetime
from typing import ClassVar, NamedTuple
from uuid import UUID

from executor_service.store.projects import Projects
from servicekit.ids import first_uuid7
from servicekit.postgres.database import Querier

FIRST_ID = UUID(int=0)
BATCH = 500  # executions
SUGGESTIONS = 2_000  # or products, in one statement

# One process at a time has the turn; another one finds nothing to do.
_TURN = """turn AS MATERIALIZED (
      SELECT pg_try_advisory_xact_lock(hashtextextended('playbook-runs: retention of the executor', 0)) AS is_ours
    )"""


class Deleted(NamedTuple):
    """How many executions a statement deleted, and the last run that it looked at; None: there are no more."""

    executions: int
    last: UUID | None


class Deletions:
    """Deletes, a batch with each statement. Takes where statements run: the database, or a connection."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # The ids of runs are in the order of their creation, so the primary key finds the oldest.
    _EXPIRED_EXECUTIONS = f"""
    WITH {_TURN}, page AS MATERIALIZED (
      SELECT run_id FROM executor.executions
      WHERE (SELECT is_ours FROM turn) AND run_id > %(after)s AND run_id < CAST(%(end)s AS uuid)
      ORDER BY run_id LIMIT %(limit)s
    ), due AS MATERIALIZED (
      SELECT run_id FROM executor.executions
      WHERE run_id IN (SELECT run_id FROM page) AND created_at < %(before)s
        AND status NOT IN ('QUEUED', 'RUNNING') AND published_number >= event_number
      ORDER BY run_id FOR UPDATE SKIP LOCKED
    ), items AS (
      DELETE FROM executor.run_item_blocks WHERE run_id IN (SELECT run_id FROM due)
    ), gone AS (
      DELETE FROM executor.executions WHERE run_id IN (SELECT run_id FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) AS executions, (SELECT count(*) FROM page) AS looked_at,
           (SELECT run_id FROM page ORDER BY run_id DESC LIMIT 1) AS last"""

    async def expired_executions(self, before: datetime, *, after: UUID = FIRST_ID, limit: int = BATCH) -> Deleted:
        """Delete, of the first `limit` executions from the one after `after`, by id, those of runs that were created
        before that time, with their items.

        Those that have not ended, or whose last event is not published, stay.
        """
        parameters = {"before": before, "end": first_uuid7(before), "after": after, "limit": limit}
        row = await self._querier.fetch_one(self._EXPIRED_EXECUTIONS, parameters)
        return Deleted(row.executions, row.last if row.looked_at == limit else None)

    # A run that writes the draft anew meanwhile has its row locked, or waits here and then writes another one.
    _EXPIRED_DRAFT = f"""
    WITH {_TURN}, due AS MATERIALIZED (
      SELECT id FROM executor.drafts
      WHERE (SELECT is_ours FROM turn) AND expires_at < %(before)s
      ORDER BY expires_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ), items AS (
      DELETE FROM executor.draft_items WHERE draft_id IN (SELECT id FROM due)
    )
    DELETE FROM executor.drafts WHERE id IN (SELECT id FROM due)"""

    async def expired_draft(self, before: datetime) -> int:
        """Delete one draft that expired before that time, with its items: up to hundreds of thousands. Return how many
        drafts that was: 0 or 1."""
        return await self._querier.execute(self._EXPIRED_DRAFT, {"before": before})

    _UNUSED_SUGGESTIONS = f"""
    WITH {_TURN}, due AS MATERIALIZED (
      SELECT project_id, fingerprint FROM executor.suggestions
      WHERE (SELECT is_ours FROM turn) AND used_at < %(before)s
      ORDER BY used_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    DELETE FROM executor.suggestions AS stored USING due
    WHERE stored.project_id = due.project_id AND stored.fingerprint = due.fingerprint"""

    async def unused_suggestions(self, before: datetime, *, limit: int = SUGGESTIONS) -> int:
        """Delete up to `limit` suggestions that no run has used since that time; return how many."""
        return await self._querier.execute(self._UNUSED_SUGGESTIONS, {"before": before, "limit": limit})

    # Of a project

    # One SELECT for each of the partial indexes.
    _ACTIVE = """
    (SELECT run_id FROM executor.executions WHERE project_id = %(project_id)s AND status = 'QUEUED' LIMIT %(limit)s)
    UNION ALL
    (SELECT run_id FROM executor.executions WHERE project_id = %(project_id)s AND status = 'RUNNING' LIMIT %(limit)s)"""

    async def active(self, project_id: str, *, limit: int = BATCH) -> list[UUID]:
        """Return runs of a project that have not ended: up to `limit` that wait, and as many that are at work."""
        rows = await self._querier.fetch_all(self._ACTIVE, {"project_id": project_id, "limit": limit})
        return [row.run_id for row in rows]

    # By arrays: the generic plan takes a LIMIT for a tenth of the table, and would join the batch with all of it.
    _OF_PROJECT: ClassVar = {
        "executions": """
    WITH due AS MATERIALIZED (
      SELECT run_id FROM executor.executions WHERE project_id = %(project_id)s AND status NOT IN ('QUEUED', 'RUNNING')
      ORDER BY run_id LIMIT %(limit)s FOR UPDATE
    ), items AS (
      DELETE FROM executor.run_item_blocks WHERE run_id = ANY(ARRAY(SELECT run_id FROM due))
    )
    DELETE FROM executor.executions WHERE run_id = ANY(ARRAY(SELECT run_id FROM due))""",
        "suggestions": """
    DELETE FROM executor.suggestions WHERE project_id = %(project_id)s AND fingerprint = ANY(ARRAY(
      SELECT fingerprint FROM executor.suggestions WHERE project_id = %(project_id)s
      ORDER BY fingerprint LIMIT %(limit)s FOR UPDATE))""",
        "products": """
    DELETE FROM executor.products WHERE project_id = %(project_id)s AND id = ANY(ARRAY(
      SELECT id FROM executor.products WHERE project_id = %(project_id)s ORDER BY id LIMIT %(limit)s FOR UPDATE))""",
    }
    # In the order in which of_project is to delete them.
    KINDS = ("executions", "drafts", "suggestions", "products")

    async def of_project(self, kind: str, project_id: str) -> int:
        """Delete a batch of what a project has of a kind (of KINDS); return how many. A large draft is a batch.

        Needs a transaction.
        """
        if kind == "drafts":
            return await self._draft_of_project(project_id)
        limit = BATCH if kind == "executions" else SUGGESTIONS
        return await self._querier.execute(self._OF_PROJECT[kind], {"project_id": project_id, "limit": limit})

    _DRAFT_OF_PROJECT = """
    DELETE FROM executor.drafts WHERE id IN (
      SELECT id FROM executor.drafts WHERE project_id = %(project_id)s LIMIT 1 FOR UPDATE)
    RETURNING id"""
    _ITEMS_OF_DRAFT = "DELETE FROM executor.draft_items WHERE draft_id = %(id)s"

    # Two statements: one alone would not see the items of a run that wrote the draft while it waited for its row.
    async def _draft_of_project(self, project_id: str) -> int:
        row = await self._querier.fetch_optional(self._DRAFT_OF_PROJECT, {"project_id": project_id})
        if row is None:
            return 0
        await self._querier.execute(self._ITEMS_OF_DRAFT, {"id": row.id})
        return 1

    _USAGE = "DELETE FROM executor.ai_usage WHERE project_id = %(project_id)s AND (NOT %(keep)s OR day < %(today)s)"
    _PROJECT = """
    DELETE FROM executor.projects WHERE id = %(project_id)s AND NOT EXISTS (
      SELECT FROM executor.products WHERE project_id = %(project_id)s)"""

    async def project(self, project_id: str, *, keep_plan: bool, today: date) -> int:
        """Delete a project's AI usage and the project itself, if it has no products; return whether it went: 0 or 1.

        With `keep_plan` the project stays, with its usage of `today`. Needs a transaction.
        """
        parameters = {"project_id": project_id, "keep": keep_plan, "today": today}
        await self._querier.execute(self._USAGE, parameters)
        if keep_plan:
            return 0
        await Projects(self._querier).lock_alone(project_id)
        return await self._querier.execute(self._PROJECT, parameters)
