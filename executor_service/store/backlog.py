# ruff: noqa: S608 - statements are put together from constants only
"""How much waits: for the metrics."""

from collections.abc import Mapping

from executor_service.predicates import UNPUBLISHED
from servicekit.postgres.database import Querier

LIMIT = 100_000  # rows that are counted; what is beyond adds nothing to the decision that there are too many


class Backlog:
    """Measures what has not ended. Takes where statements run: the database."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    # Over partial indexes of what has not ended: executions_queued (or _overdue), _running, _unpublished.
    _SIZES = f"""
    SELECT queued.count AS inbox, greatest(extract(epoch FROM now() - queued.oldest), 0) AS oldest_inbox,
           expired.count AS leases_expired,
           unpublished.count AS unpublished,
           greatest(extract(epoch FROM now() - unpublished.oldest), 0) AS oldest_unpublished
    FROM (SELECT count(*), min(created_at) AS oldest
          FROM (SELECT created_at FROM executor.executions WHERE status = 'QUEUED' LIMIT {LIMIT}) AS rows) AS queued,
         (SELECT count(*)
          FROM (SELECT FROM executor.executions
                WHERE status = 'RUNNING' AND lease_until < now() LIMIT {LIMIT}) AS rows) AS expired,
         (SELECT count(*), min(updated_at) AS oldest
          FROM (SELECT updated_at FROM executor.executions
                WHERE {UNPUBLISHED} ORDER BY updated_at LIMIT {LIMIT}) AS rows) AS unpublished"""

    async def sizes(self) -> Mapping[str, float]:
        """Return how many runs wait, how many leases have run out and how many changes are unpublished, by the names of
        the columns; ages in seconds.

        At most LIMIT of each are counted. Raises ServiceError.
        """
        row = await self._querier.fetch_one(self._SIZES)
        return {name: float(value) for name, value in row._asdict().items()}
