# ruff: noqa: S608 - statements are put together from constants only
"""Claims: who works on which execution, under a lease that runs out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from executor_service.domain.execution import Execution, Lease
from executor_service.store.rows import FENCE, STATE, execution_of, fence, lease_lost, of
from servicekit.postgres.database import Querier

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
# Executors of this run died twice. Such runs are tried one after the other: then only the run that kills its executor
# uses up its attempts, and the runs beside it do not.
DOUBTFUL_CRASHES = 2
_DOUBTFUL = f"(lease_owner IS NOT NULL AND crashes >= {DOUBTFUL_CRASHES - 1})"
_HAND_BACK = "lease_owner = NULL, lease_until = now() - interval '1 second', updated_at = now()"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim got."""

    executions: Sequence[Execution]
    seen: int  # how many there were to be had, up to the limit; others may have taken some of them
    held_back: int = 0  # how many more there would have been room for, had their projects none at work


class Claims:
    """Takes, renews, checks and gives up leases.

    Takes where statements run: the database, or a connection in a transaction.
    """

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # Projects take turns: a project's next run comes at the place (its running ones + those before it), so one with
    # 2,000 queued runs does not delay another's first. Leases that ran out come before everything. `waiting` is a loose
    # index scan, one step a project, however long its queue is.
    _CLAIM = f"""
    WITH RECURSIVE waiting AS (
      (SELECT project_id FROM executor.executions
       WHERE status = 'QUEUED' AND created_at >= %(since)s ORDER BY project_id LIMIT 1)
      UNION ALL
      SELECT (SELECT e.project_id FROM executor.executions e
              WHERE e.status = 'QUEUED' AND e.created_at >= %(since)s AND e.project_id > w.project_id
              ORDER BY e.project_id LIMIT 1)
      FROM waiting w WHERE w.project_id IS NOT NULL
    ), running AS (
      SELECT project_id, count(*) AS runs FROM executor.executions WHERE status = 'RUNNING' GROUP BY project_id
    ), candidates AS (
      (SELECT run_id, CAST(0 AS bigint) AS turn, created_at FROM executor.executions
       WHERE status = 'RUNNING' AND lease_until < now() AND created_at >= %(since)s AND NOT {_DOUBTFUL}
       ORDER BY lease_until LIMIT %(shared)s)
      UNION ALL
      (SELECT run_id, CAST(0 AS bigint), created_at FROM executor.executions
       WHERE status = 'RUNNING' AND lease_until < now() AND created_at >= %(since)s AND {_DOUBTFUL}
       ORDER BY lease_until LIMIT least(%(doubtful)s, %(shared)s))
      UNION ALL
      (SELECT q.run_id, coalesce(r.runs, 0) + q.place, q.created_at
       FROM waiting w LEFT JOIN running r USING (project_id)
       CROSS JOIN LATERAL (
         SELECT first.run_id, first.created_at, row_number() OVER (ORDER BY first.created_at, first.run_id) AS place
         FROM (SELECT e.run_id, e.created_at FROM executor.executions e
               WHERE e.status = 'QUEUED' AND e.project_id = w.project_id AND e.created_at >= %(since)s
               ORDER BY e.created_at, e.run_id LIMIT %(limit)s) first) q
       WHERE w.project_id IS NOT NULL)
      ORDER BY turn, created_at LIMIT %(limit)s
    ), choice AS MATERIALIZED (
      SELECT run_id, turn = 1 OR row_number() OVER (ORDER BY turn, created_at) <= %(shared)s AS is_chosen
      FROM candidates
    ), free AS (
      SELECT run_id FROM executor.executions
      WHERE run_id IN (SELECT run_id FROM choice WHERE is_chosen)
        AND (status = 'QUEUED' OR status = 'RUNNING' AND lease_until < now())
      FOR UPDATE SKIP LOCKED
    ), claimed AS (
      UPDATE executor.executions e
      SET status = 'RUNNING', attempt = attempt + 1,
          crashes = crashes + CASE WHEN lease_owner IS NULL THEN 0 ELSE 1 END,
          lease_owner = %(owner)s, lease_until = now() + make_interval(secs => %(lease_seconds)s),
          event_number = event_number + 1, progress_completed = 0, progress_total = 0,
          started_at = now(), updated_at = now()
      WHERE e.run_id IN (SELECT run_id FROM free)
      RETURNING job, crashes, lease_owner, {of("e", STATE)}
    )
    SELECT n.*, claimed.*
    FROM (SELECT count(*) FILTER (WHERE is_chosen) AS seen, count(*) FILTER (WHERE NOT is_chosen) AS held_back
          FROM choice) n
    LEFT JOIN claimed ON true"""

    async def claim(
        self,
        *,
        owner: str,
        limit: int,
        lease_seconds: float,
        shared: int | None = None,
        since: datetime = BEGINNING,
        doubtful: int = 1,
    ) -> Claimed:
        """Take up to `limit` executions under a lease, of runs that were created at `since` or later.

        Beyond `shared` only the first runs of projects that have none at work. Up to `doubtful` may have had executors
        that died DOUBTFUL_CRASHES times.
        """
        parameters = {
            "owner": owner,
            "limit": limit,
            "shared": limit if shared is None else shared,
            "lease_seconds": lease_seconds,
            "since": since,
            "doubtful": doubtful,
        }
        rows = await self._querier.fetch_all(self._CLAIM, parameters)
        executions = [execution_of(row) for row in rows if row.run_id is not None]
        return Claimed(executions, rows[0].seen, rows[0].held_back)

    # A locked row is being written by its owner or claimed by another process. To wait for it could let the other
    # leases expire.
    _RENEW = """
    WITH ours AS (
      SELECT run_id, attempt FROM executor.executions
      WHERE run_id = ANY(CAST(%(run_ids)b AS uuid[])) AND lease_owner = %(owner)s AND status = 'RUNNING'
    ), free AS (
      SELECT run_id FROM executor.executions
      WHERE run_id IN (SELECT run_id FROM ours) AND lease_owner = %(owner)s AND status = 'RUNNING'
      FOR UPDATE SKIP LOCKED
    ), renewed AS (
      UPDATE executor.executions SET lease_until = now() + make_interval(secs => %(lease_seconds)s)
      WHERE run_id IN (SELECT run_id FROM free)
    )
    SELECT run_id, attempt FROM ours"""

    async def renew(self, run_ids: Sequence[UUID], *, owner: str, lease_seconds: float) -> set[tuple[UUID, int]]:
        """Prolong the owner's leases; return (run id, attempt) of those it still has."""
        parameters = {"run_ids": list(run_ids), "owner": owner, "lease_seconds": lease_seconds}
        return {(row.run_id, row.attempt) for row in await self._querier.fetch_all(self._RENEW, parameters)}

    _LOCK = f"SELECT ai_reserved FROM executor.executions WHERE {FENCE} FOR UPDATE"

    async def lock(self, lease: Lease) -> int:
        """Make sure that this transaction writes as the owner of the lease, up to its end.

        Returns how many suggestions are still reserved. Raises LeaseLost.
        """
        row = await self._querier.fetch_optional(self._LOCK, fence(lease))
        if row is None:
            raise lease_lost(lease)
        reserved: int = row.ai_reserved
        return reserved

    _HAND_BACK_ONE = f"UPDATE executor.executions SET {_HAND_BACK} WHERE {FENCE}"

    async def hand_back(self, lease: Lease) -> None:
        """Let others take the execution at once. The attempt does not count as a crash."""
        await self._querier.execute(self._HAND_BACK_ONE, fence(lease))

    _HAND_BACK_ALL_BUT = f"""
    UPDATE executor.executions SET {_HAND_BACK}
    WHERE status = 'RUNNING' AND lease_owner = %(owner)s AND run_id <> ALL(CAST(%(kept)b AS uuid[]))"""

    async def hand_back_all_but(self, kept: Sequence[UUID], owner: str) -> None:
        """Hand back everything the owner has, except for `kept`."""
        await self._querier.execute(self._HAND_BACK_ALL_BUT, {"kept": list(kept), "owner": owner})
