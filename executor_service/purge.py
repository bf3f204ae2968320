"""Deleting all of a project that is here."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from executor_service.execution.cancellation import Cancellation
from executor_service.store.deletions import Deletions
from servicekit.clock import Clock
from servicekit.postgres.database import Database

BUDGET = 3.0  # seconds of one call
PAUSE = 0.05  # seconds between attempts at runs that are being written


class Purged(NamedTuple):
    """What was deleted, by kind, and whether that was all."""

    counts: Mapping[str, int]
    complete: bool


class Purge:
    """Deletes projects, a batch at a time; a call that breaks off leaves the rest to the next one."""

    def __init__(self, database: Database, cancellation: Cancellation, clock: Clock, *, budget: float = BUDGET) -> None:
        self._database = database
        self._deletions = Deletions(database)
        self._cancellation = cancellation
        self._clock = clock
        self._budget = budget

    async def project(self, project_id: str, *, keep_plan: bool) -> Purged:
        """Delete a project until nothing is left, or the time of one call is over. Raises ServiceError.

        With `keep_plan` its row stays, with its plan, its limit and today's AI usage.
        """
        counts: Counter[str] = Counter()
        clock = asyncio.get_running_loop().time
        until = clock() + self._budget
        while run_ids := await self._deletions.active(project_id):
            await self._cancellation.cancel_known(run_ids)
            if clock() > until:
                return Purged(counts, complete=False)
            await asyncio.sleep(PAUSE)  # those that are being written end by themselves
        for kind in Deletions.KINDS:
            while deleted := await self._batch(kind, project_id):
                counts[kind] += deleted
                if clock() > until:
                    return Purged(counts, complete=False)
        async with self._database.transaction() as connection:
            today = self._clock.now().date()
            counts["projects"] = await Deletions(connection).project(project_id, keep_plan=keep_plan, today=today)
        return Purged(counts, complete=True)

    async def _batch(self, kind: str, project_id: str) -> int:
        async with self._database.transaction() as connection:
            return await Deletions(connection).of_project(kind, project_id)
