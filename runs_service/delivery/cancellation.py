"""Ending runs from our side: cancels, and deadlines that no executor keeps.

The executor decides: it ends a run that has not ended, in one transaction, and from then on nothing of that run is
written. Only while none can be reached is a run ended here, and told later: `stop_pending` in its row.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from playbooks.runs.v1.run_pb2 import Run

from runs_service import messages
from runs_service.delivery.event_applier import EventApplier
from runs_service.executor_client import ExecutorClient, ExecutorRefused
from runs_service.store import Dispatchable, RunStore
from servicekit.background.batching import packed
from servicekit.background.tasks import Ticker
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

BATCH = 100  # runs told of in one call, which has 0.8 MB at most: see messages.weight
RETRY_INTERVAL = 0.3  # seconds between attempts while the executor cannot be reached
DEADLINE_MARGIN = timedelta(seconds=5)  # what executors get to keep a deadline themselves
REFUSED_MARGIN = timedelta(seconds=60)  # the same while they refuse to say how runs stand


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
        self._reachable = True

    async def cancel(self, item: Dispatchable) -> None:
        """Cancel a run that has not ended. It is on record when this returns or raises, whoever can be reached.

        Raises ServiceError when the executor refuses to end it.
        """
        await self._store.stops.request(item.run.id)
        if not await self._told([item]):
            self.wake()

    async def tick(self) -> None:
        """Tell of runs whose stop is pending. Those that the executor refuses to end wait for the next sweep."""
        self.interval = None
        try:
            if not await self._all_told():
                self.interval = RETRY_INTERVAL
        except ExecutorRefused as error:
            logger.warning("runs are to be stopped: %s", error)

    async def _all_told(self) -> bool:
        """Return whether the executor can be reached. Raises ExecutorRefused when it refuses whatever it is told."""
        items = await self._store.stops.pending(limit=BATCH)
        while items:
            for batch in packed(items, limit=BATCH, size=lambda item: messages.weight(item.run)):
                if not await self._told_or_passed_over(batch):
                    return False
            items = await self._store.stops.pending(limit=BATCH, after=items[-1].run.id)
        return True

    async def _told_or_passed_over(self, items: Sequence[Dispatchable]) -> bool:
        """Tell of `items`, one by one when they are refused together: one that is refused holds up no other."""
        try:
            return await self._told(items)
        except ExecutorRefused as error:
            if error.whatever_it_is:
                raise
            if len(items) == 1:
                logger.warning("run %s is to be stopped: %s", items[0].run.id, error)
                return True
        for item in items:
            if not await self._told_or_passed_over([item]):
                return False
        return True

    async def _told(self, items: Sequence[Dispatchable]) -> bool:
        """Tell the executor; return whether it can be reached. Raises ExecutorRefused."""
        try:
            told = await self._executor.cancel([messages.job(item.run, item.request_id) for item in items])
        except ServiceError as error:
            if error.reason is not Reason.EXECUTOR_UNAVAILABLE:
                raise
            log = logger.warning if self._reachable else logger.debug
            log("%d runs are to be stopped: %s", len(items), error)
            self._reachable = False
            await self._cancel_in_queue([item.run.id for item in items])
            return False
        self._reachable = True
        await self._events.apply(told)
        await self._store.stops.mark_delivered([item.run.id for item in items])
        return True

    async def _cancel_in_queue(self, run_ids: Sequence[str]) -> None:
        self._announce(await self._store.history.cancel_queued(run_ids, self._clock.now()))


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
        run_ids = await self._store.stops.overdue(margin=DEADLINE_MARGIN, limit=BATCH)
        if not run_ids:
            return
        try:
            await self._ask(run_ids)
        except ExecutorRefused as error:
            logger.warning("%d runs are past their deadline: %s", len(run_ids), error)
            run_ids = await self._store.stops.overdue(margin=REFUSED_MARGIN, limit=BATCH)
        except ServiceError as error:
            if error.reason is not Reason.EXECUTOR_UNAVAILABLE:
                raise
        if ended := await self._store.history.fail_overdue(run_ids, self._clock.now()):
            self._announce(ended)
            logger.warning("%d runs ended past their deadline, without a word from an executor", len(ended))
            self._stopper.wake()
        if len(run_ids) == BATCH:
            self.wake()

    async def _ask(self, run_ids: Sequence[str]) -> None:
        """Apply how runs stand at the executor: one may have ended there while its event is still on the way."""
        answer = await self._executor.reconcile(run_ids)
        await self._events.apply(answer.events)
