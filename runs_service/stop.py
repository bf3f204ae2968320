"""Ending runs from our side: cancels, and deadlines that no executor keeps.

The executor decides: it ends a run that has not ended, in one transaction, and from then on nothing of that run is
written. Only while none can be reached is a run ended here, and told later: `stop_pending` in its row.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from playbooks.runs.v1.run_pb2 import Run

from runs_service import messages, transitions
from runs_service.events import EventApplier
from runs_service.executor_client import ExecutorClient
from runs_service.store import Dispatchable, RunStore
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError
from servicekit.lifecycle import Ticker

logger = logging.getLogger(__name__)

BATCH = 200  # runs told of in one call
RETRY_INTERVAL = 0.3  # seconds between attempts while the executor cannot be reached
DEADLINE_MARGIN = timedelta(seconds=5)  # what executors get to keep a deadline themselves


class Stopper(Ticker):
    """Tells the executor of runs that shall not go on, until it worked."""

    def __init__(
        self,
        store: RunStore,
        executor: ExecutorClient,
        events: EventApplier,
        clock: Clock,
        *,
        announce: Callable[[Sequence[Run]], None],
    ) -> None:
        super().__init__()
        self._store = store
        self._executor = executor
        self._events = events
        self._clock = clock
        self._announce = announce

    async def cancel(self, item: Dispatchable) -> None:
        """Cancel a run that has not ended. It is on record when this returns, whoever can be reached."""
        await self._store.request_stop(item.run.id)
        await self._stop([item])

    async def tick(self) -> None:
        """Tell of runs whose stop is pending."""
        items = await self._store.stops(limit=BATCH)
        if items and not await self._stop(items):
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self.wake)
        elif len(items) == BATCH:
            self.wake()

    async def _stop(self, items: Sequence[Dispatchable]) -> bool:
        try:
            told = await self._executor.cancel([messages.job(item.run, item.request_id) for item in items])
        except ServiceError as error:
            if error.reason is not Reason.EXECUTOR_UNAVAILABLE:
                raise
            logger.warning("%d runs are to be stopped: %s", len(items), error)
            await self._cancel_in_queue([item.run.id for item in items])
            self.wake()
            return False
        await self._events.apply(told)
        await self._store.mark_stopped([item.run.id for item in items])
        return True

    async def _cancel_in_queue(self, run_ids: Sequence[str]) -> None:
        def changes(run: Run) -> Sequence[Run]:
            return transitions.cancelled(run, self._clock.now())

        ended = await self._store.end(run_ids, changes)
        self._announce(ended)


class DeadlineKeeper(Ticker):
    """Ends runs whose deadline has passed and of which no executor says anything."""

    def __init__(
        self,
        store: RunStore,
        executor: ExecutorClient,
        events: EventApplier,
        clock: Clock,
        stopper: Stopper,
        *,
        announce: Callable[[Sequence[Run]], None],
    ) -> None:
        super().__init__()
        self._store = store
        self._executor = executor
        self._events = events
        self._clock = clock
        self._stopper = stopper
        self._announce = announce

    async def tick(self) -> None:
        """End one batch."""
        run_ids = await self._store.overdue(margin=DEADLINE_MARGIN, limit=BATCH)
        if not run_ids:
            return
        try:
            await self._ask(run_ids)
        except ServiceError as error:
            if error.reason is not Reason.EXECUTOR_UNAVAILABLE:
                logger.warning("%d runs are past their deadline: %s", len(run_ids), error)
                return

        def changes(run: Run) -> Sequence[Run]:
            return transitions.overdue(run, self._clock.now())

        if ended := await self._store.end(run_ids, changes):
            self._announce(ended)
            logger.warning("%d runs ended past their deadline, without a word from an executor", len(ended))
            self._stopper.wake()
        if len(run_ids) == BATCH:
            self.wake()

    async def _ask(self, run_ids: Sequence[str]) -> None:
        """Apply how runs stand at the executor: one may have ended there while its event is still on the way."""
        answer = await self._executor.reconcile(run_ids)
        await self._events.apply(answer.events)
