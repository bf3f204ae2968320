# ruff: noqa: S608 - statements are put together from constants only
"""Executions: jobs as they come in, and how they stand."""

from collections.abc import Sequence
from uuid import UUID

from executor_service.domain.execution import Execution, Job, Lease, State
from executor_service.store.rows import FENCE, STATE, execution_of, fence, lease_lost, state_of
from servicekit.postgres.database import Querier

_JOBS = """unnest(CAST(%(run_ids)b AS uuid[]), CAST(%(project_ids)b AS text[]), CAST(%(run_types)b AS text[]),
                CAST(%(jobs)b AS bytea[]), CAST(%(created_ats)b AS timestamptz[]),
                CAST(%(deadlines)b AS timestamptz[]))"""


class Executions:
    """The inbox and the states. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # Inbox

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

    # States

    _PROGRESS = f"""
    UPDATE executor.executions
    SET progress_completed = %(completed)s, progress_total = %(total)s, event_number = event_number + 1,
        updated_at = now()
    WHERE {FENCE} RETURNING {STATE}"""

    async def set_progress(self, lease: Lease, *, completed: int, total: int) -> State:
        """Write how far the run is. Raises LeaseLost."""
        parameters = {**fence(lease), "completed": completed, "total": total}
        row = await self._querier.fetch_optional(self._PROGRESS, parameters)
        if row is None:
            raise lease_lost(lease)
        return state_of(row)

    _STATES = f"SELECT {STATE} FROM executor.executions WHERE run_id = ANY(CAST(%(run_ids)b AS uuid[]))"

    async def states(self, run_ids: Sequence[UUID]) -> list[State]:
        """Return how the executions that are here stand."""
        return [state_of(row) for row in await self._querier.fetch_all(self._STATES, {"run_ids": list(run_ids)})]

    _EXISTS = "SELECT 1 FROM executor.executions WHERE run_id = %(run_id)s AND project_id = %(project_id)s"

    async def exists(self, project_id: str, run_id: UUID) -> bool:
        """Whether the project has this run."""
        parameters = {"run_id": run_id, "project_id": project_id}
        return await self._querier.fetch_optional(self._EXISTS, parameters) is not None


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
