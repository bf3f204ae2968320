# ruff: noqa: S608 - statements are put together from constants only
"""The AI allowance: what is used of it, and what running runs have reserved."""

from datetime import date

from executor_service.domain.execution import Lease
from executor_service.store.rows import FENCE, fence
from servicekit.postgres.database import Querier


class Usage:
    """Counts suggestions. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _USED = "SELECT used FROM executor.ai_usage WHERE project_id = %(project_id)s AND day = %(day)s"

    async def used(self, project_id: str, day: date) -> int:
        """Return how many suggestions the project has used or reserved on that UTC day."""
        row = await self._querier.fetch_optional(self._USED, {"project_id": project_id, "day": day})
        return row.used if row else 0

    # The row's lock makes this atomic: two runs together cannot pass the limit.
    _TAKE = """
    INSERT INTO executor.ai_usage AS usage (project_id, day, used)
    SELECT %(project_id)s, %(day)s, %(count)s WHERE CAST(%(limit)s AS bigint) IS NULL OR %(count)s <= %(limit)s
    ON CONFLICT (project_id, day) DO UPDATE SET used = usage.used + excluded.used
    WHERE CAST(%(limit)s AS bigint) IS NULL OR usage.used + excluded.used <= %(limit)s
    RETURNING used"""

    _RESERVE = f"""
    UPDATE executor.executions
    SET ai_reserved = %(count)s, ai_reserved_day = %(day)s, ai_used = true, updated_at = now()
    WHERE {FENCE}"""

    async def reserve(self, lease: Lease, project_id: str, *, day: date, count: int, limit: int | None) -> bool:
        """Reserve suggestions for a run that has its lease and nothing reserved; return whether they fit."""
        parameters = {"project_id": project_id, "day": day, "count": count, "limit": limit}
        if await self._querier.fetch_optional(self._TAKE, parameters) is None:
            return False
        await self._querier.execute(self._RESERVE, {**fence(lease), "day": day, "count": count})
        return True

    _GIVE_BACK = f"""
    WITH reserved AS (
      SELECT project_id, ai_reserved_day AS day, ai_reserved AS count FROM executor.executions WHERE {FENCE}
    ), given_back AS (
      UPDATE executor.ai_usage usage SET used = usage.used - reserved.count
      FROM reserved WHERE usage.project_id = reserved.project_id AND usage.day = reserved.day
    )
    UPDATE executor.executions SET ai_reserved = 0 WHERE {FENCE}"""

    async def give_back(self, lease: Lease) -> None:
        """Return what a run that has its lease has reserved and not used."""
        await self._querier.execute(self._GIVE_BACK, fence(lease))
