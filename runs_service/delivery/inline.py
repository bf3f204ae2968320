"""Execution without a broker: runs_service calls the executor and applies the events as they stream back."""

import logging
from contextlib import aclosing

from runs_service import messages
from runs_service.delivery.event_applier import EventApplier
from runs_service.executor_client import ExecutorClient
from runs_service.store import Dispatchable, RunStore
from servicekit.errors import ServiceError
from servicekit.telemetry import logs
from servicekit.telemetry.outages import Reminder
from servicekit.telemetry.trace_context import TraceContext, enter_trace

logger = logging.getLogger(__name__)


class InlineExecution:
    """Executes runs by calling the executor, which makes sure that none is executed twice."""

    def __init__(self, executor: ExecutorClient, store: RunStore, events: EventApplier) -> None:
        self._executor = executor
        self._store = store
        self._events = events
        self._reminder = Reminder()

    async def execute(self, item: Dispatchable) -> None:
        """Execute one run to its end.

        When the executor or the database fails, the run stays as far as it got: the sweeper or the reconciler goes on
        with it.
        """
        logs.bind(**messages.log_fields(item.run), request_id=item.request_id)
        if trace := TraceContext.parse(item.traceparent):
            enter_trace(trace)
        logger.info("[AutomationPlaybookRunsService] Queue not available, executing inline")
        arrived = False
        try:
            async with aclosing(self._executor.execute(messages.job(*item))) as events:
                async for event in events:
                    if not arrived:
                        arrived = True
                        await self._store.outbox.mark_dispatched({item.run.id: 0.0})
                    await self._events.apply([event])
        except ServiceError as error:
            logger.log(self._reminder.level_for(error.reason), "run %s goes on later: %s", item.run.id, error)
