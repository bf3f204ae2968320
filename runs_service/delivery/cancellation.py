"""Cancelling runs at the executor.

The executor decides: it ends a run that has not ended, in one transaction, and nothing of that run is written after
that. Only while no executor can be reached is a QUEUED run ended here, and the cancel is sent later: `stop_pending` in
its row.
"""

import logging
from collections.abc import Sequence

from runs_service import messages
from runs_service.delivery.event_applier import EventApplier
from runs_service.executor_client import ExecutorClient, ExecutorRefused
from runs_service.store import Dispatchable, RunStore
from servicekit.background.batching import packed
from servicekit.background.tasks import Ticker
from servicekit.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

BATCH = 100  # runs in one call, which has 0.8 MB at most: see messages.weight
RETRY_INTERVAL = 0.3  # seconds between attempts while the executor cannot be reached


class Canceller(Ticker):
    """Sends cancels to the executor until it has answered them."""

    def __init__(
        self,
        store: RunStore,
        executor: ExecutorClient,
        events: EventApplier,
        *,
        interval: float | None = None,
        batch: int = BATCH,
    ) -> None:
        super().__init__(interval)
        self._store = store
        self._executor = executor
        self._events = events
        self._batch = batch

    async def cancel(self, item: Dispatchable) -> None:
        """Cancel a run that has not ended. The request is stored when this returns or raises, also without an executor.

        Raises ServiceError when the executor refuses to end the run.
        """
        await self._store.stops.request(item.run.id)
        if not await self._send([item]):
            self.wake()

    async def tick(self) -> float | None:
        """Send pending cancels. Those that the executor rejects wait for the next round."""
        try:
            return None if await self._send_pending() else RETRY_INTERVAL
        except ExecutorRefused as error:
            logger.log(self._reminder.level_for("systemic"), "no cancel can be sent: %s", error)
            return None

    async def _send_pending(self) -> bool:
        """Return whether the executor can be reached. Raises ExecutorRefused when it would refuse every cancel."""
        items = await self._store.stops.pending(limit=self._batch)
        while items:
            for batch in packed(items, limit=self._batch, size=lambda item: messages.weight(item.run)):
                if not await self._send_isolating_failures(batch):
                    return False
            items = await self._store.stops.pending(limit=self._batch, after=items[-1].run.id)
        return True

    async def _send_isolating_failures(self, items: Sequence[Dispatchable]) -> bool:
        """Send `items`, one by one when they are rejected together: one that is rejected delays no other."""
        try:
            return await self._send(items)
        except ExecutorRefused as error:
            if error.is_systemic:
                raise
            if len(items) == 1:
                run_id = items[0].run.id
                logger.log(
                    self._reminder.level_for(run_id), "executor rejected the cancel of run %s: %s", run_id, error
                )
                return True
        for item in items:
            if not await self._send_isolating_failures([item]):
                return False
        return True

    async def _send(self, items: Sequence[Dispatchable]) -> bool:
        """Send cancels; return whether the executor can be reached. Raises ExecutorRefused."""
        try:
            events = await self._executor.cancel([messages.job(*item) for item in items])
        except ServiceError as error:
            if error.reason is not Reason.EXECUTOR_UNAVAILABLE:
                raise  # a refusal is not an outage
            logger.log(self._reminder.level_for(error), "%d cancels wait for an executor: %s", len(items), error)
            await self._events.cancel_queued([item.run.id for item in items])
            return False
        await self._events.apply(events)
        await self._store.stops.mark_delivered([item.run.id for item in items])
        return True
