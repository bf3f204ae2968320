# ruff: noqa: S608 - statements are put together from constants only
"""How much waits: for the metrics."""

from collections.abc import Mapping

from runs_service.predicates import ACTIVE, STOP_PENDING
from servicekit.postgres.database import Database

LIMIT = 100_000  # rows that are counted; what is beyond adds nothing to the decision that there are too many


class Backlog:
    """Measures what has not ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Over partial indexes of what has not ended: runs_overdue, runs_to_stop.
    _SIZES = f"""
    SELECT count(*) FILTER (WHERE status = 'QUEUED') AS queued,
           count(*) FILTER (WHERE status = 'RUNNING') AS running,
           greatest(extract(epoch FROM now() - min(created_at) FILTER (WHERE status = 'QUEUED')), 0) AS oldest_queued,
           count(*) FILTER (WHERE status = 'QUEUED' AND dispatched_at IS NULL) AS undispatched,
           (SELECT count(*) FROM (SELECT FROM runs.runs WHERE {STOP_PENDING} LIMIT {LIMIT}) AS stops) AS stops_pending
    FROM (SELECT status, created_at, dispatched_at FROM runs.runs
          WHERE {ACTIVE} ORDER BY deadline_at LIMIT {LIMIT}) AS active"""

    async def sizes(self) -> Mapping[str, float]:
        """Return how many runs are queued, running and undispatched, and how many cancels are pending, by these names;
        under `oldest_queued` the age of the oldest queued run in seconds.

        At most LIMIT of each are counted, those whose deadline comes first. Raises ServiceError.
        """
        row = await self._database.fetch_one(self._SIZES)
        return {name: float(value) for name, value in row._asdict().items()}
