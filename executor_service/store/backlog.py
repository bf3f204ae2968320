# ruff: noqa: S608 - statements are put together from constants only
"""How much waits: for the metrics."""

from collections.abc import Mapping

from executor_service.predicates import UNPUBLISHED
from servicekit.postgres.database import Querier

LIMIT = 100_000  # rows that are counted; what is beyond adds nothing to the decision that there are too many


class Backlog:
    """Measures what has not ended, and counts at most `limit` of each. Takes where statements run: the database."""

    def __init__(self, querier: Querier, *, limit: int = LIMIT) -> None:
        self._querier = querier
        self._limit = limit

    # Over partial indexes of what has not ended: executions_queued (or _overdue), _running, _unpublished. `first` has
    # each project's oldest run in the queue: a loose index scan, one step a project, as claims make it.
    _SIZES = f"""
    WITH RECURSIVE first AS (
      (SELECT project_id, created_at FROM executor.executions
       WHERE status = 'QUEUED' ORDER BY project_id, created_at LIMIT 1)
      UNION ALL
      SELECT next.project_id, next.created_at
      FROM first, LATERAL (
        SELECT e.project_id, e.created_at FROM executor.executions e
        WHERE e.status = 'QUEUED' AND e.project_id > first.project_id ORDER BY e.project_id, e.created_at LIMIT 1) next
    )
    SELECT queued.count AS inbox,
           (SELECT greatest(extract(epoch FROM now() - min(created_at)), 0) FROM first) AS oldest_inbox,
           expired.count AS leases_expired,
           unpublished.count AS unpublished,
           greatest(extract(epoch FROM now() - unpublished.oldest), 0) AS oldest_unpublished
    FROM (SELECT count(*)
          FROM (SELECT FROM executor.executions WHERE status = 'QUEUED' LIMIT %(limit)s) AS rows) AS queued,
         (SELECT count(*)
          FROM (SELECT FROM executor.executions
                WHERE status = 'RUNNING' AND lease_until < now() LIMIT %(limit)s) AS rows) AS expired,
         (SELECT count(*), min(updated_at) AS oldest
          FROM (SELECT updated_at FROM executor.executions
                WHERE {UNPUBLISHED} ORDER BY updated_at LIMIT %(limit)s) AS rows) AS unpublished"""

    async def sizes(self) -> Mapping[str, float]:
        """Return how many runs wait, how many leases have run out and how many changes are unpublished, by the names of
        the columns; ages in seconds, which are those of all that wait. Raises ServiceError.
        """
        row = await self._querier.fetch_one(self._SIZES, {"limit": self._limit})
        return {name: float(value) for name, value in row._asdict().items()}
