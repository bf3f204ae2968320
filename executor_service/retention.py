"""How long what runs left behind is kept."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from executor_service.store.deletions import BATCH, FIRST_ID, SUGGESTIONS, Deletions
from servicekit.background.retention import INTERVAL, Retention
from servicekit.clock import Clock
from servicekit.postgres.database import Database


class ExecutorRetention(Retention):
    """Deletes what is older than it is `kept`: executions with their items, by the creation of their run; drafts, by
    their expiry; suggestions, by their last use. None: nothing is deleted."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        kept: timedelta | None,
        interval: float = INTERVAL,
        batch: int = BATCH,
        suggestions: int = SUGGESTIONS,
    ) -> None:
        super().__init__(interval)
        self._deletions = Deletions(database)
        self._clock = clock
        self._kept = kept
        self._batch = batch
        self._suggestions = suggestions

    async def batches(self) -> AsyncIterator[int]:
        """Delete all that is due now."""
        if self._kept is None:
            return
        before = self._clock.now() - self._kept
        last: UUID | None = FIRST_ID
        while last is not None:
            deleted = await self._deletions.expired_executions(before, after=last, limit=self._batch)
            last = deleted.last
            yield deleted.executions
        while drafts := await self._deletions.expired_draft(before):
            yield drafts
        while suggestions := await self._deletions.unused_suggestions(before, limit=self._suggestions):
            yield suggestions
