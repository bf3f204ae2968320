"""The row is the outbox: a committed run without a dispatch is dispatched again."""

from runs_service.delivery.dispatcher import Dispatcher
from runs_service.metrics import RunsMetrics
from runs_service.store import RunStore
from servicekit.background.outbox import SWEEP_AGE
from servicekit.background.tasks import Ticker

SWEEP_LIMIT = 5_000  # runs dispatched by one sweep


class OutboxSweeper(Ticker):
    """Dispatches runs that were committed and never dispatched."""

    def __init__(
        self, store: RunStore, dispatcher: Dispatcher, metrics: RunsMetrics, *, interval: float | None = None
    ) -> None:
        super().__init__(interval)
        self._store = store
        self._dispatcher = dispatcher
        self._undispatched = metrics.recovered.labels("undispatched")

    async def tick(self) -> None:
        """Dispatch one batch of them."""
        undispatched = await self._store.outbox.undispatched(older_than=SWEEP_AGE, limit=SWEEP_LIMIT)
        self._undispatched.inc(len(undispatched))
        self._dispatcher.dispatch(undispatched)
