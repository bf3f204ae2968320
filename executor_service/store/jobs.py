# ruff: noqa: S608 - statements are put together from constants only
"""Jobs on their way in: each becomes one execution."""

from collections.abc import Sequence

from executor_service.domain.execution import Execution, Job
from executor_service.store.rows import STATE, execution_of
from servicekit.postgres.database import Querier

_JOBS = """unnest(CAST(%(run_ids)b AS uuid[]), CAST(%(project_ids)b AS text[]), CAST(%(run_types)b AS text[]),
                CAST(%(jobs)b AS bytea[]), CAST(%(created_ats)b AS timestamptz[]),
                CAST(%(deadlines)b AS timestamptz[]))"""


class Jobs:
    """Stores jobs. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _ENQUEUE = f"""
    INSERT INTO executor.executions (run_id, project_id, run_type, job, created_at, deadline_at)
    SELECT * FROM {_JOBS}
    ON CONFLICT (run_id) DO NOTHING"""

    async def enqueue(self, jobs: Sequence[Job]) -> int:
        """Insert the jobs that are not here yet; return how many."""
        return await self._querier.execute(self._ENQUEUE, _columns(jobs))

    _ENQUEUE_CLAIMED = f"""
    INSERT INTO executor.executions (run_id, project_id, run_type, job, created_at, deadline_at,
                                     status, attempt, lease_owner, lease_until, event_number, started_at)
    SELECT jobs.*, 'RUNNING', 1, %(owner)s, now() + make_interval(secs => %(lease_seconds)s), 1, now()
    FROM {_JOBS} AS jobs
    ON CONFLICT (run_id) DO NOTHING
    RETURNING job, crashes, lease_owner, {STATE}"""

    async def enqueue_claimed(self, jobs: Sequence[Job], *, owner: str, lease_seconds: float) -> list[Execution]:
        """Insert the jobs that are not here yet, under a lease already; return their executions."""
        parameters = {**_columns(jobs), "owner": owner, "lease_seconds": lease_seconds}
        return [execution_of(row) for row in await self._querier.fetch_all(self._ENQUEUE_CLAIMED, parameters)]

    _FOREIGN = """
    SELECT wanted.run_id, wanted.project_id
    FROM unnest(CAST(%(run_ids)b AS uuid[]), CAST(%(project_ids)b AS text[])) AS wanted (run_id, project_id)
    JOIN executor.executions e USING (run_id) WHERE e.project_id <> wanted.project_id"""

    async def foreign(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those of `jobs` whose run is here as another project's."""
        parameters = {"run_ids": [job.run_id for job in jobs], "project_ids": [job.project_id for job in jobs]}
        rows = await self._querier.fetch_all(self._FOREIGN, parameters)
        found = {(row.run_id, row.project_id) for row in rows}
        return [job for job in jobs if (job.run_id, job.project_id) in found]


def _columns(jobs: Sequence[Job]) -> dict[str, object]:
    jobs = sorted(jobs, key=lambda job: job.run_id)  # two that insert the same jobs cannot deadlock
    return {
        "run_ids": [job.run_id for job in jobs],
        "project_ids": [job.project_id for job in jobs],
        "run_types": [job.run_type.value for job in jobs],
        "jobs": [job.body for job in jobs],
        "created_ats": [job.created_at for job in jobs],
        "deadlines": [job.deadline for job in jobs],
    }
