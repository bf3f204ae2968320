# ruff: noqa: S608 - statements are put together from constants only
"""Jobs on their way in: each becomes one execution."""

from collections.abc import Sequence

from sqlalchemy import text

from executor_service.domain.execution import Execution, Job
from executor_service.store.executions import STATE, execution_of
from servicekit.postgres.database import Connection

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
    return [execution_of(row) for row in await connection.execute(_ENQUEUE_CLAIMED, parameters)]


_FOREIGN = text("""
SELECT wanted.run_id, wanted.project_id
FROM unnest(CAST(:run_ids AS uuid[]), CAST(:project_ids AS text[])) AS wanted (run_id, project_id)
JOIN executor.executions e USING (run_id) WHERE e.project_id <> wanted.project_id""")


async def foreign(connection: Connection, jobs: Sequence[Job]) -> list[Job]:
    """Return those of `jobs` whose run is here as another project's."""
    parameters = {"run_ids": [job.run_id for job in jobs], "project_ids": [job.project_id for job in jobs]}
    found = {(row.run_id, row.project_id) for row in await connection.execute(_FOREIGN, parameters)}
    return [job for job in jobs if (job.run_id, job.project_id) in found]
