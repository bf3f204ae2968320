"""Telling runs_service how executions stand. The row is the outbox: what is not told now is found again later."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from playbooks.executor.v1.job_pb2 import RunEventBatch

from executor_service import messages
from executor_service.records import State
from executor_service.store import executions
from servicekit.broker import BrokerUnavailable, Publisher
from servicekit.database import Database
from servicekit.failpoints import FailPoint, reached
from servicekit.lifecycle import Ticker, Worker

logger = logging.getLogger(__name__)

EVENTS_QUEUE = "events"  # after BROKER_QUEUE_PREFIX
BATCH = 500  # events in one broker message
SWEEP_INTERVAL = 5.0  # seconds
SWEEP_AGE = 2.0  # seconds; younger changes are on their way already


class Reporter(Worker):
    """Publishes each change after its commit, and notes in the row that it did.

    Without a publisher (no broker) only those who subscribed in this process hear of it; runs_service reads the
    rest by ExecuteRun and ReconcileRuns.
    """

    def __init__(self, database: Database, publisher: Publisher | None) -> None:
        super().__init__()
        self._database = database
        self._publisher = publisher
        self._subscribers: defaultdict[UUID, set[asyncio.Queue[State]]] = defaultdict(set)
        self._waiting: list[State] = []
        self._arrived = asyncio.Event()
        self._reachable = True

    def report(self, state: State) -> None:
        """Tell of a change that has been committed: subscribers at once, the broker soon."""
        for queue in self._subscribers.get(state.run_id, ()):
            queue.put_nowait(state)
        self._waiting.append(state)
        self._arrived.set()

    @contextmanager
    def subscription(self, run_id: UUID) -> Iterator[asyncio.Queue[State]]:
        """Enter a queue of the changes of one run that this process makes."""
        queue: asyncio.Queue[State] = asyncio.Queue()
        self._subscribers[run_id].add(queue)
        try:
            yield queue
        finally:
            self._subscribers[run_id].discard(queue)
            if not self._subscribers[run_id]:
                del self._subscribers[run_id]

    async def run(self) -> None:
        """Publish until cancelled. What comes in meanwhile goes out with the next batch."""
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self.tell(batch)

    async def stop(self) -> None:
        """Publish what waits, then end."""
        await super().stop()
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                await self.tell(batch)
            except Exception as error:
                logger.warning("%d events stay in the outbox: %s", len(batch), error)
                return

    async def tell(self, batch: Sequence[State]) -> bool:
        """Publish changes now and note that; return whether the broker took them. Raises ServiceError."""
        if self._publisher is not None:
            reached(FailPoint.EXECUTOR_BEFORE_PUBLISH)
            body = RunEventBatch(events=[messages.event(state) for state in batch]).SerializeToString()
            try:
                await self._publisher.publish(body)
            except BrokerUnavailable as error:
                log = logger.warning if self._reachable else logger.debug
                log("%d events stay in the outbox: %s", len(batch), error)
                self._reachable = False
                return False
            self._reachable = True
            reached(FailPoint.EXECUTOR_AFTER_PUBLISH)
        async with self._database.autocommit() as connection:
            await executions.mark_published(connection, batch)
        return True


class OutboxSweeper(Ticker):
    """Finds changes that were committed and never published, and publishes them."""

    def __init__(self, database: Database, reporter: Reporter) -> None:
        super().__init__(SWEEP_INTERVAL)
        self._database = database
        self._reporter = reporter

    async def tick(self) -> None:
        """Publish what lies around."""
        more = True
        while more:
            async with self._database.autocommit() as connection:
                states = await executions.unpublished(connection, age=SWEEP_AGE, limit=BATCH)
            more = bool(states) and await self._reporter.tell(states) and len(states) == BATCH
