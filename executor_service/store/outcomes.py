# ruff: noqa: S608 - statements are put together from constants only
"""Outcomes: how executions end, by their own work or from outside."""

import json
from collections.abc import Sequence
from uuid import UUID

from executor_service.domain.execution import Lease, LeaseLost, Outcome, State
from executor_service.store.rows import STATE, lease_lost, of, state_of
from servicekit.postgres.database import Querier

# What the runs in `ending` have reserved and not used goes back to the day it was taken from.
_GIVEN_BACK = """given_back AS (
      UPDATE executor.ai_usage usage SET used = usage.used - unused.count
      FROM (SELECT project_id, ai_reserved_day AS day, sum(ai_reserved) AS count FROM ending
            WHERE ai_reserved > 0 GROUP BY project_id, ai_reserved_day) unused
      WHERE usage.project_id = unused.project_id AND usage.day = unused.day
    )"""


class Outcomes:
    """Ends executions. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _FINISH = f"""
    WITH outcome AS (
      SELECT * FROM unnest(
        CAST(%(run_ids)b AS uuid[]), CAST(%(attempts)b AS int[]), CAST(%(owners)b AS text[]),
        CAST(%(started)b AS boolean[]), CAST(%(statuses)b AS text[]), CAST(%(draft_ids)b AS uuid[]),
        CAST(%(scope_ids)b AS text[]), CAST(%(rules_hashes)b AS text[]), CAST(%(results)b AS jsonb[]),
        CAST(%(totals)b AS bigint[]), CAST(%(error_codes)b AS text[]), CAST(%(error_messages)b AS text[]),
        CAST(%(ai_usages)b AS jsonb[])
      ) AS o (run_id, attempt, owner, started, status, draft_id, scope_id, rules_hash, result, total, error_code,
              error_message, ai_usage)
    ), ending AS (
      SELECT e.run_id, e.project_id, e.ai_reserved, e.ai_reserved_day
      FROM executor.executions e JOIN outcome o USING (run_id)
      WHERE e.attempt = o.attempt AND e.lease_owner = o.owner AND e.status = 'RUNNING' ORDER BY e.run_id FOR UPDATE OF e
    ), {_GIVEN_BACK}
    UPDATE executor.executions e
    SET status = o.status, draft_id = o.draft_id, scope_id = o.scope_id, rules_hash = o.rules_hash, result = o.result,
        error_code = o.error_code, error_message = o.error_message, ai_reserved = 0, lease_until = NULL,
        progress_completed = coalesce(o.total, progress_completed), progress_total = coalesce(o.total, progress_total),
        ai_usage = coalesce(o.ai_usage, e.ai_usage), attempt = e.attempt - CASE WHEN o.started THEN 0 ELSE 1 END,
        event_number = event_number + 1, finished_at = clock_timestamp(), updated_at = clock_timestamp()
    FROM outcome o WHERE e.run_id = o.run_id AND e.run_id IN (SELECT run_id FROM ending)
    RETURNING {of("e", STATE)}"""

    async def finish(self, endings: Sequence[tuple[Lease, Outcome]]) -> list[State | LeaseLost]:
        """Write how executions ended; return, in order, their last state, or LeaseLost for those that another
        attempt owns.

        What they reserved and did not use is given back. An attempt that never started does not count.
        """
        leases = [lease for lease, _ in endings]
        outcomes = [outcome for _, outcome in endings]
        parameters = {
            "run_ids": [lease.run_id for lease in leases],
            "attempts": [lease.attempt for lease in leases],
            "owners": [lease.owner for lease in leases],
            "started": [outcome.started for outcome in outcomes],
            "statuses": [outcome.status.value for outcome in outcomes],
            "draft_ids": [outcome.draft_id for outcome in outcomes],
            "scope_ids": [outcome.scope_id for outcome in outcomes],
            "rules_hashes": [outcome.rules_hash for outcome in outcomes],
            "results": [None if outcome.result is None else json.dumps(outcome.result) for outcome in outcomes],
            "ai_usages": [
                None if outcome.ai_usage is None else json.dumps(outcome.ai_usage._asdict()) for outcome in outcomes
            ],
            "totals": [outcome.total for outcome in outcomes],
            "error_codes": [outcome.error_code for outcome in outcomes],
            "error_messages": [outcome.error_message for outcome in outcomes],
        }
        finished = {row.run_id: state_of(row) for row in await self._querier.fetch_all(self._FINISH, parameters)}
        return [finished.get(lease.run_id) or lease_lost(lease) for lease in leases]

    # The owner is refused every write from here on: the execution is not RUNNING any more. A row that is locked is
    # being written, by a large APPLY for seconds: waiting for it would keep a connection that leases are renewed over.
    _END = f"""
    WITH ending AS (
      SELECT run_id, project_id, ai_reserved, ai_reserved_day FROM executor.executions
      WHERE run_id = ANY(CAST(%(run_ids)b AS uuid[])) AND status IN ('QUEUED', 'RUNNING')
      ORDER BY run_id FOR UPDATE SKIP LOCKED
    ), {_GIVEN_BACK}
    UPDATE executor.executions e
    SET status = %(status)s, error_code = %(error_code)s, error_message = %(error_message)s, ai_reserved = 0,
        lease_until = NULL, event_number = event_number + 1, finished_at = now(), updated_at = now()
    WHERE e.run_id IN (SELECT run_id FROM ending)
    RETURNING {of("e", STATE)}"""

    async def end(self, run_ids: Sequence[UUID], outcome: Outcome) -> list[State]:
        """End executions that have not ended, also those that are worked on, but for those that are being written;
        return those that this ended."""
        parameters = {
            "run_ids": list(run_ids),
            "status": outcome.status.value,
            "error_code": outcome.error_code,
            "error_message": outcome.error_message,
        }
        return [state_of(row) for row in await self._querier.fetch_all(self._END, parameters)]

    _OVERDUE = """
    SELECT run_id FROM executor.executions WHERE status = 'QUEUED' AND deadline_at < now()
    ORDER BY deadline_at LIMIT %(limit)s"""

    async def overdue(self, *, limit: int) -> list[UUID]:
        """Return executions that wait for a slot past their deadline."""
        return [row.run_id for row in await self._querier.fetch_all(self._OVERDUE, {"limit": limit})]
