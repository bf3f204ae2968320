# ruff: noqa: S608 - statements are put together from constants only
"""Runs that have to end: their cancel is not delivered yet, or their deadline has passed."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from runs_service.predicates import ACTIVE, STOP_PENDING
from runs_service.store.records import Dispatchable, dispatchable
from servicekit.postgres.database import Database

FIRST_ID = str(UUID(int=0))


class Stops:
    """The stops that are pending, and the runs that need one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    _REQUEST = f"UPDATE runs.runs SET stop_pending = true WHERE id = CAST(%(id)s AS uuid) AND {ACTIVE}"

    async def request(self, run_id: str) -> None:
        """Note that a run has to end, until the executor has answered its cancel."""
        await self._database.execute(self._REQUEST, {"id": run_id})

    _REQUEST_ALL = f"""
    UPDATE runs.runs SET stop_pending = true WHERE id IN (
        SELECT id FROM runs.runs WHERE project_id = %(project)s AND {ACTIVE} AND NOT stop_pending
        ORDER BY id LIMIT %(limit)s FOR UPDATE
    )"""

    async def request_all(self, project_id: str, *, limit: int) -> int:
        """Note that up to `limit` more of a project's runs have to end; return how many that are."""
        return await self._database.execute(self._REQUEST_ALL, {"project": project_id, "limit": limit})

    _PENDING = f"""
    SELECT run, request_id, traceparent FROM runs.runs WHERE {STOP_PENDING} AND id > CAST(%(after)s AS uuid)
    ORDER BY id LIMIT %(limit)s"""

    async def pending(self, *, limit: int, after: str = FIRST_ID) -> list[Dispatchable]:
        """Return runs whose cancel is not delivered yet, by id, from the one after `after`."""
        rows = await self._database.fetch_all(self._PENDING, {"limit": limit, "after": after})
        return [dispatchable(row) for row in rows]

    _MARK_DELIVERED = "UPDATE runs.runs SET stop_pending = false WHERE id = ANY(CAST(%(ids)b AS uuid[]))"

    async def mark_delivered(self, run_ids: Sequence[str]) -> None:
        """Note that the executor has answered the cancels of these runs."""
        await self._database.execute(self._MARK_DELIVERED, {"ids": list(run_ids)})

    _OVERDUE = f"""
    SELECT id FROM runs.runs WHERE {ACTIVE} AND deadline_at < now() - %(margin)s
    ORDER BY deadline_at LIMIT %(limit)s"""

    async def overdue(self, *, margin: timedelta, limit: int) -> list[str]:
        """Return the ids of runs that have not ended long after their deadline."""
        rows = await self._database.fetch_all(self._OVERDUE, {"margin": margin, "limit": limit})
        return [str(row.id) for row in rows]
