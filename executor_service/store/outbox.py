# ruff: noqa: S608 - statements are put together from constants only
"""The outbox: changes of executions that were committed and are still to be published."""

from collections.abc import Sequence
from datetime import timedelta

from executor_service.domain.execution import State
from executor_service.predicates import UNPUBLISHED
from executor_service.store.rows import STATE, state_of
from servicekit.postgres.database import Querier


class Outbox:
    """Finds and marks changes. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _UNPUBLISHED = f"""
    SELECT {STATE} FROM executor.executions
    WHERE {UNPUBLISHED} AND updated_at < now() - %(older_than)s
    ORDER BY updated_at LIMIT %(limit)s"""

    async def unpublished(self, *, older_than: timedelta, limit: int) -> list[State]:
        """Return executions with a change that was committed a while ago and not published since, oldest first."""
        rows = await self._querier.fetch_all(self._UNPUBLISHED, {"older_than": older_than, "limit": limit})
        return [state_of(row) for row in rows]

    # A row that is locked is being written, by a large APPLY for seconds: a mark does not wait for that. The row is
    # found again.
    _MARK_PUBLISHED = """
    WITH published AS (
      SELECT run_id, max(number) AS number
      FROM unnest(CAST(%(run_ids)b AS uuid[]), CAST(%(numbers)b AS bigint[])) AS p (run_id, number) GROUP BY run_id
    ), locked AS MATERIALIZED (
      SELECT e.run_id, published.number FROM executor.executions e JOIN published USING (run_id)
      WHERE e.published_number < published.number FOR UPDATE OF e SKIP LOCKED
    )
    UPDATE executor.executions e SET published_number = locked.number
    FROM locked WHERE e.run_id = locked.run_id AND e.published_number < locked.number"""

    async def mark_published(self, states: Sequence[State]) -> None:
        """Note that these states have been published, but for executions that are being written."""
        parameters = {"run_ids": [state.run_id for state in states], "numbers": [state.number for state in states]}
        await self._querier.execute(self._MARK_PUBLISHED, parameters)
