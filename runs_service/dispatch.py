"""Getting committed runs to the executor: over the broker, or inline. The row is the outbox."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from playbooks.executor.v1.job_pb2 import RunJobBatch

from runs_service import messages
from runs_service.inline import InlineExecution
from runs_service.store import Dispatchable, RunStore
from servicekit.batcher import Batcher
from servicekit.broker import BrokerUnavailable, Publisher
from servicekit.errors import ServiceError
from servicekit.failpoints import FailPoint, reached
from servicekit.lifecycle import Ticker

logger = logging.getLogger(__name__)

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX
BATCH = 200  # jobs in one broker message
CLOSE_TIMEOUT = 1.0  # seconds
SWEEP_INTERVAL = 5.0  # seconds
SWEEP_LIMIT = 5_000  # runs at once
SWEEP_AGE = timedelta(seconds=2)  # younger ones are on their way already


class JobPublisher:
    """Publishes runs as jobs; many at once go out in one message."""

    def __init__(self, publisher: Publisher, store: RunStore) -> None:
        self._publisher = publisher
        self._store = store
        self.batcher: Batcher[Dispatchable, None] = Batcher(self._publish, limit=BATCH)

    async def publish(self, item: Dispatchable) -> None:
        """Publish one run and note it in its row. Raises BrokerUnavailable."""
        await self.batcher.submit(item)

    async def _publish(self, items: Sequence[Dispatchable]) -> list[None]:
        body = RunJobBatch(jobs=[messages.job(item.run, item.request_id) for item in items])
        await self._publisher.publish(body.SerializeToString())
        reached(FailPoint.RUNS_AFTER_PUBLISH)
        await self._store.mark_dispatched([item.run.id for item in items])
        return [None] * len(items)


class Dispatcher:
    """Decides how a run reaches the executor.

    Without `queue` runs execute inline; with it and `fallback`, those that cannot be published do.
    """

    def __init__(self, queue: JobPublisher | None, inline: InlineExecution, *, fallback: bool) -> None:
        self._queue = queue
        self._inline = inline
        self._fallback = fallback
        self._under_way: dict[str, asyncio.Task[None]] = {}  # by run id
        self._released = asyncio.get_running_loop().create_future()

    @property
    def waits_for_end(self) -> bool:
        """Whether `dispatch` may return only when the run has ended."""
        return self._queue is None or self._fallback

    async def dispatch(self, item: Dispatchable) -> None:
        """Hand over a run that was just committed.

        Returns at once when it goes to the broker, and when the run has ended if it executes inline. A caller
        that gives up waiting does not stop the run.
        """
        task = self.dispatch_soon(item)
        if self.waits_for_end:
            await asyncio.wait([task, self._released], return_when=asyncio.FIRST_COMPLETED)

    def dispatch_soon(self, item: Dispatchable) -> asyncio.Task[None]:
        """Hand over a run in the background, unless that is under way. If it fails, the sweeper does it again."""
        run_id = item.run.id
        task = self._under_way.get(run_id)
        if task is None:
            self._under_way[run_id] = task = asyncio.create_task(self._deliver(item))
            task.add_done_callback(lambda _: self._under_way.pop(run_id))
        return task

    def release(self) -> None:
        """Let callers that wait for inline runs go: this process is about to stop, and the runs go on."""
        if not self._released.done():
            self._released.set_result(None)

    async def close(self) -> None:
        """Give publishing a moment and end the rest.

        What is not published is found by a sweeper. The executor goes on with inline runs, and the reconciler hears
        of their end.
        """
        tasks = list(self._under_way.values())
        if tasks and self._queue is not None:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, item: Dispatchable) -> None:
        try:
            if self._queue is not None:
                await self._queue.publish(item)
                return
        except (BrokerUnavailable, ServiceError) as error:
            logger.warning("run %s is not published yet: %s", item.run.id, error)
            if not self._fallback:
                return
        logger.info("[AutomationPlaybookRunsService] Queue not available, executing inline")
        await self._inline.execute(item)


class OutboxSweeper(Ticker):
    """Finds runs that were committed and never dispatched, and dispatches them."""

    def __init__(self, store: RunStore, dispatcher: Dispatcher) -> None:
        super().__init__(SWEEP_INTERVAL)
        self._store = store
        self._dispatcher = dispatcher

    async def tick(self) -> None:
        """Dispatch what lies around."""
        for item in await self._store.undispatched(older_than=SWEEP_AGE, limit=SWEEP_LIMIT):
            self._dispatcher.dispatch_soon(item)
