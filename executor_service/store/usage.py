# ruff: noqa: S608 - statements are put together from constants only
"""The AI allowance: what is used of it, and what running runs have reserved."""

from datetime import date

from sqlalchemy import text

from executor_service.domain.execution import Lease
from executor_service.store.executions import FENCE, fence
from servicekit.postgres.database import Connection

_USED = text("SELECT used FROM executor.ai_usage WHERE project_id = :project_id AND day = :day")


async def used(connection: Connection, project_id: str, day: date) -> int:
    """Return how many suggestions the project has used or reserved on that UTC day."""
    row = (await connection.execute(_USED, {"project_id": project_id, "day": day})).one_or_none()
    return row.used if row else 0


# The row's lock makes this atomic: two runs together cannot pass the limit.
_TAKE = text("""
INSERT INTO executor.ai_usage AS usage (project_id, day, used)
SELECT :project_id, :day, :count WHERE CAST(:limit AS bigint) IS NULL OR :count <= :limit
ON CONFLICT (project_id, day) DO UPDATE SET used = usage.used + excluded.used
WHERE CAST(:limit AS bigint) IS NULL OR usage.used + excluded.used <= :limit
RETURNING used""")

_RESERVE = text(f"""
UPDATE executor.executions SET ai_reserved = :count, ai_reserved_day = :day, ai_used = true, updated_at = now()
WHERE {FENCE}""")


async def reserve(
    connection: Connection, lease: Lease, project_id: str, *, day: date, count: int, limit: int | None
) -> bool:
    """Reserve suggestions for a run that holds its lease and has nothing reserved; tell whether they fit."""
    parameters = {"project_id": project_id, "day": day, "count": count, "limit": limit}
    if (await connection.execute(_TAKE, parameters)).first() is None:
        return False
    await connection.execute(_RESERVE, {**fence(lease), "day": day, "count": count})
    return True


_GIVE_BACK = text(f"""
WITH reserved AS (
  SELECT project_id, ai_reserved_day AS day, ai_reserved AS count FROM executor.executions WHERE {FENCE}
), given_back AS (
  UPDATE executor.ai_usage usage SET used = usage.used - reserved.count
  FROM reserved WHERE usage.project_id = reserved.project_id AND usage.day = reserved.day
)
UPDATE executor.executions SET ai_reserved = 0 WHERE {FENCE}""")


async def give_back(connection: Connection, lease: Lease) -> None:
    """Return what a run that holds its lease has reserved and not used."""
    await connection.execute(_GIVE_BACK, fence(lease))
