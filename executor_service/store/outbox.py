# ruff: noqa: S608 - statements are put together from constants only
"""The outbox: changes of executions that were committed and are still to be published."""

from collections.abc import Sequence

from sqlalchemy import text

from executor_service.domain.execution import State
from executor_service.models import UNPUBLISHED
from executor_service.store.executions import STATE, state_of
from servicekit.postgres.database import Connection

_UNPUBLISHED = text(f"""
SELECT {STATE} FROM executor.executions
WHERE {UNPUBLISHED} AND updated_at < now() - make_interval(secs => :age)
ORDER BY updated_at LIMIT :limit""")


async def unpublished(connection: Connection, *, age: float, limit: int) -> list[State]:
    """Return executions with a change that was not published for `age` seconds, oldest first."""
    return [state_of(row) for row in await connection.execute(_UNPUBLISHED, {"age": age, "limit": limit})]


# A row that is locked is being written, by a large APPLY for seconds: nobody's note waits for that. It is found again.
_MARK_PUBLISHED = text("""
WITH told AS (
  SELECT run_id, max(number) AS number
  FROM unnest(CAST(:run_ids AS uuid[]), CAST(:numbers AS bigint[])) AS t (run_id, number) GROUP BY run_id
), locked AS MATERIALIZED (
  SELECT e.run_id, told.number FROM executor.executions e JOIN told USING (run_id)
  WHERE e.published_number < told.number FOR UPDATE OF e SKIP LOCKED
)
UPDATE executor.executions e SET published_number = locked.number
FROM locked WHERE e.run_id = locked.run_id AND e.published_number < locked.number""")


async def mark_published(connection: Connection, told: Sequence[State]) -> None:
    """Note that these states have been published, but for executions that are being written."""
    parameters = {"run_ids": [state.run_id for state in told], "numbers": [state.number for state in told]}
    await connection.execute(_MARK_PUBLISHED, parameters)
