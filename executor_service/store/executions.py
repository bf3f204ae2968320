# ruff: noqa: S608 - statements are put together from constants only
"""Executions: inbox, claims under a lease, fenced writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from executor_service.domain.execution import Execution, Job, Lease, LeaseLost, Outcome, State, Status
from servicekit.postgres.database import Connection, Row

STATE = """
  run_id, project_id, event_number, status, attempt, progress_completed, progress_total, ai_used, draft_id, scope_id,
  rules_hash, result, error_code, error_message, started_at, finished_at"""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
# Who does not pass this does not own the run any more.
FENCE = "run_id = :run_id AND attempt = :attempt AND lease_owner = :owner AND status = 'RUNNING'"


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{column.strip()}" for column in columns.split(","))


def fence(lease: Lease) -> dict[str, Any]:
    """Return the parameters of FENCE."""
    return {"run_id": lease.run_id, "attempt": lease.attempt, "owner": lease.owner}


def state_of(row: Row) -> State:
    """Return the state in a row of STATE."""
    return State(
        run_id=row.run_id,
        project_id=row.project_id,
        number=row.event_number,
        status=Status(row.status),
        attempt=row.attempt,
        completed=row.progress_completed,
        total=row.progress_total,
        ai_used=row.ai_used,
        draft_id=row.draft_id,
        scope_id=row.scope_id,
        rules_hash=row.rules_hash,
        result=row.result,
        error_code=row.error_code,
        error_message=row.error_message,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


# Inbox

_JOBS = """unnest(CAST(:run_ids AS uuid[]), CAST(:project_ids AS text[]), CAST(:run_types AS text[]),
                     CAST(:jobs AS bytea[]), CAST(:created_ats AS timestamptz[]), CAST(:deadlines AS timestamptz[]))"""
_ENQUEUE = text(f"""
INSERT INTO executor.executions (run_id, project_id, run_type, job, created_at, deadline_at)
SELECT * FROM {_JOBS}
ON CONFLICT (run_id) DO NOTHING""")


def _columns(jobs: Sequence[Job]) -> dict[str, object]:
    jobs = sorted(jobs, key=lambda job: job.run_id)  # two who insert the same jobs cannot deadlock
    return {
        "run_ids": [job.run_id for job in jobs],
        "project_ids": [job.project_id for job in jobs],
        "run_types": [job.run_type.value for job in jobs],
        "jobs": [job.body for job in jobs],
        "created_ats": [job.created_at for job in jobs],
        "deadlines": [job.deadline for job in jobs],
    }


async def enqueue(connection: Connection, jobs: Sequence[Job]) -> int:
    """Insert the jobs that are not here yet; return how many."""
    return (await connection.execute(_ENQUEUE, _columns(jobs))).rowcount


_ENQUEUE_CLAIMED = text(f"""
INSERT INTO executor.executions (run_id, project_id, run_type, job, created_at, deadline_at,
                                 status, attempt, lease_owner, lease_until, event_number, started_at)
