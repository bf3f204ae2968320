"""Getting committed runs to the executor: over the broker, or inline. The row is the outbox."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

from playbooks.executor.v1.job_pb2 import RunJobBatch

from runs_service import messages
from runs_service.delivery.inline import InlineExecution
from runs_service.store import Dispatchable, RunStore
from servicekit.background.batching import Batcher, Conflator, packed
from servicekit.background.tasks import Ticker
from servicekit.broker import BrokerUnavailable, Publisher
from servicekit.failpoints import FailPoint, reached

logger = logging.getLogger(__name__)

JOBS_QUEUE = "jobs"  # after BROKER_QUEUE_PREFIX
BATCH = 500  # jobs in one broker message, which has 4 MB at most: see messages.weight
MARKS = 5_000  # rows marked with one statement
MARK_PAUSE = 0.2  # seconds; far below SWEEP_AGE
CLOSE_TIMEOUT = 1.0  # seconds
SWEEP_LIMIT = 5_000  # runs at once
SWEEP_AGE = timedelta(seconds=2)  # younger ones are on their way already
FALLBACK_AFTER = 0.5  # seconds that a publish may take before its run executes inline


class JobPublisher:
    """Publishes runs as jobs; many at once go out in one message. Needs `marks` and `batcher` to run."""

    def __init__(self, publisher: Publisher, store: RunStore) -> None:
        self._publisher = publisher
        self.marks = _Marks(store)
        self.batcher: Batcher[Sequence[Dispatchable], None] = Batcher(self._publish, limit=BATCH, size=_weight)

    def publish(self, items: Sequence[Dispatchable]) -> asyncio.Future[None]:
        """Publish runs that fit into one message, and note it in their rows when there is time. The result raises
        BrokerUnavailable."""
        return self.batcher.submit(items)

    async def _publish(self, groups: Sequence[Sequence[Dispatchable]]) -> list[None]:
        items = [item for group in groups for item in group]
        body = RunJobBatch(jobs=[messages.job(item.run, item.request_id) for item in items])
        try:
            await self._publisher.publish(body.SerializeToString())
        except BrokerUnavailable as error:
            logger.warning("%d runs are not published yet: %s", len(items), error)
            raise
        reached(FailPoint.RUNS_AFTER_PUBLISH)
        published = asyncio.get_running_loop().time()
        self.marks.put({item.run.id: published for item in items})
        return [None] * len(groups)


class _Marks(Conflator[str, float]):
    """Notes which runs were published, and when by the loop's clock.

    Nothing waits for that: at worst one is published a second time.
    """

    def __init__(self, store: RunStore) -> None:
        super().__init__(limit=MARKS, pause=MARK_PAUSE)
        self._store = store

    async def handle(self, batch: Mapping[str, float]) -> None:
        """Note one batch."""
        now = asyncio.get_running_loop().time()
        await self._store.outbox.mark_dispatched({run_id: now - published for run_id, published in batch.items()})


class Dispatcher:
    """Decides how a run reaches the executor.

    Without `queue` runs execute inline; with it and `fallback`, those that cannot be published do.
    """

    def __init__(self, queue: JobPublisher | None, inline: InlineExecution, *, fallback: bool) -> None:
        self._queue = queue
        self._inline = inline
        self._fallback = fallback
        self._under_way: dict[str, asyncio.Future[None]] = {}  # by run id
        self._released = asyncio.get_running_loop().create_future()
        self._closed = False

    @property
    def waits_for_end(self) -> bool:
        """Whether `handed_over` may wait for the end of the run."""
        return self._queue is None or self._fallback

    def dispatch(self, items: Sequence[Dispatchable]) -> None:
        """Hand over committed runs in the background, except those that are on their way already.

        What cannot be published executes inline with the fallback; without it the sweeper comes back to it.
        """
        items = [item for item in items if item.run.id not in self._under_way]
        if self._closed:
            return
        if self._queue is None:
            for item in items:
                self._execute_inline(item)
            return
        for batch in packed(items, limit=BATCH, size=lambda item: messages.weight(item.run)):
            self._publish(self._queue, batch)

    async def handed_over(self, run_id: str) -> None:
        """Return when a dispatched run is at the broker or given up on, and when it has ended if it executes inline.

        Returns at once when this process is about to stop. A caller that gives up waiting does not stop the run.
        """
        # The broker first, then perhaps inline.
        while not self._released.done() and (under_way := self._under_way.get(run_id)):
            await asyncio.wait([under_way, self._released], return_when=asyncio.FIRST_COMPLETED)

    def release(self) -> None:
        """Let callers that wait for inline runs go: this process is about to stop, and the runs go on."""
        if not self._released.done():
            self._released.set_result(None)

    async def close(self) -> None:
        """Give publishing a moment and end the rest.

        What is not published is found by a sweeper. The executor goes on with inline runs, and the reconciler hears
        of their end.
        """
        self._closed = True
        self.release()
        under_way = list(self._under_way.values())
        if under_way and self._queue is not None:
            await asyncio.wait(under_way, timeout=CLOSE_TIMEOUT)
        for future in under_way:
            future.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def _publish(self, queue: JobPublisher, items: Sequence[Dispatchable]) -> None:
        publication = queue.publish(items)
        self._under_way |= {item.run.id: publication for item in items}
        publication.add_done_callback(lambda done: self._published(items, done))
        if self._fallback:
            # Should they be published after all, the executor sees that it has the runs already.
            asyncio.get_running_loop().call_later(FALLBACK_AFTER, publication.cancel)

    def _published(self, items: Sequence[Dispatchable], publication: asyncio.Future[None]) -> None:
        for item in items:
            del self._under_way[item.run.id]
        failed = publication.cancelled() or publication.exception() is not None
        if failed and self._fallback and not self._released.done():
            for item in items:
                self._execute_inline(item)

    def _execute_inline(self, item: Dispatchable) -> None:
        run_id = item.run.id
        self._under_way[run_id] = task = asyncio.create_task(self._inline.execute(item))
        task.add_done_callback(lambda _: self._under_way.pop(run_id))


def _weight(items: Sequence[Dispatchable]) -> int:
    return sum(messages.weight(item.run) for item in items)


class OutboxSweeper(Ticker):
    """Dispatches runs that were committed and never dispatched."""

    def __init__(self, store: RunStore, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._store = store
        self._dispatcher = dispatcher

    async def tick(self) -> None:
        """Dispatch what lies around."""
        self._dispatcher.dispatch(await self._store.outbox.undispatched(older_than=SWEEP_AGE, limit=SWEEP_LIMIT))
