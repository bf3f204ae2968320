# ruff: noqa: S608 - statements are put together from constants only
"""The outbox: runs that are still to be handed to the executor, or of which it has said nothing for too long."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from runs_service.predicates import ACTIVE, UNDISPATCHED
from runs_service.store.records import Dispatchable, dispatchable
from servicekit.postgres.database import Database


class Outbox:
    """Finds runs whose job or whose events may have been lost."""

    def __init__(self, database: Database, *, reconcile_after: timedelta) -> None:
        self._database = database
        self._reconcile_after = reconcile_after

    _MARK_DISPATCHED = """
    WITH free AS MATERIALIZED (
        -- Those that are locked are being changed, which notes the same.
        SELECT id, age FROM unnest(CAST(%(ids)b AS uuid[]), CAST(%(ages)b AS double precision[])) AS handed (id, age)
        JOIN runs.runs USING (id) WHERE dispatched_at IS NULL
        FOR UPDATE OF runs SKIP LOCKED
    )
    UPDATE runs.runs
    SET dispatched_at = now() - free.age * interval '1 second', reconcile_at = now() + %(reconcile_after)s
    FROM free WHERE runs.id = free.id"""

    async def mark_dispatched(self, ages: Mapping[str, float]) -> None:
        """Note, by run id, how many seconds ago runs were handed to the broker, or to the executor itself."""
        parameters = {"ids": list(ages), "ages": list(ages.values()), "reconcile_after": self._reconcile_after}
        await self._database.execute(self._MARK_DISPATCHED, parameters)

    _UNDISPATCHED = f"""
    SELECT run, request_id, traceparent FROM runs.runs
    WHERE {UNDISPATCHED} AND created_at < now() - %(older_than)s
    ORDER BY created_at LIMIT %(limit)s"""

    async def undispatched(self, *, older_than: timedelta, limit: int) -> list[Dispatchable]:
        """Return runs that were committed a while ago and not dispatched since."""
        rows = await self._database.fetch_all(self._UNDISPATCHED, {"older_than": older_than, "limit": limit})
        return [dispatchable(row) for row in rows]

    _TRACEPARENTS = """
    SELECT CAST(id AS text) AS id, traceparent FROM runs.runs
    WHERE id = ANY(CAST(%(ids)b AS uuid[])) AND traceparent IS NOT NULL"""

    async def traceparents(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Return the `traceparent` of those of the runs that are in a trace, by id."""
        rows = await self._database.fetch_all(self._TRACEPARENTS, {"ids": list(run_ids)})
        return {row.id: row.traceparent for row in rows}

    _TAKE_SILENT = f"""
    UPDATE runs.runs SET reconcile_at = now() + %(reconcile_after)s
    WHERE id IN (
        SELECT id FROM runs.runs
        WHERE {ACTIVE} AND reconcile_at <= now() AND dispatched_at IS NOT NULL
        ORDER BY reconcile_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    RETURNING run, request_id, traceparent"""

    async def take_silent(self, *, limit: int) -> list[Dispatchable]:
        """Return dispatched runs that have been silent for too long; they are not due again for a while."""
        parameters = {"reconcile_after": self._reconcile_after, "limit": limit}
        rows = await self._database.fetch_all(self._TAKE_SILENT, parameters)
        return [dispatchable(row) for row in rows]