SELECT jobs.*, 'RUNNING', 1, :owner, now() + make_interval(secs => :lease_seconds), 1, now() FROM {_JOBS} AS jobs
ON CONFLICT (run_id) DO NOTHING
RETURNING job, crashes, lease_owner, {STATE}""")


async def enqueue_claimed(
    connection: Connection, jobs: Sequence[Job], *, owner: str, lease_seconds: float
) -> list[Execution]:
    """Insert the jobs that are not here yet, under a lease already; return their executions."""
    parameters = {**_columns(jobs), "owner": owner, "lease_seconds": lease_seconds}
    return [_execution(row) for row in await connection.execute(_ENQUEUE_CLAIMED, parameters)]


# Claims

# Its executor died twice, now and before: one such run after another, so that the one that kills them is found out and
# those that only were there are not taken for it.
DOUBTFUL_CRASHES = 2
_DOUBTFUL = f"(lease_owner IS NOT NULL AND crashes >= {DOUBTFUL_CRASHES - 1})"

# Projects take turns: a project's next run comes at the place (its running ones + those before it), so one with
# 2,000 queued runs does not delay another's first. Leases that ran out come before everything. `waiting` is a loose
# index scan, one step a project, whatever the length of its queue.
_CLAIM = text(f"""
WITH RECURSIVE waiting AS (
  (SELECT project_id FROM executor.executions
   WHERE status = 'QUEUED' AND created_at >= :since ORDER BY project_id LIMIT 1)
  UNION ALL
  SELECT (SELECT e.project_id FROM executor.executions e
          WHERE e.status = 'QUEUED' AND e.created_at >= :since AND e.project_id > w.project_id
          ORDER BY e.project_id LIMIT 1)
  FROM waiting w WHERE w.project_id IS NOT NULL
), running AS (
  SELECT project_id, count(*) AS runs FROM executor.executions WHERE status = 'RUNNING' GROUP BY project_id
), candidates AS (
  (SELECT run_id, CAST(0 AS bigint) AS turn, created_at FROM executor.executions
   WHERE status = 'RUNNING' AND lease_until < now() AND created_at >= :since AND NOT {_DOUBTFUL}
   ORDER BY lease_until LIMIT :limit)
  UNION ALL
  (SELECT run_id, CAST(0 AS bigint), created_at FROM executor.executions
   WHERE status = 'RUNNING' AND lease_until < now() AND created_at >= :since AND {_DOUBTFUL}
   ORDER BY lease_until LIMIT :doubtful)
  UNION ALL
  (SELECT q.run_id, coalesce(r.runs, 0) + q.place, q.created_at
   FROM waiting w LEFT JOIN running r USING (project_id)
   CROSS JOIN LATERAL (
     SELECT first.run_id, first.created_at, row_number() OVER (ORDER BY first.created_at, first.run_id) AS place
     FROM (SELECT e.run_id, e.created_at FROM executor.executions e
           WHERE e.status = 'QUEUED' AND e.project_id = w.project_id AND e.created_at >= :since
           ORDER BY e.created_at, e.run_id LIMIT :limit) first) q
   WHERE w.project_id IS NOT NULL)
  ORDER BY turn, created_at LIMIT :limit
), free AS (
  SELECT run_id FROM executor.executions
  WHERE run_id IN (SELECT run_id FROM candidates)
    AND (status = 'QUEUED' OR status = 'RUNNING' AND lease_until < now())
  FOR UPDATE SKIP LOCKED
), claimed AS (
  UPDATE executor.executions e
  SET status = 'RUNNING', attempt = attempt + 1,
      crashes = crashes + CASE WHEN lease_owner IS NULL THEN 0 ELSE 1 END,
      lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
      event_number = event_number + 1, progress_completed = 0, progress_total = 0,
      started_at = now(), updated_at = now()
  WHERE e.run_id IN (SELECT run_id FROM free)
  RETURNING job, crashes, lease_owner, {_of("e", STATE)}
)
SELECT n.candidates, claimed.* FROM (SELECT count(*) AS candidates FROM candidates) n LEFT JOIN claimed ON true""")


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim got."""

    executions: Sequence[Execution]
    seen: int  # how many there were to be had, up to the limit; others may have taken some of them


async def claim(
    connection: Connection,
    *,
    owner: str,
    limit: int,
    lease_seconds: float,
    since: datetime = BEGINNING,
    doubtful: int = 1,
) -> Claimed:
    """Take up to `limit` executions under a lease, of runs that were created at `since` or later.

    Up to `doubtful` of them may have had executors that died DOUBTFUL_CRASHES times.
    """
    parameters = {
        "owner": owner,
        "limit": limit,
        "lease_seconds": lease_seconds,
        "since": since,
        "doubtful": doubtful,
    }
    rows = (await connection.execute(_CLAIM, parameters)).all()
    executions = [_execution(row) for row in rows if row.run_id is not None]
    return Claimed(executions, seen=rows[0].candidates)


def _execution(row: Row) -> Execution:
    return Execution(
        job_body=row.job,
        lease=Lease(row.run_id, row.attempt, row.lease_owner),
        crashes=row.crashes,
        state=state_of(row),
    )


# A row that is locked is being written by its owner, or taken from him: waiting for it would let the other leases
# run out.
_RENEW = text("""
WITH ours AS (
  SELECT run_id, attempt FROM executor.executions
  WHERE run_id = ANY(CAST(:run_ids AS uuid[])) AND lease_owner = :owner AND status = 'RUNNING'
), free AS (
  SELECT run_id FROM executor.executions
  WHERE run_id IN (SELECT run_id FROM ours) AND lease_owner = :owner AND status = 'RUNNING' FOR UPDATE SKIP LOCKED
), renewed AS (
  UPDATE executor.executions SET lease_until = now() + make_interval(secs => :lease_seconds)
  WHERE run_id IN (SELECT run_id FROM free)
)
SELECT run_id, attempt FROM ours""")


