# ruff: noqa: S608 - statements are put together from constants only
"""Deleting runs, with their history and the calls that led to them.

A run that is locked is being changed, and is left for the next time: nobody waits for a deletion.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from runs_service.predicates import ACTIVE
from runs_service.store.stops import FIRST_ID
from servicekit.ids import first_uuid7
from servicekit.postgres.database import Database

BATCH = 500  # runs; some thousand rows, deleted within a tenth of a second


class Deleted(NamedTuple):
    """What a statement deleted, and the id of the last run that it looked at; None: there are no more."""

    runs: int
    changes: int
    last: str | None


# `due` has the ids to delete. The foreign keys would delete history and calls run by run, and count nothing. By arrays:
# the generic plan takes a LIMIT for a tenth of the table, and would join `due` with all of it.
_DELETE = """, calls AS (
        DELETE FROM runs.calls WHERE run_id = ANY(ARRAY(SELECT id FROM due))
    ), history AS (
        DELETE FROM runs.run_events WHERE run_id = ANY(ARRAY(SELECT id FROM due)) RETURNING 1
    ), gone AS (
        DELETE FROM runs.runs WHERE id = ANY(ARRAY(SELECT id FROM due)) RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) AS runs, (SELECT count(*) FROM history) AS changes"""


class Deletions:
    """Deletes runs that have ended, a batch with each statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Ids are in the order of creation, so the primary key finds the oldest runs. One process at a time has the turn;
    # another one finds nothing to do.
    _EXPIRED = f"""
    WITH turn AS MATERIALIZED (
        SELECT pg_try_advisory_xact_lock(hashtextextended('playbook-runs: retention of runs', 0)) AS is_ours
    ), page AS MATERIALIZED (
        SELECT id FROM runs.runs
        WHERE (SELECT is_ours FROM turn) AND id > CAST(%(after)s AS uuid) AND id < CAST(%(end)s AS uuid)
        ORDER BY id LIMIT %(limit)s
    ), due AS MATERIALIZED (
        SELECT runs.id FROM runs.runs
             JOIN unnest(CAST(%(statuses)b AS text[]), CAST(%(befores)b AS timestamptz[])) AS kept (status, before)
                  ON kept.status = runs.status AND runs.created_at < kept.before
        WHERE runs.id = ANY(ARRAY(SELECT id FROM page))
          AND NOT ({ACTIVE.replace("status", "runs.status")}) AND NOT stop_pending
        ORDER BY runs.id FOR UPDATE OF runs SKIP LOCKED
    ){_DELETE}, (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last, (SELECT count(*) FROM page) AS looked_at"""

    async def expired(self, befores: Mapping[str, datetime], *, after: str = FIRST_ID, limit: int = BATCH) -> Deleted:
        """Delete what is too old of the first `limit` runs from the one after `after`, by id.

        `befores`: by status, the time before which runs were created that are not kept any more. Runs that have not
        ended, or whose cancel the executor has not answered, stay.
        """
        parameters = {
            "after": after,
            "end": first_uuid7(max(befores.values())),
            "statuses": list(befores),
            "befores": list(befores.values()),
            "limit": limit,
        }
        row = await self._database.fetch_one(self._EXPIRED, parameters)
        return Deleted(row.runs, row.changes, str(row.last) if row.looked_at == limit else None)

    _OF_PROJECT = f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM runs.runs WHERE project_id = %(project)s AND NOT ({ACTIVE}) AND NOT stop_pending
        ORDER BY created_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ){_DELETE}"""

    async def of_project(self, project_id: str, *, limit: int = BATCH) -> Deleted:
        """Delete up to `limit` of a project's runs that have ended and whose cancel the executor has answered."""
        row = await self._database.fetch_one(self._OF_PROJECT, {"project": project_id, "limit": limit})
        return Deleted(row.runs, row.changes, None)

    _LEFT = "SELECT count(*) AS left FROM (SELECT FROM runs.runs WHERE project_id = %(project)s LIMIT 1001) AS found"

    async def left(self, project_id: str) -> int:
        """Return how many runs a project still has; 1,001 stands for more than a thousand."""
        return int((await self._database.fetch_one(self._LEFT, {"project": project_id})).left)

    _EXPIRE = """
    INSERT INTO runs.expired_changes AS noted (project_id, xid) VALUES (%(project)s, pg_current_xact_id())
    ON CONFLICT (project_id) DO UPDATE SET xid = excluded.xid WHERE noted.xid < excluded.xid"""

    async def expire_positions(self, project_id: str) -> None:
        """Expire every position in a project that was sent before now."""
        await self._database.execute(self._EXPIRE, {"project": project_id})

    # Increments first: those that are being folded meanwhile are in their days then.
    _INCREMENTS = "DELETE FROM runs.usage_increments WHERE project_id = %(project)s RETURNING day, run_type"
    _DAYS = "DELETE FROM runs.usage_daily WHERE project_id = %(project)s RETURNING day, run_type"

    async def usage(self, project_id: str) -> int:
        """Delete what a project's runs add up to; return how many days that were, each run type by itself."""
        async with self._database.transaction() as connection:
            deleted = await connection.fetch_all(self._INCREMENTS, {"project": project_id})
            deleted += await connection.fetch_all(self._DAYS, {"project": project_id})
        return len({(row.day, row.run_type) for row in deleted})
