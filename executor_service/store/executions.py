# ruff: noqa: S608 - statements are put together from constants only
"""Executions: how they stand."""

from collections.abc import Sequence
from uuid import UUID

from executor_service.domain.execution import Lease, State
from executor_service.store.rows import FENCE, STATE, fence, lease_lost, state_of
from servicekit.postgres.database import Querier


class Executions:
    """Reads states and writes progress. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

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