async def renew(
    connection: Connection, run_ids: Sequence[UUID], *, owner: str, lease_seconds: float
) -> set[tuple[UUID, int]]:
    """Prolong the owner's leases; return (run id, attempt) of those it still has."""
    parameters = {"run_ids": list(run_ids), "owner": owner, "lease_seconds": lease_seconds}
    return {(row.run_id, row.attempt) for row in await connection.execute(_RENEW, parameters)}


_FREE = "lease_owner = NULL, lease_until = now() - interval '1 second', updated_at = now()"
_HAND_BACK = text(f"UPDATE executor.executions SET {_FREE} WHERE {FENCE}")
_HAND_BACK_ALL_BUT = text(f"""
UPDATE executor.executions SET {_FREE}
WHERE status = 'RUNNING' AND lease_owner = :owner AND run_id <> ALL(CAST(:kept AS uuid[]))""")


async def hand_back(connection: Connection, lease: Lease) -> None:
    """Let others take the execution at once. The attempt does not count as a crash."""
    await connection.execute(_HAND_BACK, fence(lease))


async def hand_back_all_but(connection: Connection, kept: Sequence[UUID], owner: str) -> None:
    """Hand back everything the owner has, except for `kept`."""
    await connection.execute(_HAND_BACK_ALL_BUT, {"kept": list(kept), "owner": owner})


# The work

_HOLD = text(f"SELECT ai_reserved FROM executor.executions WHERE {FENCE} FOR UPDATE")


async def hold(connection: Connection, lease: Lease) -> int:
    """Make sure that this transaction writes as the owner of the lease, up to its end.

    Returns how many suggestions are still reserved. Raises LeaseLost.
    """
    reserved: int | None = (await connection.execute(_HOLD, fence(lease))).scalar_one_or_none()
    if reserved is None:
        raise _lost(lease)
    return reserved


_PROGRESS = text(f"""
UPDATE executor.executions
SET progress_completed = :completed, progress_total = :total, event_number = event_number + 1, updated_at = now()
WHERE {FENCE} RETURNING {STATE}""")


async def set_progress(connection: Connection, lease: Lease, *, completed: int, total: int) -> State:
    """Write how far the run is. Raises LeaseLost."""
    parameters = {**fence(lease), "completed": completed, "total": total}
    return _owned(lease, (await connection.execute(_PROGRESS, parameters)).one_or_none())


# Whatever the runs in `held` have reserved and not used goes back to the day it was taken from.
GIVEN_BACK = """given_back AS (
  UPDATE executor.ai_usage usage SET used = usage.used - unused.count
  FROM (SELECT project_id, ai_reserved_day AS day, sum(ai_reserved) AS count FROM held
        WHERE ai_reserved > 0 GROUP BY project_id, ai_reserved_day) unused
  WHERE usage.project_id = unused.project_id AND usage.day = unused.day
)"""

_FINISH = text(f"""
WITH outcome AS (
  SELECT * FROM unnest(
    CAST(:run_ids AS uuid[]), CAST(:attempts AS int[]), CAST(:owners AS text[]), CAST(:statuses AS text[]),
    CAST(:draft_ids AS uuid[]), CAST(:scope_ids AS text[]), CAST(:rules_hashes AS text[]), CAST(:results AS jsonb[]),
    CAST(:totals AS bigint[]), CAST(:error_codes AS text[]), CAST(:error_messages AS text[])
  ) AS o (run_id, attempt, owner, status, draft_id, scope_id, rules_hash, result, total, error_code, error_message)
), held AS (
  SELECT e.run_id, e.project_id, e.ai_reserved, e.ai_reserved_day
  FROM executor.executions e JOIN outcome o USING (run_id)
  WHERE e.attempt = o.attempt AND e.lease_owner = o.owner AND e.status = 'RUNNING' ORDER BY e.run_id FOR UPDATE OF e
), {GIVEN_BACK}
UPDATE executor.executions e
SET status = o.status, draft_id = o.draft_id, scope_id = o.scope_id, rules_hash = o.rules_hash, result = o.result,
    error_code = o.error_code, error_message = o.error_message, ai_reserved = 0, lease_until = NULL,
    progress_completed = coalesce(o.total, progress_completed), progress_total = coalesce(o.total, progress_total),
    -- that attempt was claimed to be ended, not started
    attempt = e.attempt - CASE WHEN o.error_code = 'MAX_ATTEMPTS_EXCEEDED' THEN 1 ELSE 0 END,
    event_number = event_number + 1, finished_at = clock_timestamp(), updated_at = clock_timestamp()
FROM outcome o WHERE e.run_id = o.run_id AND e.run_id IN (SELECT run_id FROM held)
RETURNING {_of("e", STATE)}""")


