"""How long runs are kept."""

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

from runs_service.store import RunStore
from runs_service.store.deletions import BATCH
from runs_service.store.stops import FIRST_ID
from servicekit.background.retention import INTERVAL, Retention
from servicekit.clock import Clock


class RunRetention(Retention):
    """Deletes runs, with their history, that were created longer ago than runs of their status are kept.

    `kept` has the status of what is not kept for ever. A deleted run frees its key and its call.
    """

    def __init__(
        self,
        store: RunStore,
        clock: Clock,
        *,
        kept: Mapping[str, timedelta],
        interval: float = INTERVAL,
        batch: int = BATCH,
    ) -> None:
        super().__init__(interval)
        self._store = store
        self._clock = clock
        self._kept = kept
        self._batch = batch

    async def batches(self) -> AsyncIterator[int]:
        """Go through the runs that are old enough, and delete those whose time is over."""
        now = self._clock.now()
        befores = {status: now - age for status, age in self._kept.items()}
        last: str | None = FIRST_ID
        while befores and last is not None:
            deleted = await self._store.deletions.expired(befores, after=last, limit=self._batch)
            last = deleted.last
            yield deleted.runs
