"""Ending runs whose deadline has passed and that no executor has ended."""

import logging
from collections.abc import Sequence
from datetime import timedelta

from runs_service.delivery.cancellation import Canceller
from runs_service.delivery.event_applier import EventApplier
from runs_service.executor_client import ExecutorClient, ExecutorRefused
from runs_service.store import RunStore
from servicekit.background.tasks import Ticker
from servicekit.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

BATCH = 100  # runs ended by one round
DEADLINE_MARGIN = timedelta(seconds=5)  # time for executors to keep a deadline themselves
REFUSED_MARGIN = timedelta(seconds=60)  # the same while the executor refuses to say how runs stand


class DeadlineKeeper(Ticker):
    """Ends runs that are past their deadline and of which no executor reports the end."""

    def __init__(
        self,
        store: RunStore,
        executor: ExecutorClient,
        events: EventApplier,
        canceller: Canceller,
        *,
        interval: float | None = None,
        batch: int = BATCH,
    ) -> None:
        super().__init__(interval)
        self._store = store
        self._executor = executor
        self._events = events
        self._canceller = canceller
        self._batch = batch

    async def tick(self) -> None:
        """End one batch."""
        run_ids = await self._store.stops.overdue(margin=DEADLINE_MARGIN, limit=self._batch)
        if not run_ids:
            return
        try:
            await self._reconcile(run_ids)
        except ExecutorRefused as error:
            level = self._reminder.level_for(error.message)
            logger.log(level, "%d runs are past their deadline: %s", len(run_ids), error)
            run_ids = await self._store.stops.overdue(margin=REFUSED_MARGIN, limit=self._batch)
        except ServiceError as error:
            if error.reason is not Reason.EXECUTOR_UNAVAILABLE:
                raise
        if count := await self._events.fail_overdue(run_ids):
            logger.warning("%d runs ended past their deadline without a report from an executor", count)
            self._canceller.wake()
        if len(run_ids) == self._batch:
            self.wake()

    async def _reconcile(self, run_ids: Sequence[str]) -> None:
        """Apply how runs stand at the executor: one may have ended there while its event is still on the way."""
        answer = await self._executor.reconcile(run_ids)
        await self._events.apply(answer.events)