async def finish(connection: Connection, endings: Sequence[tuple[Lease, Outcome]]) -> list[State | LeaseLost]:
    """Write how executions ended; return, in order, their last state, or LeaseLost for those that somebody else owns.

    What they reserved and did not use is given back.
    """
    leases = [lease for lease, _ in endings]
    outcomes = [outcome for _, outcome in endings]
    parameters = {
        "run_ids": [lease.run_id for lease in leases],
        "attempts": [lease.attempt for lease in leases],
        "owners": [lease.owner for lease in leases],
        "statuses": [outcome.status.value for outcome in outcomes],
        "draft_ids": [outcome.draft_id for outcome in outcomes],
        "scope_ids": [outcome.scope_id for outcome in outcomes],
        "rules_hashes": [outcome.rules_hash for outcome in outcomes],
        "results": [None if outcome.result is None else json.dumps(outcome.result) for outcome in outcomes],
        "totals": [outcome.total for outcome in outcomes],
        "error_codes": [outcome.error_code for outcome in outcomes],
        "error_messages": [outcome.error_message for outcome in outcomes],
    }
    finished = {row.run_id: state_of(row) for row in await connection.execute(_FINISH, parameters)}
    return [finished.get(lease.run_id) or _lost(lease) for lease in leases]


# Who works on them is refused every write from here on: they are not RUNNING any more. A row that is locked is being
# written, by a large APPLY for seconds: who waited for it here would keep a connection that leases are renewed over.
_END = text(f"""
WITH held AS (
  SELECT run_id, project_id, ai_reserved, ai_reserved_day FROM executor.executions
  WHERE run_id = ANY(CAST(:run_ids AS uuid[])) AND status IN ('QUEUED', 'RUNNING')
  ORDER BY run_id FOR UPDATE SKIP LOCKED
), {GIVEN_BACK}
UPDATE executor.executions e
SET status = :status, error_code = :error_code, error_message = :error_message, ai_reserved = 0, lease_until = NULL,
    event_number = event_number + 1, finished_at = now(), updated_at = now()
WHERE e.run_id IN (SELECT run_id FROM held)
RETURNING {_of("e", STATE)}""")


async def end(connection: Connection, run_ids: Sequence[UUID], outcome: Outcome) -> list[State]:
    """End executions that have not ended, whoever works on them, but for those that are being written; return those
    that this ended."""
    parameters = {
        "run_ids": list(run_ids),
        "status": outcome.status.value,
        "error_code": outcome.error_code,
        "error_message": outcome.error_message,
    }
    return [state_of(row) for row in await connection.execute(_END, parameters)]


_OVERDUE = text("""
SELECT run_id FROM executor.executions WHERE status = 'QUEUED' AND deadline_at < now()
ORDER BY deadline_at LIMIT :limit""")


async def overdue(connection: Connection, *, limit: int) -> list[UUID]:
    """Return executions that wait for a free place past their deadline."""
    return list((await connection.execute(_OVERDUE, {"limit": limit})).scalars())


def _owned(lease: Lease, row: Row | None) -> State:
    if row is None:
        raise _lost(lease)
    return state_of(row)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"run {lease.run_id}, attempt {lease.attempt}")


# For whoever asks

_STATES = text(f"SELECT {STATE} FROM executor.executions WHERE run_id = ANY(CAST(:run_ids AS uuid[]))")


async def states(connection: Connection, run_ids: Sequence[UUID]) -> list[State]:
    """Return how the executions that are here stand."""
    return [state_of(row) for row in await connection.execute(_STATES, {"run_ids": list(run_ids)})]


_EXISTS = text("SELECT 1 FROM executor.executions WHERE run_id = :run_id AND project_id = :project_id")


async def exists(connection: Connection, project_id: str, run_id: UUID) -> bool:
    """Tell whether the project has this run."""
    parameters = {"run_id": run_id, "project_id": project_id}
    return (await connection.execute(_EXISTS, parameters)).first() is not None
