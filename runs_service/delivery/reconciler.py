"""Asking the executor about runs that are silent for too long: a lost message delays a run and loses none."""

import logging

from runs_service.delivery.dispatcher import Dispatcher
from runs_service.delivery.event_applier import EventApplier
from runs_service.executor_client import ExecutorClient
from runs_service.metrics import RunsMetrics
from runs_service.store import RunStore
from servicekit.background.tasks import Ticker
from servicekit.errors import ServiceError

logger = logging.getLogger(__name__)

BATCH = 500  # runs in one call


class Reconciler(Ticker):
    """Dispatches runs again that the executor does not know; applies the events of the others that were lost."""

    def __init__(
        self,
        store: RunStore,
        executor: ExecutorClient,
        events: EventApplier,
        dispatcher: Dispatcher,
        metrics: RunsMetrics,
        *,
        interval: float | None = None,
    ) -> None:
        super().__init__(interval)
        self._store = store
        self._executor = executor
        self._events = events
        self._dispatcher = dispatcher
        self._lost_jobs = metrics.recovered.labels("lost_job")
        self._lost_events = metrics.recovered.labels("lost_event")

    async def tick(self) -> None:
        """Ask about one batch of silent runs."""
        silent = {item.run.id: item for item in await self._store.outbox.take_silent(limit=BATCH)}
        if not silent:
            return
        try:
            answer = await self._executor.reconcile(list(silent))
        except ServiceError as error:
            logger.log(self._reminder.level_for(error), "%d silent runs: %s", len(silent), error)
            return
        self._lost_events.inc(await self._events.apply(answer.events))
        if answer.unknown_run_ids:
            logger.warning("%d runs never arrived at the executor; dispatching again", len(answer.unknown_run_ids))
            self._lost_jobs.inc(len(answer.unknown_run_ids))
            self._dispatcher.dispatch([silent[run_id] for run_id in answer.unknown_run_ids])
        if len(silent) == BATCH:
            self.wake()
